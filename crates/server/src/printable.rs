//! Text of a server for a terminal, which would obey some of its characters.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a terminal obeys a character. The control characters of Unicode are U+0000 to U+001F and U+007F to
/// U+009F; a terminal takes those of both ranges as the beginning of commands (ECMA-48, section 5.3). The
/// characters that change the direction of text (UAX #9, section 2) make a text look like another one.
fn is_obeyed(character: char) -> bool {
    let changes_direction = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    changes_direction || character.is_control() && character != '\t'
}

/// The text with the characters that a terminal obeys written as `\u{1b}` and the like. A line feed is `\n`,
/// and a tab stays.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |character, out| match character {
        '\n' => out.push_str("\\n"),
        // Writing to a text does not fail.
        _ => write!(out, "\\u{{{:x}}}", u32::from(character)).unwrap_or_default(),
    })
}

/// JSON text with the same characters escaped, some of which JSON itself leaves as they are (RFC 8259,
/// section 7). It means the same. The text is on one line.
pub(crate) fn printable_json(text: &str) -> Cow<'_, str> {
    escaped(text, |character, out| write!(out, "\\u{:04x}", u32::from(character)).unwrap_or_default())
}

fn escaped(text: &str, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_obeyed(character) {
            escape(character, &mut out);
        } else {
            out.push(character);
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_is_left() {
        assert_eq!(printable("evil\u{202e}txt.exe"), "evil\\u{202e}txt.exe");
        assert_eq!(printable("a\tb \u{e4} \u{1f600}"), "a\tb \u{e4} \u{1f600}");
        assert_eq!(
            printable("\u{1b}[31mred\u{9b}0m\r\n\u{7f}\0"),
            "\\u{1b}[31mred\\u{9b}0m\\u{d}\\n\\u{7f}\\u{0}"
        );
        for character in (0..=0x10ffff).filter_map(char::from_u32).filter(|character| *character != '\t') {
            let text = character.to_string();
            assert!(!printable(&text).contains(char::is_control), "{character:?}");
            let json = serde_json::to_string(&text).unwrap();
            let escaped = printable_json(&json);
            assert!(!escaped.contains(is_obeyed), "{character:?}");
            assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
        }
    }
}
