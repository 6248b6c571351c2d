//! A table of patterns: which of many patterns match a topic, without trying every pattern.
//!
//! ```text
//! a*   a/{id}   a/{user}/x   {+all}
//!
//! start --{+}--> (1)                      ends {+all}
//!   |
//!   +--- a ----> (2)                      ends a*: the rest of the topic does not matter
//!                 |
//!                 +-- / --> (3) --{}--> (4)            ends a/{id}
//!                                        |
//!                                        +-- /x --> (5)   ends a/{user}/x
//! ```
//!
//! Patterns with a common beginning share its nodes. A topic is read once, byte by byte. A **state** is where
//! the bytes so far can lead to, and each byte moves all states. Text alone leads to one state, because a
//! node has at most one child for each byte. The node of a variable is a state for as long as its value may
//! go on, beside the states that its end has led to.
//!
//! **The work of a walk is bounded by construction.** Each node knows how many states there can be in its
//! part of the tree at one time ([`Bounds`]). A pattern with which the whole tree could have more than
//! [`MAX_STATES`] is not taken. For patterns as they are usually written the number is small, and does not
//! depend on how many there are: a topic continues with one of several texts, so texts are a choice and not a
//! sum.

use std::cell::Cell;

use memchr::memchr;
use smallvec::SmallVec;

use self::node::{Bounds, Kind, Node};
use super::Pattern;
use super::template::{Class, Element, class_of, is_escape};
use crate::slots::{NO_SLOT, Slots};

mod node;
#[cfg(test)]
mod tests;

/// The most states of one walk at one time. A topic has at most
/// [`MAX_TOPIC_BYTES`](crate::event::MAX_TOPIC_BYTES), so the costliest topic takes about a tenth of a
/// millisecond in the costliest table.
pub const MAX_STATES: usize = 32;

/// The most states that a pattern of a request may have alone. Ordinary templates have one or two. A client
/// with a few templates of many states would leave no room for those of others.
pub const MAX_STATES_OF_ONE: usize = 8;

/// The node that every walk starts at. It is never removed.
const START: u32 = 0;

/// Values by pattern.
///
/// Patterns that differ only in the names of their variables are one pattern here.
pub struct PatternTable<V> {
    nodes: Slots<Node>,
    entries: Slots<Entry<V>>,
    /// What the nodes have allocated, in bytes.
    node_bytes: usize,
    /// What the patterns occupy, in bytes.
    pattern_bytes: usize,
    /// Rises with every byte that is walked.
    clock: Cell<u64>,
}

struct Entry<V> {
    pattern: Pattern,
    value: V,
    node: u32,
}

/// One pattern of a table, for as long as it is there. The key of a pattern that was removed may be given to
/// another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PatternKey(u32);

/// A pattern is not taken, because looking up a topic could take too much work together with the patterns
/// that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuchWork;

/// What a walk took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// States that were moved by one byte.
    pub steps: usize,
    /// The most states at one time.
    pub states: usize,
}

impl<V> Default for PatternTable<V> {
    fn default() -> PatternTable<V> {
        PatternTable::new()
    }
}

impl<V> PatternTable<V> {
    /// A table without a pattern.
    pub fn new() -> PatternTable<V> {
        PatternTable {
            nodes: Slots::new(),
            entries: Slots::new(),
            node_bytes: 0,
            pattern_bytes: 0,
            clock: Cell::new(0),
        }
    }

    /// How many patterns there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The memory of the table in bytes, with the texts of its patterns, without what values have allocated.
    pub fn bytes(&self) -> usize {
        self.nodes.bytes() + self.entries.bytes() + self.node_bytes + self.pattern_bytes
    }

    /// The most memory that a table takes for this pattern, in bytes, beside what others share with it and
    /// without what its value has allocated.
    pub(crate) fn bytes_at_most(pattern: &Pattern) -> usize {
        // A variable, and the text behind it, are a node each. A text that is divided is one more.
        let variables = pattern.as_str().matches('{').count();
        let nodes = 2 * variables + 2;
        // A list of children may have twice the room that it needs.
        let node_bytes = Slots::<Node>::ENTRY_BYTES + 4 * size_of::<(u8, u32)>();
        let text_bytes = 2 * pattern.as_str().len();
        Slots::<Entry<V>>::ENTRY_BYTES + pattern.bytes() + nodes * node_bytes + text_bytes
    }

    /// The most states that a walk can have at one time.
    pub fn states(&self) -> usize {
        self.nodes.get(START).map_or(0, |start| start.bounds.once as usize)
    }

    /// Adds a pattern.
    ///
    /// # Errors
    /// A walk could have more than [`MAX_STATES`] states with it. Nothing has changed then.
    ///
    /// # Panics
    /// A pattern of this form is in the table ([`PatternTable::find`] says so), or the table has 2^32 nodes.
    pub fn insert(&mut self, pattern: Pattern, value: V) -> Result<PatternKey, TooMuchWork> {
        let key = self.insert_unbounded(pattern, value);
        if self.states() > MAX_STATES {
            self.remove(key);
            return Err(TooMuchWork);
        }
        Ok(key)
    }

    /// Removes a pattern, and gives its value.
    ///
    /// # Panics
    /// The pattern is not in the table.
    pub fn remove(&mut self, key: PatternKey) -> V {
        let Entry { pattern, value, node } = self.entries.remove(key.0);
        self.pattern_bytes -= pattern.bytes();
        if self.entries.is_empty() {
            (self.nodes, self.node_bytes) = (Slots::new(), 0);
            return value;
        }
        self.change(node, |node| *node.slot_mut(&pattern) = NO_SLOT);
        self.tidy(node);
        value
    }

    /// The pattern of this form.
    pub fn find(&self, pattern: &Pattern) -> Option<PatternKey> {
        let mut at = START;
        let mut node = self.nodes.get(START)?;
        let mut matched = 0;
        for element in pattern.elements() {
            (at, matched) = match element {
                Element::Byte(byte) if node.text.get(matched) == Some(&byte) => (at, matched + 1),
                _ if matched < node.text.len() => return None,
                Element::Byte(byte) => (node.child(byte)?, 1),
                Element::Simple => (some(node.simple)?, 0),
                Element::Reserved => (some(node.reserved)?, 0),
            };
            node = &self.nodes[at];
        }
        if matched < node.text.len() { None } else { some(node.slot(pattern)).map(PatternKey) }
    }

    /// The value of a pattern.
    pub fn get(&self, key: PatternKey) -> Option<&V> {
        self.entries.get(key.0).map(|entry| &entry.value)
    }

    /// The value of a pattern, to be changed.
    pub fn get_mut(&mut self, key: PatternKey) -> Option<&mut V> {
        self.entries.get_mut(key.0).map(|entry| &mut entry.value)
    }

    /// The pattern of a key, with the names that it was added with.
    pub fn pattern(&self, key: PatternKey) -> Option<&Pattern> {
        self.entries.get(key.0).map(|entry| &entry.pattern)
    }

    /// All patterns with their values.
    pub fn iter(&self) -> impl Iterator<Item = (PatternKey, &Pattern, &V)> {
        self.entries.iter().map(|(slot, entry)| (PatternKey(slot), &entry.pattern, &entry.value))
    }

    /// Gives each pattern that matches the topic, once, in no order.
    pub fn matching(&self, topic: &str, mut found: impl FnMut(PatternKey)) -> Work {
        if self.entries.is_empty() {
            return Work::default();
        }
        let (nodes, now) = (&self.nodes, self.clock.get());
        let has_escapes = memchr(b'%', topic.as_bytes()).is_some();
        let mut walk = Walk { nodes, now, has_escapes, found: SmallVec::new(), work: Work::default() };
        walk.read(topic.as_bytes());
        self.clock.set(walk.now);
        walk.found.iter().for_each(|slot| found(PatternKey(*slot)));
        walk.work
    }

    /// Checks what must always hold; for tests.
    ///
    /// # Panics
    /// It does not hold.
    pub fn check(&self) {
        let heap: usize = self.nodes.iter().map(|(_, node)| node.heap_bytes()).sum();
        assert_eq!(self.node_bytes, heap, "bytes of the nodes");
        let texts: usize = self.entries.iter().map(|(_, entry)| entry.pattern.bytes()).sum();
        assert_eq!(self.pattern_bytes, texts, "bytes of the patterns");
        for (slot, entry) in self.entries.iter() {
            assert_eq!(self.find(&entry.pattern), Some(PatternKey(slot)), "{} is found", entry.pattern);
            assert_eq!(
                self.nodes[entry.node].slot(&entry.pattern),
                slot,
                "{} ends at its node",
                entry.pattern
            );
        }
        for (at, node) in self.nodes.iter() {
            assert_eq!(node.bounds, Bounds::of(node, &self.nodes), "the bounds of a node");
            assert!(node.below().all(|child| self.nodes[child].parent == at), "a node knows its parent");
            if at != START {
                assert!(!node.is_unused() && node.only_text().is_none(), "a node is needed");
                assert!(self.nodes[node.parent].below().any(|child| child == at), "a parent knows its node");
            }
        }
        assert_eq!(self.entries.is_empty(), self.nodes.is_empty(), "a table without patterns has no nodes");
    }

    fn insert_unbounded(&mut self, pattern: Pattern, value: V) -> PatternKey {
        let node = self.find_or_make(&pattern);
        let slot = *self.nodes[node].slot_mut(&pattern);
        assert!(slot == NO_SLOT, "a pattern of this form is in the table already");
        self.pattern_bytes += pattern.bytes();
        let slot = self.entries.insert(Entry { pattern: pattern.clone(), value, node });
        *self.nodes[node].slot_mut(&pattern) = slot;
        self.update_bounds(node);
        PatternKey(slot)
    }

    /// The node at which the pattern ends. The nodes that are not there are made.
    fn find_or_make(&mut self, pattern: &Pattern) -> u32 {
        if self.nodes.is_empty() {
            let start = self.add(Node::new(NO_SLOT, Kind::Text, Box::default()));
            assert_eq!(start, START, "the first slot of an empty table");
        }
        let (mut at, mut matched) = (START, 0);
        let mut elements = pattern.elements().peekable();
        while let Some(element) = elements.next() {
            let node = &self.nodes[at];
            if let Element::Byte(byte) = element
                && node.text.get(matched) == Some(&byte)
            {
                matched += 1;
                continue;
            }
            if matched < node.text.len() {
                at = self.split(at, matched);
            }
            match element {
                Element::Byte(byte) => {
                    matched = 1;
                    at = self.nodes[at].child(byte).unwrap_or_else(|| {
                        let mut text = vec![byte];
                        while let Some(Element::Byte(byte)) = elements.peek() {
                            text.push(*byte);
                            elements.next();
                        }
                        matched = text.len();
                        self.add_child(at, Kind::Text, text.into())
                    });
                }
                Element::Simple | Element::Reserved => {
                    matched = 0;
                    let is_simple = element == Element::Simple;
                    let kind = if is_simple { Kind::Simple } else { Kind::Reserved };
                    let there = if is_simple { self.nodes[at].simple } else { self.nodes[at].reserved };
                    at = some(there).unwrap_or_else(|| self.add_child(at, kind, Box::default()));
                }
            }
        }
        if matched < self.nodes[at].text.len() { self.split(at, matched) } else { at }
    }

    /// Divides a node after so many bytes of its text, and gives the node of the first part, which is new.
    fn split(&mut self, node: u32, after: usize) -> u32 {
        let (parent, text) = (self.nodes[node].parent, self.nodes[node].text.clone());
        let upper = self.add(Node::new(parent, Kind::Text, text[..after].into()));
        self.change(parent, |parent| parent.set_child(text[0], upper));
        self.change(node, |node| (node.parent, node.text) = (upper, text[after..].into()));
        self.change(upper, |upper| upper.set_child(text[after], node));
        self.nodes[node].bounds = Bounds::of(&self.nodes[node], &self.nodes);
        upper
    }

    fn add_child(&mut self, parent: u32, kind: Kind, text: Box<[u8]>) -> u32 {
        let first = text.first().copied();
        let child = self.add(Node::new(parent, kind, text));
        self.change(parent, |parent| parent.link(kind, first, child));
        child
    }

    fn add(&mut self, node: Node) -> u32 {
        self.node_bytes += node.heap_bytes();
        self.nodes.insert(node)
    }

    fn change(&mut self, node: u32, change: impl FnOnce(&mut Node)) {
        let node = &mut self.nodes[node];
        self.node_bytes -= node.heap_bytes();
        change(node);
        self.node_bytes += node.heap_bytes();
    }

    /// Removes what a pattern has left behind: nodes where nothing ends and nothing goes on, and the border
    /// between two texts.
    fn tidy(&mut self, mut at: u32) {
        while at != START {
            let node = &self.nodes[at];
            let parent = node.parent;
            if node.is_unused() {
                let (kind, first) = (node.kind, node.text.first().copied());
                self.change(parent, |parent| parent.unlink(kind, first));
                self.node_bytes -= self.nodes.remove(at).heap_bytes();
                at = parent;
            } else if let Some(child) = node.only_text() {
                let text = node.text.clone();
                self.change(parent, |parent| parent.set_child(text[0], child));
                self.change(child, |child| {
                    (child.parent, child.text) = (parent, [&*text, &*child.text].concat().into());
                });
                self.node_bytes -= self.nodes.remove(at).heap_bytes();
                at = child;
                break;
            } else {
                break;
            }
        }
        self.update_bounds(at);
    }

    /// Computes the bounds of a node and of all above it.
    fn update_bounds(&mut self, mut at: u32) {
        while at != NO_SLOT {
            let bounds = Bounds::of(&self.nodes[at], &self.nodes);
            let node = &mut self.nodes[at];
            node.bounds = bounds;
            at = node.parent;
        }
    }
}

impl Pattern {
    /// The most states that a walk through a table with this pattern alone can have. A table takes no pattern
    /// with more than [`MAX_STATES`].
    pub fn states(&self) -> usize {
        let mut table = PatternTable::new();
        table.insert_unbounded(self.clone(), ());
        table.states()
    }
}

fn some(slot: u32) -> Option<u32> {
    (slot != NO_SLOT).then_some(slot)
}

/// One walk through a table.
struct Walk<'t> {
    nodes: &'t Slots<Node>,
    /// Differs for each byte of each walk, so that a variable can note when it was entered.
    now: u64,
    /// Whether the topic has a `%`.
    has_escapes: bool,
    found: SmallVec<[u32; 16]>,
    work: Work,
}

/// Where the bytes so far can lead to. No state is there twice: a state in a text has one state before it,
/// and a variable notes when it was entered.
#[derive(Default)]
struct States<'t> {
    /// Texts of which something has matched, each with what is still to come.
    texts: SmallVec<[(&'t Node, &'t [u8]); 8]>,
    /// Variables whose value may go on.
    variables: SmallVec<[&'t Node; 8]>,
}

impl States<'_> {
    fn clear(&mut self) {
        self.texts.clear();
        self.variables.clear();
    }

    fn len(&self) -> usize {
        self.texts.len() + self.variables.len()
    }
}

impl<'t> Walk<'t> {
    fn read(&mut self, topic: &[u8]) {
        let (mut first, mut second) = (States::default(), States::default());
        let (mut states, mut next) = (&mut first, &mut second);
        self.now += 1;
        self.enter_text(&self.nodes[START], &[], false, states);
        let mut at = 0;
        while at < topic.len() && states.len() > 0 {
            self.work.states = self.work.states.max(states.len());
            self.now += 1;
            next.clear();
            match (&states.texts[..], &states.variables[..]) {
                ([(node, text @ [_, _, ..])], []) => at += self.read_text(node, text, topic, at, next),
                ([], [node]) if !self.has_escapes => {
                    at += self.read_value(node, &topic[at..]);
                    if at < topic.len() {
                        self.step(states, topic, at, next);
                        at += 1;
                    } else {
                        next.variables.push(node);
                    }
                }
                _ => {
                    self.step(states, topic, at, next);
                    at += 1;
                }
            }
            std::mem::swap(&mut states, &mut next);
        }
        self.work.states = self.work.states.max(states.len());
        let texts = states.texts.iter().filter(|(_, text)| text.is_empty()).map(|(node, _)| *node);
        self.found.extend(texts.chain(states.variables.iter().copied()).filter_map(|node| some(node.end)));
    }

    /// Moves the only state, which is in a text, to the end of it, and answers by how many bytes.
    fn read_text(
        &mut self,
        node: &'t Node,
        text: &'t [u8],
        topic: &[u8],
        at: usize,
        next: &mut States<'t>,
    ) -> usize {
        let bytes = text.len().min(topic.len() - at);
        self.work.steps += bytes;
        if text[..bytes] == topic[at..at + bytes] {
            self.enter_text(node, &text[bytes..], is_in_escape(topic, at + bytes), next);
        }
        bytes
    }

    /// Moves the only state, which is a variable, as far as its value goes on and nothing else can begin.
    /// Answers by how many bytes.
    fn read_value(&mut self, node: &Node, topic: &[u8]) -> usize {
        let goes_on = |byte: &u8| node.kind.may_have(class_of(*byte)) && node.child(*byte).is_none();
        let bytes = topic.iter().take_while(|byte| goes_on(byte)).count();
        self.work.steps += bytes;
        bytes
    }

    /// Moves all states by one byte.
    fn step(&mut self, states: &States<'t>, topic: &[u8], at: usize, next: &mut States<'t>) {
        self.work.steps += states.len();
        let byte = topic[at];
        // A value does not end inside of an escape, so its two digits only go on with it.
        let (was_in_escape, is_in_escape) = match self.has_escapes {
            true => (is_in_escape(topic, at), is_in_escape(topic, at + 1)),
            false => (false, false),
        };
        for (node, text) in &states.texts {
            match text {
                [first, rest @ ..] if *first == byte => self.enter_text(node, rest, is_in_escape, next),
                [_, ..] => {}
                [] => self.enter_child(node, byte, is_in_escape, next),
            }
        }
        if states.variables.is_empty() {
            return;
        }
        let class = if byte == b'%' && is_in_escape { Class::Simple } else { class_of(byte) };
        for node in &states.variables {
            if node.kind.may_have(class) {
                self.enter_variable(node, next);
            }
            if !was_in_escape {
                self.enter_child(node, byte, is_in_escape, next);
            }
        }
    }

    fn enter_child(&mut self, node: &Node, byte: u8, is_in_escape: bool, next: &mut States<'t>) {
        if let Some(child) = node.child(byte) {
            let child = &self.nodes[child];
            self.enter_text(child, &child.text[1..], is_in_escape, next);
        }
    }

    /// Enters a text of which this is still to come.
    fn enter_text(&mut self, node: &'t Node, text: &'t [u8], is_in_escape: bool, next: &mut States<'t>) {
        next.texts.push((node, text));
        if text.is_empty() {
            self.found.extend(some(node.rest));
            if !is_in_escape {
                for variable in [node.simple, node.reserved].into_iter().filter_map(some) {
                    self.enter_variable(&self.nodes[variable], next);
                }
            }
        }
    }

    fn enter_variable(&self, node: &'t Node, next: &mut States<'t>) {
        if node.entered.replace(self.now) != self.now {
            next.variables.push(node);
        }
    }
}

/// Whether the bytes before this position end inside of an escape. A `%` is not a digit, so escapes do not
/// overlap.
fn is_in_escape(topic: &[u8], at: usize) -> bool {
    let begins = |back: usize| at.checked_sub(back).is_some_and(|begin| is_escape(&topic[begin..]));
    begins(1) || begins(2)
}

impl Kind {
    /// Whether the value of a variable may have a character of this class.
    fn may_have(self, class: Class) -> bool {
        match self {
            Kind::Text => false,
            Kind::Simple => class == Class::Simple,
            Kind::Reserved => class != Class::Neither,
        }
    }
}
