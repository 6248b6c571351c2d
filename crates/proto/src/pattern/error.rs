//! Why a pattern is refused.

use std::fmt;

/// Why a pattern is refused. A pattern that is not supported is refused, because otherwise it would never
/// match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PatternError {
    /// The pattern is empty.
    Empty,
    /// The pattern is longer than [`super::MAX_PATTERN_BYTES`].
    TooLong,
    /// There are more patterns than [`super::MAX_PATTERNS`].
    TooMany,
    /// The pattern has a control character, or is an exact name or a prefix that is too long for a topic.
    NotATopic,
    /// A brace is not closed, not opened, or inside of another one.
    Braces,
    /// The operator is not supported: only `{var}` and `{+var}` are.
    Operator(char),
    /// Several variables in one expression, as in `{a,b}`.
    List,
    /// A prefix length or an explode modifier, as in `{a:3}` or `{a*}`.
    Modifier,
    /// The name of a variable is not one of RFC 6570, section 2.3.
    VariableName,
    /// A variable is in the template twice; its values would have to be equal.
    RepeatedVariable,
    /// The template ends in `*`: a pattern is a template or a prefix.
    TemplateAndPrefix,
    /// A `%` in the text of a template does not begin an escape.
    Percent,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PatternError::Empty => f.write_str("it is empty"),
            PatternError::TooLong => write!(f, "it is longer than {} bytes", super::MAX_PATTERN_BYTES),
            PatternError::TooMany => write!(f, "there are more than {} patterns", super::MAX_PATTERNS),
            PatternError::NotATopic => f.write_str("it is too long for a topic, or has a control character"),
            PatternError::Braces => f.write_str("its braces do not match"),
            PatternError::Operator(operator) => {
                write!(f, "the operator {operator:?} is not supported; use {{var}} or {{+var}}")
            }
            PatternError::List => f.write_str("an expression has one variable, such as {var}"),
            PatternError::Modifier => f.write_str("the modifiers : and * are not supported"),
            PatternError::VariableName => f.write_str("a variable has letters, digits, _ and dots inside"),
            PatternError::RepeatedVariable => f.write_str("a variable is in it twice"),
            PatternError::TemplateAndPrefix => f.write_str("a template cannot end in *"),
            PatternError::Percent => f.write_str("a % in a template begins an escape of two hex digits"),
        }
    }
}

impl std::error::Error for PatternError {}
