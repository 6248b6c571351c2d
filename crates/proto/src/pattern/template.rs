//! URI templates (RFC 6570) of level 1 and `{+var}`, matched in linear time.
//!
//! A template matches a topic that is one of its expansions:
//!
//! - `{var}` stands for any text, also the empty one, without reserved characters (`:/?#[]@!$&'()*+,;=`);
//! - `{+var}` stands for any text with reserved characters, too;
//! - in both, `%` begins an escape of two hex digits, and a space, a quote, `<`, `>`, `\`, `^`, a back quote,
//!   `|`, `{` and `}` do not occur, because an expansion escapes them. Characters beyond ASCII are allowed as
//!   they are, as in an IRI (RFC 3987), because topics are text.
//! - all other text stands for itself, byte for byte.

use std::collections::HashSet;

use smallvec::{SmallVec, smallvec};

use super::PatternError;

/// What matches one position of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    /// This byte.
    Byte(u8),
    /// Any number of characters that a simple expansion may have.
    Simple,
    /// Any number of characters that a reserved expansion may have.
    Reserved,
}

impl Element {
    fn byte(self) -> Option<u8> {
        match self {
            Element::Byte(byte) => Some(byte),
            Element::Simple | Element::Reserved => None,
        }
    }
}

/// A set of states in words of 64 bits.
type States = SmallVec<[u64; 2]>;

/// A template that is ready to be matched: a nondeterministic automaton whose states are the bits of a few
/// words.
///
/// State `i` means that the first `i` elements have matched. One byte of a topic moves all states at once,
/// with a few operations for each word. So the cost is the topic's length times the words of the template,
/// and never depends on how many ways there are to match.
#[derive(Clone, Debug)]
pub(super) struct Template {
    /// How many elements there are; the state with this number is the final one.
    elements: usize,
    /// The bytes before the first variable.
    beginning: Box<[u8]>,
    /// The bytes that are elements, sorted.
    bytes: Box<[u8]>,
    /// The states before an element that is a byte: the words of the first byte, then those of the second.
    before_bytes: Box<[u64]>,
    /// The states before a variable of the kind.
    simple: States,
    reserved: States,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// The text is not a template of level 1 or with `{+var}`, or has the same variable twice.
    pub(super) fn parse(text: &str) -> Result<Template, PatternError> {
        let mut elements = Vec::with_capacity(text.len());
        let mut names = HashSet::new();
        let mut rest = text;
        loop {
            let end = rest.find(['{', '}']).unwrap_or(rest.len());
            push_text(&rest[..end], &mut elements)?;
            rest = &rest[end..];
            let Some(expression) = rest.strip_prefix('{') else { break };
            let end = expression.find(['{', '}']).ok_or(PatternError::Braces)?;
            if expression.as_bytes()[end] == b'{' {
                return Err(PatternError::Braces);
            }
            push_expression(&expression[..end], &mut names, &mut elements)?;
            rest = &expression[end + 1..];
        }
        if !rest.is_empty() {
            return Err(PatternError::Braces);
        }
        if text.ends_with('*') {
            return Err(PatternError::TemplateAndPrefix);
        }
        debug_assert!(elements.iter().copied().eq(self::elements(text.as_bytes(), true)));
        Ok(Template::compile(&elements))
    }

    fn compile(elements: &[Element]) -> Template {
        let words = elements.len() / 64 + 1;
        let none: States = smallvec![0; words];
        let (mut simple, mut reserved) = (none.clone(), none.clone());
        let mut bytes: Vec<u8> = elements.iter().filter_map(|element| element.byte()).collect();
        bytes.sort_unstable();
        bytes.dedup();
        let mut before_bytes = vec![0; bytes.len() * words];
        for (state, element) in elements.iter().enumerate() {
            let set = match element {
                Element::Simple => &mut simple[..],
                Element::Reserved => &mut reserved[..],
                Element::Byte(byte) => {
                    let begin = bytes.partition_point(|other| other < byte) * words;
                    &mut before_bytes[begin..begin + words]
                }
            };
            set[state / 64] |= 1 << (state % 64);
        }
        let (bytes, before_bytes) = (bytes.into(), before_bytes.into());
        let beginning = elements.iter().map_while(|element| element.byte()).collect();
        Template { elements: elements.len(), beginning, bytes, before_bytes, simple, reserved }
    }

    /// What [`Template::matches`] takes at most, in steps of about ten nanoseconds: a byte takes 11 ns with
    /// one word of states, and 30 ns with eight (measured with topics of 240 bytes). Topics that begin
    /// otherwise cost a comparison.
    pub(super) fn match_steps(&self, topic: &str) -> usize {
        if !topic.as_bytes().starts_with(&self.beginning) {
            return 1;
        }
        1 + topic.len() * (4 + self.simple.len()) / 4
    }

    /// Whether the topic is an expansion of the template.
    pub(super) fn matches(&self, topic: &str) -> bool {
        self.matches_counted(topic).0
    }

    /// Whether the topic is an expansion of the template, and how many steps were needed. A step is the work
    /// on one word for one byte.
    pub(super) fn matches_counted(&self, topic: &str) -> (bool, usize) {
        let topic = topic.as_bytes();
        if !topic.starts_with(&self.beginning) {
            return (false, 0);
        }
        let words = self.simple.len();
        let mut steps = 0;
        let mut states: States = smallvec![0; words];
        states[0] = 1;
        self.skip_variables(&mut states);
        let mut escape_left = 0;
        for (at, &byte) in topic.iter().enumerate() {
            if escape_left > 0 {
                escape_left -= 1;
            } else if byte == b'%' && is_escape(&topic[at..]) {
                escape_left = 2;
            }
            // The hex digits of an escape are simple characters in any case.
            let class = if byte == b'%' && escape_left == 2 { Class::Simple } else { class_of(byte) };
            let literal = self.bytes.binary_search(&byte).ok();
            let literal = literal.map(|at| &self.before_bytes[at * words..(at + 1) * words]);
            let (mut carry, mut alive) = (0, 0);
            for word in 0..words {
                steps += 1;
                let stay = match class {
                    Class::Simple => self.simple[word] | self.reserved[word],
                    Class::Reserved => self.reserved[word],
                    Class::Neither => 0,
                };
                let moved = literal.map_or(0, |literal| states[word] & literal[word]);
                let next = (states[word] & stay) | (moved << 1) | carry;
                carry = moved >> 63;
                states[word] = next;
                alive |= next;
            }
            if alive == 0 {
                return (false, steps);
            }
            // A variable does not end inside of an escape.
            if escape_left == 0 {
                self.skip_variables(&mut states);
            }
        }
        let matched = states[self.elements / 64] >> (self.elements % 64) & 1 == 1;
        (matched, steps)
    }

    /// A variable may be empty: the state before it is also the state after it. Two variables are never
    /// neighbours.
    fn skip_variables(&self, states: &mut States) {
        let mut carry = 0;
        for ((word, simple), reserved) in states.iter_mut().zip(&self.simple).zip(&self.reserved) {
            let skipped = *word & (simple | reserved);
            *word |= (skipped << 1) | carry;
            carry = skipped >> 63;
        }
    }

    /// About the bytes that the template occupies.
    pub(super) fn bytes(&self) -> usize {
        let states = [&self.simple, &self.reserved];
        let spilled = states.iter().filter(|states| states.spilled()).map(|states| states.capacity() * 8);
        size_of::<Template>()
            + self.beginning.len()
            + self.bytes.len()
            + self.before_bytes.len() * 8
            + spilled.sum::<usize>()
    }
}

/// Which variables may contain a byte.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Both kinds.
    Simple,
    /// Reserved expansions only.
    Reserved,
    /// None: an expansion would have escaped it.
    Neither,
}

pub(super) fn class_of(byte: u8) -> Class {
    match byte {
        b'-' | b'.' | b'_' | b'~' | 0x80.. => Class::Simple,
        byte if byte.is_ascii_alphanumeric() => Class::Simple,
        b':' | b'/' | b'?' | b'#' | b'[' | b']' | b'@' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*'
        | b'+' | b',' | b';' | b'=' => Class::Reserved,
        _ => Class::Neither,
    }
}

pub(super) fn is_escape(bytes: &[u8]) -> bool {
    matches!(bytes, [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

/// The elements of a pattern that was read before, from its text: without variables, a brace is a character.
pub(super) fn elements(mut text: &[u8], is_template: bool) -> impl Iterator<Item = Element> + '_ {
    std::iter::from_fn(move || {
        let (&first, rest) = text.split_first()?;
        if !is_template || first != b'{' {
            text = rest;
            return Some(Element::Byte(first));
        }
        let mut element = Element::Simple;
        // Neighbours are one variable, of the wider kind.
        while let Some(b'{') = text.first() {
            if text.get(1) == Some(&b'+') {
                element = Element::Reserved;
            }
            let end = text.iter().position(|byte| *byte == b'}').map_or(text.len(), |end| end + 1);
            text = &text[end..];
        }
        Some(element)
    })
}

/// Text outside of the expressions. An escape stands for itself; a lone `%` is not allowed (RFC 6570, section
/// 2.1).
fn push_text(text: &str, elements: &mut Vec<Element>) -> Result<(), PatternError> {
    let bytes = text.as_bytes();
    for (at, &byte) in bytes.iter().enumerate() {
        if byte == b'%' && !is_escape(&bytes[at..]) {
            return Err(PatternError::Percent);
        }
        elements.push(Element::Byte(byte));
    }
    Ok(())
}

fn push_expression<'t>(
    expression: &'t str,
    names: &mut HashSet<&'t str>,
    elements: &mut Vec<Element>,
) -> Result<(), PatternError> {
    let (kind, name) = match expression.chars().next() {
        // The operators of RFC 6570, section 2.2, with the reserved ones.
        Some('+') => (Element::Reserved, &expression[1..]),
        Some(operator) if "#./;?&=,!@|".contains(operator) => return Err(PatternError::Operator(operator)),
        _ => (Element::Simple, expression),
    };
    if name.contains(',') {
        return Err(PatternError::List);
    }
    if name.contains([':', '*']) {
        return Err(PatternError::Modifier);
    }
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !name.split('.').all(is_word) {
        return Err(PatternError::VariableName);
    }
    if !names.insert(name) {
        return Err(PatternError::RepeatedVariable);
    }
    // Neighbours match the same as the wider one of them alone.
    match elements.last_mut() {
        Some(Element::Reserved) => {}
        Some(last @ Element::Simple) => *last = kind,
        _ => elements.push(kind),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Template {
        Template::parse(text).unwrap()
    }

    /// A backtracking matcher needs exponential time for this. Here the steps grow with the topic and nothing
    /// else.
    #[test]
    fn the_steps_of_an_explosive_template_are_linear_in_the_topic() {
        let variables: String = (0..60).map(|n| format!("{{+v{n}}}a")).collect();
        let explosive = template(&format!("{variables}b"));
        let words = explosive.simple.len();
        let mut per_byte = Vec::new();
        for length in [32, 64, 128, 256] {
            let (matched, steps) = explosive.matches_counted(&"a".repeat(length));
            assert!(!matched);
            assert_eq!(steps, length * words, "one step for each byte and word");
            per_byte.push(steps / length);
        }
        assert!(per_byte.windows(2).all(|pair| pair[0] == pair[1]));
        assert!(words <= 2);
        assert!(explosive.matches(&format!("{}b", "a".repeat(200))));
    }

    #[test]
    fn the_longest_template_has_a_bounded_number_of_words() {
        let longest = template(&format!("{{a}}{}", "x".repeat(super::super::MAX_PATTERN_BYTES - 3)));
        let (_, steps) = longest.matches_counted(&"y".repeat(256));
        assert!(steps <= 256 * (super::super::MAX_PATTERN_BYTES / 64 + 1));
    }

    /// The earliest `/` is the wrong one here: a matcher that always takes it refuses what is an expansion.
    #[test]
    fn a_reserved_variable_takes_as_much_as_is_needed() {
        assert!(template("{+path}/{file}").matches("a/b/c"));
        assert!(template("{a}-{+b}/{c}").matches("x-y-z/w/v"));
        assert!(!template("{a}/{b}").matches("x/y/z"));
    }

    #[test]
    fn a_variable_does_not_end_inside_of_an_escape() {
        assert!(template("{a}").matches("%41"));
        assert!(!template("{a}1").matches("%41"));
        assert!(template("{a}1").matches("%411"));
        assert!(!template("{a}").matches("%4"));
        assert!(!template("{+a}").matches("50%"));
        assert!(template("x%2F{a}").matches("x%2Fy"));
    }

    #[test]
    fn states_cross_the_words() {
        let long = format!("{}{{v}}/{}", "a".repeat(63), "b".repeat(70));
        let topic = |middle: &str| format!("{}{middle}/{}", "a".repeat(63), "b".repeat(70));
        assert!(template(&long).matches(&topic("")));
        assert!(template(&long).matches(&topic("123")));
        assert!(!template(&long).matches(&topic("1/3")));
        assert!(!template(&long).matches(&topic("123")[1..]));
    }

    /// It counted a step for eight bytes, whatever the template: a read of the log that was to hold the lock
    /// for a sixth of a millisecond held it for four.
    #[test]
    fn the_steps_that_are_charged_cover_the_work() {
        let long = format!("{{a}}/{}", "x".repeat(400));
        for text in ["{+a}a{+b}a{+c}a0", "/users/{id}", &long, "{+a}"] {
            let template = Template::parse(text).unwrap();
            for topic in ["", "a", "/users/7", "/users/", &"a".repeat(240), &format!("a/{}", "x".repeat(238))]
            {
                let work = template.matches_counted(topic).1;
                assert!(template.match_steps(topic) > work / 4, "{text} and {topic:?}: {work}");
                let all = topic.len() * template.simple.len();
                assert!(work == 0 || template.match_steps(topic) > all / 4, "{text} and {topic:?}: {all}");
            }
        }
        assert_eq!(Template::parse("/users/{id}").unwrap().match_steps(&"a".repeat(240)), 1);
        assert!(Template::parse("{+a}").unwrap().match_steps(&"a".repeat(240)) >= 240);
    }
}
