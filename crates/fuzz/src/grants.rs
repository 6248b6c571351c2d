//! Patterns and topics: templates are matched as a table over all pieces and positions does it, and the same
//! patterns are refused as by a reader that was written apart.

use fanfare_access::{MAX_PATTERN_BYTES, Pattern, PatternSet};

/// The first line is a pattern, and the rest a topic.
pub(crate) fn check(input: &[u8]) {
    let input = String::from_utf8_lossy(input);
    let (text, topic) = input.split_once('\n').unwrap_or((&input, "topic"));
    let read = Pattern::parse(text);
    let expected = naive(text);
    assert_eq!(read.is_ok(), expected.is_some(), "{text:?} is {read:?}");
    let (Ok(pattern), Some(naive)) = (read, expected) else { return };
    assert_eq!(pattern.as_str(), text);
    let covers = match naive {
        Naive::Exact => topic == text,
        Naive::Prefix(prefix) => topic.starts_with(prefix),
        Naive::Template(pieces) => in_table(&pieces, topic),
    };
    assert_eq!(pattern.matches(topic), covers, "{text:?} and {topic:?}");
    let set = PatternSet::parse([text, "~a", "~b*", "~c/{d}", text]).unwrap();
    let others = topic == "~a"
        || topic.starts_with("~b")
        || topic
            .strip_prefix("~c/")
            .is_some_and(|rest| in_table(&[Piece::Variable { reserved: false }], rest));
    assert_eq!(set.covers(topic), covers || others, "{text:?} and {topic:?}");
    assert!(set.covers_pattern(&pattern), "{text:?}");
}

enum Naive<'t> {
    Exact,
    Prefix(&'t str),
    Template(Vec<Piece<'t>>),
}

enum Piece<'t> {
    Text(&'t str),
    Variable { reserved: bool },
}

/// The rules in the words of `split`. `None`: the pattern is refused.
fn naive(text: &str) -> Option<Naive<'_>> {
    if text.is_empty() || text.len() > MAX_PATTERN_BYTES || text.chars().any(char::is_control) {
        return None;
    }
    if !text.contains(['{', '}']) {
        return match text.strip_suffix('*') {
            Some(prefix) => (prefix.len() <= 256).then_some(Naive::Prefix(prefix)),
            None => (text.len() <= 256).then_some(Naive::Exact),
        };
    }
    if text.ends_with('*') {
        return None;
    }
    let (mut pieces, mut names) = (Vec::new(), Vec::new());
    for (at, part) in text.split('{').enumerate() {
        let rest = if at == 0 {
            part
        } else {
            let (expression, rest) = part.split_once('}')?;
            let name = expression.strip_prefix('+').unwrap_or(expression);
            let is_word =
                |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if names.contains(&name) || !name.split('.').all(is_word) {
                return None;
            }
            names.push(name);
            pieces.push(Piece::Variable { reserved: expression.starts_with('+') });
            rest
        };
        if rest.contains('}') || units(rest).contains(&"%") {
            return None;
        }
        pieces.push(Piece::Text(rest));
    }
    Some(Naive::Template(pieces))
}

/// Whole escapes, and single characters.
fn units(text: &str) -> Vec<&str> {
    let (mut units, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let is_escape =
            first == '%' && rest.len() >= 3 && rest.bytes().skip(1).take(2).all(|b| b.is_ascii_hexdigit());
        let len = if is_escape { 3 } else { first.len_utf8() };
        units.push(&rest[..len]);
        rest = &rest[len..];
    }
    units
}

/// Which numbers of units the first pieces can take, for one more piece in each round.
fn in_table(pieces: &[Piece<'_>], topic: &str) -> bool {
    let topic = units(topic);
    let mut ends = vec![false; topic.len() + 1];
    ends[0] = true;
    for piece in pieces {
        let mut next = vec![false; topic.len() + 1];
        for (begin, _) in ends.iter().enumerate().filter(|end| *end.1) {
            match piece {
                Piece::Text(text) => {
                    let text = units(text);
                    if topic[begin..].starts_with(&text) {
                        next[begin + text.len()] = true;
                    }
                }
                Piece::Variable { reserved } => {
                    next[begin] = true;
                    for (at, unit) in topic.iter().enumerate().skip(begin) {
                        if !is_in_variable(unit, *reserved) {
                            break;
                        }
                        next[at + 1] = true;
                    }
                }
            }
        }
        ends = next;
    }
    ends[topic.len()]
}

fn is_in_variable(unit: &str, reserved: bool) -> bool {
    let is_escape = unit.len() == 3 && unit.starts_with('%');
    let of_any = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c) || !c.is_ascii();
    is_escape || unit.chars().all(|c| of_any(c) || reserved && ":/?#[]@!$&'()*+,;=".contains(c))
}
