//! Patterns of topics, and sets of them that are matched without looking at every pattern.

use fanfare_proto::event::{MAX_TOPIC_BYTES, Topic};

use crate::error::PatternError;
use crate::template::Template;

/// The longest pattern, in bytes of UTF-8: the longest topic, and room for the names of variables.
pub const MAX_PATTERN_BYTES: usize = 512;
/// The most patterns of one set. A token that is not longer than its bound rarely has so many.
pub const MAX_PATTERNS: usize = 1_000;

/// One pattern of topics.
///
/// Its text says of which kind it is: a text with a brace is a template, a text that ends in `*` is a prefix,
/// any other text is the exact name of a topic. `*` alone is every topic. A `*` elsewhere is a character like
/// others.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Box<str>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Exact,
    /// Without its `*`.
    Prefix,
    Template(Template),
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
        let kind = if text.contains(['{', '}']) {
            Kind::Template(Template::parse(text)?)
        } else if let Some(prefix) = text.strip_suffix('*') {
            if prefix.len() > MAX_TOPIC_BYTES {
                return Err(PatternError::NotATopic);
            }
            Kind::Prefix
        } else {
            Topic::new(text).map_err(|_| PatternError::NotATopic)?;
            Kind::Exact
        };
        Ok(Pattern { text: text.into(), kind })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern is the exact name of one topic.
    pub fn is_exact(&self) -> bool {
        matches!(self.kind, Kind::Exact)
    }

    /// Whether the pattern is for this topic.
    pub fn matches(&self, topic: &str) -> bool {
        match &self.kind {
            Kind::Exact => *self.text == *topic,
            Kind::Prefix => topic.starts_with(self.prefix()),
            Kind::Template(template) => template.matches(topic),
        }
    }

    fn prefix(&self) -> &str {
        self.text.strip_suffix('*').unwrap_or(&self.text)
    }
}

/// A set of patterns that covers topics.
///
/// Exact names and prefixes are found by binary search. Templates are tried one after the other, each in
/// linear time.
#[derive(Clone, Debug, Default)]
pub struct PatternSet {
    /// Sorted, without duplicates.
    exact: Box<[Box<str>]>,
    /// Sorted, and none is the beginning of another one. So the one prefix that a topic may have is the last
    /// that is not greater than the topic.
    prefixes: Box<[Box<str>]>,
    /// Sorted by their text, without duplicates.
    templates: Box<[Pattern]>,
}

impl PatternSet {
    /// The set of these patterns. Patterns that others make superfluous are left out.
    ///
    /// # Errors
    /// There are more than [`MAX_PATTERNS`].
    pub fn new(patterns: impl IntoIterator<Item = Pattern>) -> Result<PatternSet, PatternError> {
        let (mut exact, mut prefixes, mut templates) = (Vec::<Box<str>>::new(), Vec::new(), Vec::new());
        for (count, pattern) in patterns.into_iter().enumerate() {
            if count == MAX_PATTERNS {
                return Err(PatternError::TooMany);
            }
            match pattern.kind {
                Kind::Exact => exact.push(pattern.text),
                Kind::Prefix => prefixes.push(pattern.prefix().into()),
                Kind::Template(_) => templates.push(pattern),
            }
        }
        prefixes.sort_unstable();
        prefixes.dedup_by(|later: &mut Box<str>, kept| later.starts_with(&**kept));
        exact.sort_unstable();
        exact.dedup();
        templates.sort_unstable_by(|a, b| a.text.cmp(&b.text));
        templates.dedup_by(|a, b| a.text == b.text);
        let mut set = PatternSet { prefixes: prefixes.into(), ..PatternSet::default() };
        exact.retain(|name| !set.has_prefix_of(name));
        set.exact = exact.into();
        set.templates = templates.into();
        Ok(set)
    }

    /// Reads and collects patterns.
    ///
    /// # Errors
    /// One of them is refused, or there are too many.
    pub fn parse<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<PatternSet, PatternError> {
        let patterns: Result<Vec<Pattern>, PatternError> =
            texts.into_iter().take(MAX_PATTERNS + 1).map(Pattern::parse).collect();
        PatternSet::new(patterns?)
    }

    /// The set of exactly these names, whatever characters they have.
    ///
    /// # Errors
    /// There are more than [`MAX_PATTERNS`].
    pub(crate) fn of_names<'t>(names: impl IntoIterator<Item = &'t str>) -> Result<PatternSet, PatternError> {
        let exact = names.into_iter().map(|name| Pattern { text: name.into(), kind: Kind::Exact });
        PatternSet::new(exact)
    }

    /// Whether a pattern is for this topic.
    pub fn covers(&self, topic: &str) -> bool {
        self.exact.binary_search_by(|name| (**name).cmp(topic)).is_ok()
            || self.has_prefix_of(topic)
            || self.templates.iter().any(|template| template.matches(topic))
    }

    /// Whether this pattern is in the set, or a prefix of the set covers everything that the pattern matches.
    ///
    /// It is for subscriptions to patterns. The answer may be "no" where one template is narrower than
    /// another one.
    pub fn covers_pattern(&self, pattern: &Pattern) -> bool {
        match &pattern.kind {
            Kind::Exact => self.covers(&pattern.text),
            Kind::Prefix => self.has_prefix_of(pattern.prefix()),
            Kind::Template(_) => {
                let text = &*pattern.text;
                let fixed = &text[..text.find('{').unwrap_or(text.len())];
                self.has_prefix_of(fixed)
                    || self.templates.binary_search_by(|kept| (*kept.text).cmp(text)).is_ok()
            }
        }
    }

    /// Whether the set covers no topic.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty() && self.templates.is_empty()
    }

    fn has_prefix_of(&self, topic: &str) -> bool {
        let after = self.prefixes.partition_point(|prefix| **prefix <= *topic);
        after > 0 && topic.starts_with(&*self.prefixes[after - 1])
    }

    /// Writes a text that is the same for sets with the same patterns, and for no other set.
    pub(crate) fn write_canonical(&self, out: &mut Vec<u8>) {
        let templates: Vec<Box<str>> = self.templates.iter().map(|pattern| pattern.text.clone()).collect();
        for texts in [&self.exact[..], &self.prefixes[..], &templates[..]] {
            out.extend_from_slice(&(texts.len() as u64).to_be_bytes());
            for text in texts {
                out.extend_from_slice(&(text.len() as u64).to_be_bytes());
                out.extend_from_slice(text.as_bytes());
            }
        }
    }

    /// About the bytes that the set occupies.
    pub(crate) fn bytes(&self) -> usize {
        let text = |text: &str| size_of::<Box<str>>() + text.len();
        let template = |pattern: &Pattern| match &pattern.kind {
            Kind::Template(template) => template.bytes() + text(&pattern.text),
            Kind::Exact | Kind::Prefix => text(&pattern.text),
        };
        size_of::<PatternSet>()
            + self.exact.iter().map(|name| text(name)).sum::<usize>()
            + self.prefixes.iter().map(|prefix| text(prefix)).sum::<usize>()
            + self.templates.iter().map(template).sum::<usize>()
    }
}
