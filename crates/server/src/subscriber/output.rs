//! How events are printed.

use std::io::{self, IsTerminal};

use serde_json::json;

use crate::cli::{Format, SubOptions};
use crate::printable::{printable, printable_json};

/// Events of the server itself begin with this: they are about the stream.
const OWN_TYPES: &str = "fanfare.";

/// The format of a line.
pub(super) struct Output {
    format: Format,
    is_terminal: bool,
}

impl Output {
    pub(super) fn new(options: &SubOptions) -> Output {
        let format = if options.data { Format::Data } else { options.format };
        Output { format, is_terminal: io::stdout().is_terminal() }
    }

    /// Appends the line of an event. False: it is no line of the output. A gap is no data, so that only
    /// people are shown it where data is printed alone.
    pub(super) fn write(&self, kind: &str, data: &str, id: &str, out: &mut Vec<u8>) -> bool {
        let line = match self.format {
            Format::Json => {
                printable_json(&json!({ "id": id, "type": kind, "data": data }).to_string()).into_owned()
            }
            Format::Data | Format::Text if kind.starts_with(OWN_TYPES) => {
                eprintln!("fanfare: {}: {}", printable(kind), printable(data));
                return false;
            }
            Format::Data => self.escaped(data),
            Format::Text => {
                let column = |text| self.escaped(text).replace('\t', "\\t");
                format!("{}\t{}\t{}", column(id), column(kind), column(data))
            }
        };
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
        true
    }

    /// On one line; and where a terminal shows it, without what a terminal obeys.
    fn escaped(&self, text: &str) -> String {
        let one_line = text.replace('\\', "\\\\").replace('\n', "\\n");
        if self.is_terminal { printable(&one_line).into_owned() } else { one_line }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: Format, is_terminal: bool, kind: &str, data: &str) -> Option<String> {
        let mut out = Vec::new();
        let output = Output { format, is_terminal };
        output.write(kind, data, "a-1", &mut out).then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn each_event_is_one_line_that_can_be_read_back() {
        let data = "one\ntwo\\\u{1b}[2J";
        assert_eq!(line(Format::Data, false, "t", data).as_deref(), Some("one\\ntwo\\\\\u{1b}[2J\n"));
        assert_eq!(line(Format::Data, true, "t", data).as_deref(), Some("one\\ntwo\\\\\\u{1b}[2J\n"));
        assert_eq!(line(Format::Text, false, "t\t", "x").as_deref(), Some("a-1\tt\\t\tx\n"));
        let json = line(Format::Json, false, "t", data).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value, json!({ "id": "a-1", "type": "t", "data": data }));
    }

    #[test]
    fn a_gap_is_an_event_in_json_and_no_data() {
        assert!(line(Format::Json, false, "fanfare.gap", "{}").is_some());
        assert_eq!(line(Format::Data, false, "fanfare.gap", "{}"), None);
        assert_eq!(line(Format::Text, false, "fanfare.gap", "{}"), None);
    }
}
