//! The format of pprof, <https://github.com/google/pprof/blob/main/proto/profile.proto>: a message of
//! Protocol Buffers with a table of texts.

use std::collections::HashMap;
use std::time::Duration;

/// What is measured, and in which unit.
#[derive(Clone, Copy)]
pub(super) struct Value {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
}

/// An address of code and the functions there, the innermost one first: name, file and line.
#[derive(Clone)]
pub(super) struct Frame {
    pub(super) address: u64,
    pub(super) functions: Vec<(String, String, u32)>,
}

/// A profile that is being written.
pub(super) struct Profile {
    message: Message,
    texts: Table<String>,
    functions: Table<(i64, i64)>,
    locations: Table<u64>,
    value_count: usize,
}

impl Profile {
    pub(super) fn new(values: &[Value], period_type: Value, period: i64) -> Profile {
        let mut profile = Profile {
            message: Message::default(),
            texts: Table::default(),
            functions: Table::default(),
            locations: Table::default(),
            value_count: values.len(),
        };
        // The first text is the empty one.
        profile.text("");
        for value in values {
            let value = profile.value_type(*value);
            profile.message.bytes(1, &value.0);
        }
        let period_type = profile.value_type(period_type);
        profile.message.bytes(11, &period_type.0);
        profile.message.number(12, period);
        profile
    }

    pub(super) fn set_duration(&mut self, duration: Duration) {
        self.message.number(10, duration.as_nanos() as i64);
    }

    pub(super) fn comment(&mut self, text: &str) {
        let text = self.text(text);
        self.message.number(13, text);
    }

    /// Adds a stack, the innermost function first, with a number for each of the values, and with a label.
    pub(super) fn add(&mut self, stack: &[Frame], values: &[i64], label: Option<(&str, &str)>) {
        debug_assert_eq!(values.len(), self.value_count);
        let mut sample = Message::default();
        for frame in stack {
            let location = self.location(frame);
            sample.number(1, location);
        }
        for value in values {
            sample.number(2, *value);
        }
        if let Some((name, text)) = label {
            let mut label = Message::default();
            label.number(1, self.text(name));
            label.number(2, self.text(text));
            sample.bytes(3, &label.0);
        }
        self.message.bytes(2, &sample.0);
    }

    pub(super) fn encode(mut self) -> Vec<u8> {
        let mut texts: Vec<(String, usize)> = self.texts.0.into_iter().collect();
        texts.sort_unstable_by_key(|(_, index)| *index);
        for (text, _) in texts {
            self.message.bytes(6, text.as_bytes());
        }
        self.message.0
    }

    fn value_type(&mut self, value: Value) -> Message {
        let mut message = Message::default();
        message.number(1, self.text(value.name));
        message.number(2, self.text(value.unit));
        message
    }

    fn text(&mut self, text: &str) -> i64 {
        self.texts.index(text.to_owned()).0
    }

    fn location(&mut self, frame: &Frame) -> i64 {
        let (index, is_new) = self.locations.index(frame.address);
        // Zero means none.
        let id = index + 1;
        if is_new {
            let mut location = Message::default();
            location.number(1, id);
            location.number(3, frame.address as i64);
            for (name, file, line) in &frame.functions {
                let mut message = Message::default();
                message.number(1, self.function(name, file));
                message.number(2, i64::from(*line));
                location.bytes(4, &message.0);
            }
            self.message.bytes(4, &location.0);
        }
        id
    }

    fn function(&mut self, name: &str, file: &str) -> i64 {
        let (name, file) = (self.text(name), self.text(file));
        let (index, is_new) = self.functions.index((name, file));
        let id = index + 1;
        if is_new {
            let mut function = Message::default();
            for (field, value) in [(1, id), (2, name), (3, name), (4, file)] {
                function.number(field, value);
            }
            self.message.bytes(5, &function.0);
        }
        id
    }
}

/// Gives each key an index, in the order in which they come.
struct Table<K>(HashMap<K, usize>);

impl<K> Default for Table<K> {
    fn default() -> Table<K> {
        Table(HashMap::new())
    }
}

impl<K: Eq + std::hash::Hash> Table<K> {
    /// The index, and whether it is new.
    fn index(&mut self, key: K) -> (i64, bool) {
        let count = self.0.len();
        let index = *self.0.entry(key).or_insert(count);
        (index as i64, index == count)
    }
}

/// A message of Protocol Buffers: fields with their numbers.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, field: u64, value: i64) {
        self.varint(field << 3);
        // Two's complement, as the format has it.
        self.varint(value as u64);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}
