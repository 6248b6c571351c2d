//! Topics as subjects of NATS, and back.
//!
//! | topic | subject, with the prefix `fanfare` |
//! |---|---|
//! | `orders` | `fanfare.orders` |
//! | `orders/42` | `fanfare.orders.42` |
//! | `a.b`, `50%`, `a b` | `fanfare.a%2Eb`, `fanfare.50%25`, `fanfare.a%20b` |
//! | `*`, `>`, `$x` | `fanfare.%2A`, `fanfare.%3E`, `fanfare.%24x` |
//! | `a/`, `/`, `a//b` | `fanfare.a.%`, `fanfare.%.%`, `fanfare.a.%.b` |
//!
//! A slash separates the tokens of a subject. What a token cannot have is written as its bytes in UTF-8, each
//! as `%` and two upper-case hexadecimal digits: `.`, `*`, `>`, `%`, white space of any script, the
//! replacement character U+FFFD, and a `$` at the beginning of a token. A token without characters is `%`
//! alone. Everything else stays as it is. A topic has one subject, and a subject that is written in another
//! way has no topic.

use std::fmt::Write;

use fanfare_proto::event::Topic;

/// The last token of the subject for events with several topics. No topic has it, because a topic's token
/// does not begin with `$`.
const MULTI: &str = "$multi";

/// The subjects of one stream.
#[derive(Clone, Debug)]
pub(crate) struct Subjects {
    /// With the dot at its end.
    prefix: String,
}

/// What a subject stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A single topic.
    Topic(Topic),
    /// The topics are in a header.
    Multi,
}

impl Subjects {
    /// The subjects below this prefix, which is a subject itself.
    pub(crate) fn new(prefix: &str) -> Subjects {
        Subjects { prefix: format!("{prefix}.") }
    }

    /// What the stream has to take.
    pub(crate) fn all(&self) -> String {
        format!("{}>", self.prefix)
    }

    /// Where events with several topics are.
    pub(crate) fn multi(&self) -> String {
        format!("{}{MULTI}", self.prefix)
    }

    /// Where events with this topic alone are.
    pub(crate) fn of_topic(&self, topic: &Topic) -> String {
        let mut subject = String::with_capacity(self.prefix.len() + topic.as_str().len());
        subject.push_str(&self.prefix);
        for (index, token) in topic.as_str().split('/').enumerate() {
            if index > 0 {
                subject.push('.');
            }
            encode(token, &mut subject);
        }
        subject
    }

    /// Where an event with these topics goes.
    pub(crate) fn of_topics(&self, topics: &[Topic]) -> String {
        match topics {
            [topic] => self.of_topic(topic),
            _ => self.multi(),
        }
    }

    /// What a subject stands for. `None`: it has no topic.
    pub(crate) fn place(&self, subject: &str) -> Option<Place> {
        let tokens = subject.strip_prefix(&self.prefix)?;
        if tokens == MULTI {
            return Some(Place::Multi);
        }
        let mut name = String::with_capacity(tokens.len());
        for (index, token) in tokens.split('.').enumerate() {
            if index > 0 {
                name.push('/');
            }
            decode(token, &mut name)?;
        }
        let topic = Topic::new(name).ok()?;
        (self.of_topic(&topic) == subject).then_some(Place::Topic(topic))
    }
}

/// Whether a token cannot have this character as it is.
fn is_escaped(character: char, is_first: bool) -> bool {
    matches!(character, '.' | '*' | '>' | '%' | char::REPLACEMENT_CHARACTER)
        || (is_first && character == '$')
        || character.is_whitespace()
        || character.is_control()
}

fn encode(token: &str, into: &mut String) {
    if token.is_empty() {
        into.push('%');
    }
    for (at, character) in token.char_indices() {
        if is_escaped(character, at == 0) {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(into, "%{byte:02X}");
            }
        } else {
            into.push(character);
        }
    }
}

fn decode(token: &str, into: &mut String) -> Option<()> {
    if token == "%" {
        return Some(());
    }
    let mut bytes = Vec::with_capacity(token.len());
    let mut rest = token.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first == b'%' {
            let (digits, behind) = rest.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = behind;
        } else {
            bytes.push(first);
        }
    }
    into.push_str(std::str::from_utf8(&bytes).ok()?);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subjects() -> Subjects {
        Subjects::new("fanfare")
    }

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    #[test]
    fn the_table_of_the_documentation_holds() {
        for (name, subject) in [
            ("orders", "fanfare.orders"),
            ("orders/42", "fanfare.orders.42"),
            ("a.b", "fanfare.a%2Eb"),
            ("50%", "fanfare.50%25"),
            ("a b", "fanfare.a%20b"),
            ("*", "fanfare.%2A"),
            (">", "fanfare.%3E"),
            ("$x", "fanfare.%24x"),
            ("x$", "fanfare.x$"),
            ("$multi", "fanfare.%24multi"),
            ("a/$multi", "fanfare.a.%24multi"),
            ("a/", "fanfare.a.%"),
            ("/", "fanfare.%.%"),
            ("a//b", "fanfare.a.%.b"),
            ("é\u{a0}\u{2028}", "fanfare.é%C2%A0%E2%80%A8"),
            ("\u{fffd}", "fanfare.%EF%BF%BD"),
        ] {
            assert_eq!(subjects().of_topic(&topic(name)), subject, "{name:?}");
            assert_eq!(subjects().place(subject), Some(Place::Topic(topic(name))), "{subject:?}");
        }
    }

    #[test]
    fn subjects_that_no_topic_has_have_no_topic() {
        for subject in [
            "fanfare",
            "fanfare.",
            "fanfare..a",
            "fanfare.a.",
            "fanfare.%2e",
            "fanfare.%41",
            "fanfare.%+1",
            "fanfare.%4",
            "fanfare.%",
            "fanfare.a%",
            "fanfare.%%",
            "fanfare.%2F",
            "fanfare.$x",
            "fanfare.a.$multi",
            "fanfare.$multi.a",
            "fanfare.%C3",
            "fanfare.%0A",
            "fanfare.a b",
            "fanfare.\u{fffd}",
            "other.a",
            "fanfarea.b",
        ] {
            assert_eq!(subjects().place(subject), None, "{subject:?}");
        }
        assert_eq!(subjects().place("fanfare.$multi"), Some(Place::Multi));
        let long = format!("fanfare.{}", "x".repeat(257));
        assert_eq!(subjects().place(&long), None);
    }

    #[test]
    fn each_character_goes_there_and_back_in_each_place() {
        for character in (0..=0x0010_ffff).filter_map(char::from_u32).step_by(7).chain('\0'..='\u{2fff}') {
            for name in [format!("{character}"), format!("a{character}/{character}b")] {
                let Ok(topic) = Topic::new(&name) else { continue };
                let subject = subjects().of_topic(&topic);
                assert!(
                    !subject.contains(char::is_whitespace) && !subject.contains(['*', '>']),
                    "{subject:?}"
                );
                assert!(subject.split('.').all(|token| !token.is_empty()), "{subject:?}");
                assert_eq!(subjects().place(&subject), Some(Place::Topic(topic)), "{subject:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_topic_goes_there_and_back(name in "[a/.%*>$ é\u{a0}\u{fffd}%]{1,40}|.{1,64}") {
            if let Ok(topic) = Topic::new(&name) {
                let subject = subjects().of_topic(&topic);
                prop_assert_eq!(subjects().place(&subject), Some(Place::Topic(topic)));
            }
        }

        #[test]
        fn a_subject_has_a_topic_only_if_the_topic_has_the_subject(
            tokens in "[a.%$2E4F\u{e9} ]{0,12}|[!-~]{0,40}",
        ) {
            let subject = format!("fanfare.{tokens}");
            if let Some(Place::Topic(topic)) = subjects().place(&subject) {
                prop_assert_eq!(subjects().of_topic(&topic), subject);
            }
        }
    }
}
