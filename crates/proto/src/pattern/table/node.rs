//! A node of the table of patterns, and how many states there can be below it.

use std::cell::Cell;

use super::super::Pattern;
use super::super::template::class_of;
use crate::event::MAX_TOPIC_BYTES;
use crate::shrink::push_to_list;
use crate::slots::{NO_SLOT, Slots};

/// What a node matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its text.
    Text,
    /// A variable `{var}`.
    Simple,
    /// A variable `{+var}`.
    Reserved,
}

/// A text or a variable, and what may come after it.
pub(super) struct Node {
    pub(super) parent: u32,
    pub(super) kind: Kind,
    /// Empty for a variable, and for the start.
    pub(super) text: Box<[u8]>,
    /// The nodes of text below, by their first byte, in its order.
    children: Vec<(u8, u32)>,
    /// A bit for the lowest six bits of each of these bytes: most bytes of a value begin no text.
    first_bits: u64,
    /// The variable below of each kind. Two variables are never neighbours.
    pub(super) simple: u32,
    pub(super) reserved: u32,
    /// The exact name or the template that ends here.
    pub(super) end: u32,
    /// The prefix that ends here.
    pub(super) rest: u32,
    pub(super) bounds: Bounds,
    /// When a walk has entered the variable.
    pub(super) entered: Cell<u64>,
}

impl Node {
    pub(super) fn new(parent: u32, kind: Kind, text: Box<[u8]>) -> Node {
        Node {
            parent,
            kind,
            text,
            children: Vec::new(),
            first_bits: 0,
            simple: NO_SLOT,
            reserved: NO_SLOT,
            end: NO_SLOT,
            rest: NO_SLOT,
            bounds: Bounds::default(),
            entered: Cell::new(0),
        }
    }

    /// The node of text below that begins with this byte.
    pub(super) fn child(&self, byte: u8) -> Option<u32> {
        if self.first_bits & first_bit(byte) == 0 {
            return None;
        }
        let at = self.children.binary_search_by_key(&byte, |child| child.0).ok()?;
        Some(self.children[at].1)
    }

    /// Sets the node of text below that begins with this byte.
    pub(super) fn set_child(&mut self, byte: u8, child: u32) {
        match self.children.binary_search_by_key(&byte, |child| child.0) {
            Ok(at) => self.children[at].1 = child,
            Err(at) => {
                push_to_list(&mut self.children, (byte, child));
                self.children[at..].rotate_right(1);
            }
        }
        self.first_bits |= first_bit(byte);
    }

    pub(super) fn link(&mut self, kind: Kind, first: Option<u8>, child: u32) {
        match kind {
            Kind::Simple => self.simple = child,
            Kind::Reserved => self.reserved = child,
            Kind::Text => first.into_iter().for_each(|byte| self.set_child(byte, child)),
        }
    }

    pub(super) fn unlink(&mut self, kind: Kind, first: Option<u8>) {
        match kind {
            Kind::Simple => self.simple = NO_SLOT,
            Kind::Reserved => self.reserved = NO_SLOT,
            Kind::Text => {
                self.children.retain(|child| Some(child.0) != first);
                self.first_bits = self.children.iter().fold(0, |bits, child| bits | first_bit(child.0));
                if self.children.capacity() > 2 * self.children.len() + 4 {
                    self.children.shrink_to_fit();
                }
            }
        }
    }

    /// What ends here: the prefix, or the other one.
    pub(super) fn slot(&self, pattern: &Pattern) -> u32 {
        if pattern.prefix().is_some() { self.rest } else { self.end }
    }

    pub(super) fn slot_mut(&mut self, pattern: &Pattern) -> &mut u32 {
        if pattern.prefix().is_some() { &mut self.rest } else { &mut self.end }
    }

    /// Whether nothing ends here or below.
    pub(super) fn is_unused(&self) -> bool {
        self.children.is_empty() && self.ends_nothing() && !self.has_variables()
    }

    /// The node below, where both are text and could be one.
    pub(super) fn only_text(&self) -> Option<u32> {
        match &self.children[..] {
            [(_, child)] if self.kind == Kind::Text && self.ends_nothing() && !self.has_variables() => {
                Some(*child)
            }
            _ => None,
        }
    }

    fn ends_nothing(&self) -> bool {
        (self.end, self.rest) == (NO_SLOT, NO_SLOT)
    }

    fn has_variables(&self) -> bool {
        (self.simple, self.reserved) != (NO_SLOT, NO_SLOT)
    }

    /// The slots of all nodes below.
    pub(super) fn below(&self) -> impl Iterator<Item = u32> + '_ {
        let variables = [self.simple, self.reserved].into_iter().filter(|slot| *slot != NO_SLOT);
        self.children.iter().map(|child| child.1).chain(variables)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.text.len() + self.children.capacity() * size_of::<(u8, u32)>()
    }
}

fn first_bit(byte: u8) -> u64 {
    1 << (byte % 64)
}

/// How many states a walk can have at one time in a node and below it, at most.
///
/// Two cases are told apart. A node is entered **once** in a walk, where only one beginning of a topic leads
/// to it. This is so from the start on through text, through the beginnings of variables, and behind a
/// variable whose value cannot have the byte that comes next: in `/{user}/orders`, the value of `user` ends
/// at the first `/`. Of several texts that may follow, a topic has one, so only the costliest counts.
///
/// A node is entered **many** times where a value may go on while what comes behind it begins: in
/// `{+path}/new` after each `/`, in `{name}.txt` after each dot. Then the text behind the variable may be
/// there several times, as `aaa` is in a topic of this letter alone: once for each of its bytes that may
/// begin it. Of several texts, the last bytes of the topic have only one of each length, so the worst counts.
/// Each variable behind such a text counts in addition, because its value may go on for ever.
///
/// Which bytes begin the texts behind a variable changes with the patterns. So only two cases are told apart:
/// all begin with a delimiter such as `/`, and each text is there at most once for each of its delimiters; or
/// not, and it is counted once for each byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Where the node is entered once.
    pub(super) once: u32,
    /// Where it is entered many times: the bytes of text up to the next variables, of the longest.
    text: u32,
    /// The same, of delimiters alone.
    delimiters: u32,
    /// In addition to these, what the next variables have.
    variables: u32,
}

impl Bounds {
    /// The bounds of a node by those of the nodes directly below.
    pub(super) fn of(node: &Node, nodes: &Slots<Node>) -> Bounds {
        // What is entered many times although this node is entered once.
        let (mut chosen, mut many) = (0, Many::default());
        let mut all = Many::default();
        for (byte, child) in &node.children {
            let below = nodes[*child].bounds;
            all.add(*byte, below);
            if node.kind != Kind::Text && (*byte == b'%' || node.kind.may_have(class_of(*byte))) {
                many.add(*byte, below);
            } else {
                chosen = below.once.max(chosen);
            }
        }
        if node.kind != Kind::Text {
            // Where its value goes on, none of the texts that may end it has begun.
            chosen = chosen.max(1);
        }
        let mut once = chosen.saturating_add(many.states());
        // The end of a text is a state beside the beginnings of the variables behind it, for one byte.
        let mut at_the_end = 1;
        let mut variables = all.variables;
        for variable in [node.simple, node.reserved] {
            if let Some(below) = nodes.get(variable).map(|node| node.bounds) {
                at_the_end += 1;
                once = once.saturating_add(below.once);
                variables = variables.saturating_add(below.variables);
            }
        }
        once = once.max(at_the_end);
        if node.kind != Kind::Text {
            // To the node above, the variable is one with all that is behind it.
            return Bounds { once, text: 0, delimiters: 0, variables: all.states().saturating_add(1) };
        }
        let delimiters = node.text.iter().filter(|byte| is_delimiter(**byte)).count();
        let most = MAX_TOPIC_BYTES as u32;
        let text = (all.text + node.text.len() as u32).min(most);
        Bounds { once, text, delimiters: (all.delimiters + delimiters as u32).min(most), variables }
    }
}

/// What is behind a variable and may be entered many times.
#[derive(Default)]
struct Many {
    text: u32,
    delimiters: u32,
    variables: u32,
    /// Whether a text begins with something else than a delimiter.
    has_others: bool,
}

impl Many {
    fn add(&mut self, first: u8, below: Bounds) {
        self.text = self.text.max(below.text);
        self.delimiters = self.delimiters.max(below.delimiters);
        self.variables = self.variables.saturating_add(below.variables);
        self.has_others |= !is_delimiter(first);
    }

    fn states(&self) -> u32 {
        let texts = if self.has_others { self.text } else { self.delimiters };
        texts.saturating_add(self.variables)
    }
}

/// Neither a letter nor a digit.
fn is_delimiter(byte: u8) -> bool {
    byte.is_ascii() && !byte.is_ascii_alphanumeric()
}
