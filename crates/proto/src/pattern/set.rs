//! Sets of patterns that are matched without looking at every pattern.

use super::{MAX_PATTERNS, Pattern, PatternError};

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
        let (mut exact, mut prefixes, mut templates) = (Vec::new(), Vec::new(), Vec::new());
        for (count, pattern) in patterns.into_iter().enumerate() {
            if count == MAX_PATTERNS {
                return Err(PatternError::TooMany);
            }
            if pattern.template.is_some() {
                templates.push(pattern);
            } else if let Some(prefix) = pattern.prefix() {
                prefixes.push(prefix.into());
            } else {
                exact.push(pattern.as_str().into());
            }
        }
        Ok(PatternSet::of(exact, prefixes, templates))
    }

    fn of(mut exact: Vec<Box<str>>, mut prefixes: Vec<Box<str>>, mut templates: Vec<Pattern>) -> PatternSet {
        prefixes.sort_unstable();
        prefixes.dedup_by(|later: &mut Box<str>, kept| later.starts_with(&**kept));
        exact.sort_unstable();
        exact.dedup();
        templates.sort_unstable();
        templates.dedup();
        let mut set = PatternSet { prefixes: prefixes.into(), ..PatternSet::default() };
        exact.retain(|name| !set.has_prefix_of(name));
        set.exact = exact.into();
        set.templates = templates.into();
        set
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
    pub fn of_names<'t>(names: impl IntoIterator<Item = &'t str>) -> Result<PatternSet, PatternError> {
        let exact: Vec<Box<str>> = names.into_iter().take(MAX_PATTERNS + 1).map(Box::from).collect();
        if exact.len() > MAX_PATTERNS {
            return Err(PatternError::TooMany);
        }
        Ok(PatternSet::of(exact, Vec::new(), Vec::new()))
    }

    /// Whether a pattern is for this topic.
    pub fn covers(&self, topic: &str) -> bool {
        self.exact.binary_search_by(|name| (**name).cmp(topic)).is_ok()
            || self.has_prefix_of(topic)
            || self.templates.iter().any(|template| template.matches(topic))
    }

    /// Whether this pattern is in the set, perhaps with other names of its variables, or a prefix of the set
    /// covers everything that the pattern matches.
    ///
    /// It is for subscriptions to patterns. The answer may be "no" where one template is narrower than
    /// another one.
    pub fn covers_pattern(&self, pattern: &Pattern) -> bool {
        if pattern.is_exact() {
            return self.covers(pattern.as_str());
        }
        self.has_prefix_of(pattern.fixed_beginning())
            || pattern.is_template() && self.templates.iter().any(|kept| kept.has_form_of(pattern))
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
    pub fn write_canonical(&self, out: &mut Vec<u8>) {
        let templates: Vec<&str> = self.templates.iter().map(Pattern::as_str).collect();
        let (exact, prefixes) =
            (self.exact.iter().map(|text| &**text), self.prefixes.iter().map(|text| &**text));
        for texts in [exact.collect(), prefixes.collect(), templates] {
            out.extend_from_slice(&(texts.len() as u64).to_be_bytes());
            for text in texts {
                out.extend_from_slice(&(text.len() as u64).to_be_bytes());
                out.extend_from_slice(text.as_bytes());
            }
        }
    }

    /// About the bytes that the set occupies.
    pub fn bytes(&self) -> usize {
        let texts = self.exact.iter().chain(&self.prefixes);
        size_of::<PatternSet>()
            + texts.map(|text| size_of::<Box<str>>() + text.len()).sum::<usize>()
            + self.templates.iter().map(Pattern::bytes).sum::<usize>()
    }
}
