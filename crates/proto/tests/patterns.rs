//! Patterns: a table of patterns and topics, sets, and a naive matcher beside the automaton.

use fanfare_proto::pattern::{MAX_PATTERN_BYTES, MAX_PATTERNS, Pattern, PatternError, PatternSet};
use proptest::prelude::*;

/// A pattern, a topic, and whether it is covered.
const MATCHES: [(&str, &str, bool); 62] = [
    // Exact names.
    ("orders", "orders", true),
    ("orders", "order", false),
    ("orders", "orders/1", false),
    ("orders", "Orders", false),
    ("a*b", "a*b", true),
    ("a*b", "axb", false),
    ("ä", "ä", true),
    ("a b", "a b", true),
    ("50%", "50%", true),
    // Prefixes.
    ("orders*", "orders", true),
    ("orders*", "orders/1", true),
    ("orders/*", "orders", false),
    ("orders/*", "orders/", true),
    ("orders/*", "orders/1/2", true),
    ("*", "anything at all", true),
    ("**", "*a", true),
    ("**", "a*", false),
    // {var}.
    ("orders/{id}", "orders/42", true),
    ("orders/{id}", "orders/", true),
    ("orders/{id}", "orders", false),
    ("orders/{id}", "orders/4/2", false),
    ("orders/{id}", "orders/a-b.c_d~e", true),
    ("orders/{id}", "orders/a b", false),
    ("orders/{id}", "orders/a,b", false),
    ("orders/{id}", "orders/a+b", false),
    ("orders/{id}", "orders/a%2Fb", true),
    ("orders/{id}", "orders/a%2", false),
    ("orders/{id}", "orders/a%zz", false),
    ("orders/{id}", "orders/ä", true),
    ("orders/{id}", "xorders/1", false),
    ("{a}", "", true),
    ("{a}", "x", true),
    ("{a}/{b}", "x/y", true),
    ("{a}/{b}", "/", true),
    ("{a}/{b}", "x", false),
    ("{a}/{b}", "x/y/z", false),
    ("{a}{b}", "xy", true),
    ("{a}{b}", "x/y", false),
    ("{a}{+b}", "x/y", true),
    ("{+b}{a}", "x/y", true),
    ("{a}.json", "x.json.json", true),
    ("{a}.json", "x.jso", false),
    ("users/{user}/orders/{id}", "users/ada/orders/1", true),
    ("users/{user}/orders/{id}", "users/ada/bob/orders/1", false),
    ("{user.name}", "ada", true),
    // {+var}.
    ("files/{+path}", "files/a/b/c", true),
    ("files/{+path}", "files/", true),
    ("files/{+path}", "files/a?b=c&d#e[f]@!$'()*,;", true),
    ("files/{+path}", "files/a b", false),
    ("files/{+path}", "files/a\"b", false),
    ("files/{+path}", "files/a{b}", false),
    ("files/{+path}", "files/a%20b", true),
    ("files/{+path}", "files/100%", false),
    ("{+a}/{b}", "x/y/z", true),
    ("{+a}/{b}", "x/y/z w", false),
    ("{+a}b{+c}b{+d}", "abab", true),
    ("{+a}b{+c}b{+d}", "aba", false),
    ("https://example.com/{+a}", "https://example.com/x/y", true),
    ("https://example.com/{+a}", "https://example.org/x/y", false),
    ("x%2F{a}", "x%2Fy", true),
    ("x%2F{a}", "x%2fy", false),
    ("a*{b}", "a*c", true),
];

#[test]
fn every_pattern_of_the_table_covers_what_it_says() {
    for (pattern, topic, expected) in MATCHES {
        assert_eq!(Pattern::parse(pattern).unwrap().matches(topic), expected, "{pattern} and {topic}");
        let set = PatternSet::parse([pattern, "another"]).unwrap();
        assert_eq!(set.covers(topic), expected, "{pattern} and {topic}");
    }
}

/// What is not supported is refused: a pattern that never matches would look like a grant that does not work.
#[test]
fn every_pattern_of_the_table_is_refused_for_its_reason() {
    let longest = "x".repeat(MAX_PATTERN_BYTES + 1);
    let too_long_name = "x".repeat(257);
    let too_long_prefix = format!("{too_long_name}*");
    let table = [
        ("", PatternError::Empty),
        (&*longest, PatternError::TooLong),
        (&*too_long_name, PatternError::NotATopic),
        (&*too_long_prefix, PatternError::NotATopic),
        ("a\u{7f}", PatternError::NotATopic),
        ("a\r\nb*", PatternError::NotATopic),
        ("{a}\n", PatternError::NotATopic),
        ("{#a}", PatternError::Operator('#')),
        ("{.a}", PatternError::Operator('.')),
        ("{/a}", PatternError::Operator('/')),
        ("{;a}", PatternError::Operator(';')),
        ("{?a}", PatternError::Operator('?')),
        ("{&a}", PatternError::Operator('&')),
        ("{=a}", PatternError::Operator('=')),
        ("{,a}", PatternError::Operator(',')),
        ("{!a}", PatternError::Operator('!')),
        ("{@a}", PatternError::Operator('@')),
        ("{|a}", PatternError::Operator('|')),
        ("{a,b}", PatternError::List),
        ("{+a,b}", PatternError::List),
        ("{a:3}", PatternError::Modifier),
        ("{a*}", PatternError::Modifier),
        ("{+a*}", PatternError::Modifier),
        ("{}", PatternError::VariableName),
        ("{+}", PatternError::VariableName),
        ("{a b}", PatternError::VariableName),
        ("{a-b}", PatternError::VariableName),
        ("{.}", PatternError::Operator('.')),
        ("{a.}", PatternError::VariableName),
        ("{a..b}", PatternError::VariableName),
        ("{ä}", PatternError::VariableName),
        ("{++a}", PatternError::VariableName),
        ("{a}/{a}", PatternError::RepeatedVariable),
        ("{a}/{+a}", PatternError::RepeatedVariable),
        ("{a", PatternError::Braces),
        ("a}", PatternError::Braces),
        ("{{a}}", PatternError::Braces),
        ("{a}}", PatternError::Braces),
        ("{a{b}", PatternError::Braces),
        ("{a}*", PatternError::TemplateAndPrefix),
        ("a/{b}/*", PatternError::TemplateAndPrefix),
        ("50%/{a}", PatternError::Percent),
        ("%4{a}", PatternError::Percent),
    ];
    for (pattern, error) in table {
        assert_eq!(Pattern::parse(pattern).unwrap_err(), error, "{pattern}");
    }
}

#[test]
fn a_set_has_a_bounded_number_of_patterns() {
    let names: Vec<String> = (0..=MAX_PATTERNS).map(|n| n.to_string()).collect();
    let texts = || names.iter().map(String::as_str);
    assert!(PatternSet::parse(texts().take(MAX_PATTERNS)).is_ok());
    assert_eq!(PatternSet::parse(texts()).unwrap_err(), PatternError::TooMany);
}

/// A prefix that another one contains was left out, and the search by order must still find the shorter one.
#[test]
fn nested_prefixes_are_found() {
    let set = PatternSet::parse(["a/b/*", "a*", "a/c*", "b/x*", "b/y*"]).unwrap();
    for topic in ["a", "a/b/c", "a/z", "ab", "b/x", "b/yy"] {
        assert!(set.covers(topic), "{topic}");
    }
    for topic in ["b", "b/", "b/z", "c", "A", "b/wx"] {
        assert!(!set.covers(topic), "{topic}");
    }
}

#[test]
fn a_set_covers_the_patterns_that_it_contains() {
    let set = PatternSet::parse(["a/*", "b/{x}", "c"]).unwrap();
    let covers = |pattern: &str| set.covers_pattern(&Pattern::parse(pattern).unwrap());
    for pattern in ["a/*", "a/b*", "a/{x}", "a/b", "b/{x}", "b/{another}", "b/1", "c"] {
        assert!(covers(pattern), "{pattern}");
    }
    for pattern in ["*", "a*", "a{x}", "b/*", "b/{+x}", "b/{x}/{y}", "c*", "d"] {
        assert!(!covers(pattern), "{pattern}");
    }
}

#[test]
fn patterns_of_one_form_are_normalized_to_one_pattern() {
    let pattern = |text: &str| Pattern::parse(text).unwrap();
    for (text, normalized) in [
        ("a*", "a*"),
        ("a*b", "a*b"),
        ("/users/{user.id}", "/users/{a}"),
        ("/{z}/{+y}.{x}", "/{a}/{+b}.{c}"),
        ("{x}{y}/{+z}{w}", "{a}/{+b}"),
        ("ä{x}%41", "ä{a}%41"),
    ] {
        assert_eq!(pattern(text).normalized(), pattern(normalized), "{text}");
        assert!(pattern(text).has_form_of(&pattern(normalized)), "{text}");
        assert_eq!(Pattern::parse(pattern(text).normalized().as_str()).unwrap(), pattern(normalized));
    }
    for (one, other) in [("a*", "a"), ("a{x}", "a{+x}"), ("a{x}", "a"), ("{x}a", "a{x}"), ("a", "b")] {
        assert!(!pattern(one).has_form_of(&pattern(other)), "{one} and {other}");
    }
    // As many variables as a pattern can have: the names of one character are used up.
    let names: Vec<char> = ('a'..='z').chain('A'..='Z').chain('0'..='9').chain(['_']).collect();
    let name = |at: usize| match at.checked_sub(names.len()) {
        None => names[at].to_string(),
        Some(at) => format!("z{}", names[at]),
    };
    let longest: String = (0..115).rev().map(|at| format!("{{{}}}x", name(at))).collect();
    let normalized = pattern(&longest).normalized();
    assert!(normalized.as_str().len() <= longest.len());
    assert!(Pattern::parse(normalized.as_str()).unwrap().has_form_of(&pattern(&longest)));
}

#[test]
fn patterns_are_compared_by_their_texts_and_say_what_topics_begin_with() {
    let pattern = |text: &str| Pattern::parse(text).unwrap();
    let sorted: std::collections::BTreeSet<Pattern> = ["b", "a*", "{x}", "a*", "a"].map(pattern).into();
    let texts: Vec<&str> = sorted.iter().map(Pattern::as_str).collect();
    assert_eq!(texts, ["a", "a*", "b", "{x}"]);
    assert_ne!(pattern("{x}"), pattern("{y}"));
    for (text, beginning) in [("a/b", "a/b"), ("a/*", "a/"), ("*", ""), ("a/{x}/b", "a/"), ("{x}", "")] {
        assert_eq!(pattern(text).fixed_beginning(), beginning, "{text}");
        assert_eq!(pattern(text).to_string(), text);
    }
}

/// One piece of a template for the naive matcher.
#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Variable { reserved: bool },
}

/// The units of a topic: a whole escape, or one character.
fn units(topic: &str) -> Vec<String> {
    let characters: Vec<char> = topic.chars().collect();
    let mut units = Vec::new();
    let mut at = 0;
    while at < characters.len() {
        let hex = |offset: usize| characters.get(at + offset).is_some_and(char::is_ascii_hexdigit);
        let len = if characters[at] == '%' && hex(1) && hex(2) { 3 } else { 1 };
        units.push(characters[at..at + len].iter().collect());
        at += len;
    }
    units
}

/// Tries every way to match: exponential, and obvious.
fn naive(pieces: &[Piece], units: &[String]) -> bool {
    match pieces.split_first() {
        None => units.is_empty(),
        Some((Piece::Text(text), rest)) => {
            (0..=units.len()).any(|end| units[..end].concat() == *text && naive(rest, &units[end..]))
        }
        Some((Piece::Variable { reserved }, rest)) => {
            let allowed = |unit: &String| {
                unit.len() == 3 && unit.starts_with('%')
                    || unit.chars().all(|c| c.is_ascii_alphanumeric() || "-._~".contains(c) || !c.is_ascii())
                    || *reserved && unit.chars().all(|c| ":/?#[]@!$&'()*+,;=".contains(c))
            };
            let most = units.iter().take_while(|unit| allowed(unit)).count();
            (0..=most).any(|end| naive(rest, &units[end..]))
        }
    }
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        "([ab/4 ä]|%41){1,4}".prop_map(Piece::Text),
        any::<bool>().prop_map(|reserved| Piece::Variable { reserved }),
    ]
}

proptest! {
    #[test]
    fn the_automaton_matches_what_a_naive_matcher_does(
        pieces in prop::collection::vec(piece(), 1..6),
        topic in "([ab/4 ä%]|%41){1,10}",
    ) {
        let text: String = pieces.iter().enumerate().map(|(at, piece)| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Variable { reserved: false } => format!("{{v{at}}}"),
            Piece::Variable { reserved: true } => format!("{{+v{at}}}"),
        }).collect();
        let expected = naive(&pieces, &units(&topic));
        prop_assert_eq!(Pattern::parse(&text).unwrap().matches(&topic), expected, "{} and {}", text, topic);
    }

    #[test]
    fn a_set_covers_what_one_of_its_patterns_matches(
        texts in prop::collection::vec("[ab]{1,3}[*]?|[ab]?[{]x[}][ab]?", 0..8),
        topic in "[ab]{1,5}",
    ) {
        let set = PatternSet::parse(texts.iter().map(String::as_str)).unwrap();
        let expected = texts.iter().any(|text| Pattern::parse(text).unwrap().matches(&topic));
        prop_assert_eq!(set.covers(&topic), expected);
    }
}
