//! The one piece of JSON that the engine writes itself: string literals.

use std::fmt::Write;

/// A JSON string literal with this text (RFC 8259, section 7).
pub fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if (control as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", control as u32);
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_forbids_in_a_string_is_escaped() {
        assert_eq!(json_string("a\"b\\c\nd\u{1f}\u{7f}ä"), "\"a\\\"b\\\\c\\u000ad\\u001f\u{7f}ä\"");
        assert_eq!(json_string(""), "\"\"");
    }
}
