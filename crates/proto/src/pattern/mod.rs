//! Patterns of topics: what a grant names, and what a subscription to more than one topic names.
//!
//! A [`Pattern`] is one of them, a [`PatternSet`] is what a grant has, and a [`PatternTable`] finds the
//! patterns that match a topic.

mod error;
mod set;
mod table;
mod template;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use self::template::{Element, Template};
use crate::event::{MAX_TOPIC_BYTES, Topic};

pub use self::error::PatternError;
pub use self::set::PatternSet;
pub use self::table::{MAX_STATES, MAX_STATES_OF_ONE, PatternKey, PatternTable, TooMuchWork, Work};

/// The longest pattern, in bytes of UTF-8: the longest topic, and room for the names of variables.
pub const MAX_PATTERN_BYTES: usize = 512;
/// The most patterns of one set. A token that is not longer than its bound rarely has so many.
pub const MAX_PATTERNS: usize = 1_000;

/// The characters of the names that [`Pattern::normalized`] gives.
const NAMES: &[u8; 63] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";

/// One pattern of topics.
///
/// Its text says of which kind it is: a text with a brace is a template, a text that ends in `*` is a prefix,
/// any other text is the exact name of a topic. `*` alone is every topic. A `*` elsewhere is a character like
/// others.
///
/// Patterns are compared by their texts. Cloning is cheap: clones share one text.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Arc<str>,
    template: Option<Arc<Template>>,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// The text is empty, too long, cannot match any topic, or is a template that is not supported.
    pub fn parse(text: &str) -> Result<Pattern, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > MAX_PATTERN_BYTES {
            return Err(PatternError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(PatternError::NotATopic);
        }
        let mut template = None;
        if text.contains(['{', '}']) {
            template = Some(Arc::new(Template::parse(text)?));
        } else if let Some(prefix) = text.strip_suffix('*') {
            if prefix.len() > MAX_TOPIC_BYTES {
                return Err(PatternError::NotATopic);
            }
        } else {
            Topic::new(text).map_err(|_| PatternError::NotATopic)?;
        }
        Ok(Pattern { text: text.into(), template })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern is the exact name of one topic.
    pub fn is_exact(&self) -> bool {
        !self.is_template() && self.prefix().is_none()
    }

    /// Whether the pattern is a template.
    pub fn is_template(&self) -> bool {
        self.template.is_some()
    }

    /// What every topic of a prefix begins with. `None`: the pattern is not a prefix.
    pub fn prefix(&self) -> Option<&str> {
        if self.is_template() { None } else { self.text.strip_suffix('*') }
    }

    /// What every topic that the pattern matches begins with: its text before the first variable or `*`.
    pub fn fixed_beginning(&self) -> &str {
        match &self.template {
            Some(_) => &self.text[..self.text.find('{').unwrap_or(self.text.len())],
            None => self.prefix().unwrap_or(&self.text),
        }
    }

    /// Whether the pattern is for this topic.
    pub fn matches(&self, topic: &str) -> bool {
        match (&self.template, self.prefix()) {
            (Some(template), _) => template.matches(topic),
            (None, Some(prefix)) => topic.starts_with(prefix),
            (None, None) => *self.text == *topic,
        }
    }

    /// What [`Pattern::matches`] takes at most, in steps of about ten nanoseconds.
    pub(crate) fn match_steps(&self, topic: &str) -> usize {
        /// Bytes that are compared in one step.
        const BYTES_OF_A_STEP: usize = 64;
        self.template
            .as_ref()
            .map_or(1 + topic.len() / BYTES_OF_A_STEP, |template| template.match_steps(topic))
    }

    /// Whether the patterns differ in the names of their variables at most, and so match the same topics.
    pub fn has_form_of(&self, other: &Pattern) -> bool {
        self.prefix().is_some() == other.prefix().is_some() && self.elements().eq(other.elements())
    }

    /// The pattern of this form whose variables have the names `a`, `b` and so on. Two patterns of the same
    /// form are equal then, and so they are one for everything that finds patterns by their text.
    #[must_use]
    pub fn normalized(&self) -> Pattern {
        if !self.is_template() {
            return self.clone();
        }
        let (mut text, mut variables) = (Vec::with_capacity(self.text.len()), 0);
        for element in self.elements() {
            match element {
                Element::Byte(byte) => text.push(byte),
                Element::Simple | Element::Reserved => {
                    text.push(b'{');
                    if element == Element::Reserved {
                        text.push(b'+');
                    }
                    // The names of one character come first, so the text does not become longer.
                    if variables >= NAMES.len() {
                        text.push(NAMES[variables / NAMES.len() - 1]);
                    }
                    text.push(NAMES[variables % NAMES.len()]);
                    text.push(b'}');
                    variables += 1;
                }
            }
        }
        // The bytes between variables are whole characters, because braces are ASCII.
        let text = String::from_utf8_lossy(&text).into_owned();
        Pattern { text: text.into(), template: self.template.clone() }
    }

    /// The parts that match one after the other. The `*` of a prefix is not one of them.
    pub(crate) fn elements(&self) -> impl Iterator<Item = Element> + '_ {
        let text = if self.is_template() { &self.text } else { self.fixed_beginning() };
        template::elements(text.as_bytes(), self.is_template())
    }

    /// About the bytes that the pattern occupies, with its text.
    pub fn bytes(&self) -> usize {
        let template = self.template.as_ref().map_or(0, |template| ARC_BYTES + template.bytes());
        size_of::<Pattern>() + ARC_BYTES + self.text.len() + template
    }
}

/// The two counts of references of an `Arc`.
const ARC_BYTES: usize = 2 * size_of::<usize>();

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Pattern) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Pattern) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
