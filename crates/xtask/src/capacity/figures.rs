//! The figures that a plan is calculated with, each with its unit and its source.

use std::collections::BTreeMap;

/// A figure.
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) value: f64,
    pub(super) unit: &'static str,
    /// Whether it is an assumption, because nobody has measured it here.
    pub(super) is_assumed: bool,
    pub(super) source: &'static str,
}

/// Makes the table and a structure with a field for each figure.
macro_rules! figures {
    ($($name:ident = $value:literal $unit:literal, $kind:ident, $source:literal;)*) => {
        /// The values that a calculation takes.
        #[derive(Clone, Debug, PartialEq)]
        pub(super) struct Figures {
            $(pub(super) $name: f64,)*
        }

        /// All of them, with what is taken where nothing else is asked for.
        pub(super) const TABLE: &[Figure] = &[$(Figure {
            name: stringify!($name),
            value: $value,
            unit: $unit,
            is_assumed: is_assumed!($kind),
            source: $source,
        },)*];

        impl Default for Figures {
            fn default() -> Figures {
                Figures { $($name: $value,)* }
            }
        }

        impl Figures {
            fn field(&mut self, name: &str) -> Option<&mut f64> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)*
                    _ => None,
                }
            }
        }
    };
}

macro_rules! is_assumed {
    (measured) => {
        false
    };
    (arithmetic) => {
        false
    };
    (assumed) => {
        true
    };
}

figures! {
    delivery_us = 4.03 "us of CPU", measured,
        "one delivery of 200 bytes of a million streams, epoll: BENCHMARKS.md, CPU per delivery at a million";
    replayed_delivery_us = 0.32 "us of CPU", measured,
        "one delivery among many that one write joins, epoll: BENCHMARKS.md, As fast as they go";
    connect_us = 25.0 "us of CPU", measured,
        "one connect up to its open stream, epoll, TLS off: BENCHMARKS.md, CPU of an opened stream (to 25.0)";
    idle_stream_us = 0.4 "us of CPU a second", measured,
        "one idle stream with heartbeats, epoll: BENCHMARKS.md, A million on one machine (40 % of a core)";
    event_us = 0.65 "us of CPU", measured,
        "one event in batches with one reader, on each node: BENCHMARKS.md, Cost of a publish by shards";
    backplane_event_us = 27.0 "us of CPU", measured,
        "one event that a node reads from the shared log, at most: half of 2 cores / 36,600 events, SCALING.md";
    user_bytes = 67.2 "bytes", measured,
        "one idle stream, memory of the process: BENCHMARKS.md, A million on one machine";
    socket_bytes = 4170.0 "bytes", measured,
        "one socket in the kernel: BENCHMARKS.md, A million on one machine (8,339 for both ends)";
    queued_bytes = 4096.0 "bytes", measured,
        "one socket with unsent bytes takes a page at least: a kernel measurement on Linux 6.18";
    frame_bytes = 60.0 "bytes", arithmetic,
        "id, field names, line ends and chunk of one event: OPERATING.md, Network";
    packet_bytes = 90.0 "bytes", arithmetic,
        "headers of one packet: Ethernet with its gap 38, IPv4 20, TCP with timestamps 32";
    segment_bytes = 1448.0 "bytes", arithmetic,
        "the most that one packet carries: 1,500 without the headers of IPv4 and TCP";
    opening_bytes = 400.0 "bytes", arithmetic,
        "the head of the answer and the opening of a stream: PROTOCOL.md";
    stream_events = 36600.0 "events a second", measured,
        "one JetStream stream, one replica, beside two nodes on 2 cores: SCALING.md, What the shared log costs";
    reserved_bytes = 1073741824.0 "bytes", arithmetic,
        "what a node needs beside its streams: the log, mailboxes and the system; serve prints the first two";
}

impl Figures {
    /// Sets figures from texts such as `connect_us=30`.
    ///
    /// # Errors
    /// The text has no such form, or there is no such figure.
    pub(super) fn with(texts: &[String]) -> Result<Figures, String> {
        let mut figures = Figures::default();
        for text in texts {
            let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=NUMBER"))?;
            let value = super::units::number(value)?;
            *figures.field(name).ok_or_else(|| unknown(name))? = value;
        }
        Ok(figures)
    }

    /// What a delivery takes on the wire: the event, what its frame adds, and the headers of its packets.
    pub(super) fn wire_bytes(&self, event_bytes: f64) -> f64 {
        let bytes = event_bytes + self.frame_bytes;
        bytes + (bytes / self.segment_bytes).ceil() * self.packet_bytes
    }
}

fn unknown(name: &str) -> String {
    let names: Vec<_> = TABLE.iter().map(|figure| figure.name).collect();
    format!("there is no figure {name}; there are {}", names.join(", "))
}

/// All figures as a table: what is taken, and where it comes from.
pub(super) fn describe(taken: &Figures) -> String {
    let mut taken = taken.clone();
    let mut lines = BTreeMap::new();
    for figure in TABLE {
        let value = taken.field(figure.name).map_or(figure.value, |value| *value);
        let changed = if value == figure.value { "" } else { " (given)" };
        let kind = if figure.is_assumed { " ASSUMED" } else { "" };
        let line =
            format!("{:<21}{value:>12} {}{changed}{kind}: {}\n", figure.name, figure.unit, figure.source);
        lines.insert(figure.name, line);
    }
    TABLE.iter().filter_map(|figure| lines.remove(figure.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_can_be_given() {
        let figures = Figures::with(&["connect_us=30".to_owned(), "stream_events=1M".to_owned()]).unwrap();
        assert_eq!((figures.connect_us, figures.stream_events), (30.0, 1e6));
        assert_eq!(figures.delivery_us, Figures::default().delivery_us);
        assert!(describe(&figures).contains("30 us of CPU (given)"), "{}", describe(&figures));
        for wrong in ["connect_us", "connect=3", "connect_us=fast", "connect_us=-1"] {
            assert!(Figures::with(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_figure_has_a_source_and_assumptions_say_so() {
        for figure in TABLE {
            assert!(figure.value > 0.0 && figure.source.len() > 20, "{}", figure.name);
            assert_eq!(figure.is_assumed, figure.source.ends_with("TO MEASURE"), "{}", figure.name);
        }
        assert_eq!(describe(&Figures::default()).lines().count(), TABLE.len());
    }

    /// 200 bytes and the 60 of a frame are one packet with headers of 90; 3,000 and 60 are three.
    #[test]
    fn a_delivery_on_the_wire_is_its_frame_and_the_headers_of_its_packets() {
        let figures = Figures::default();
        assert_eq!(figures.wire_bytes(200.0), 350.0);
        assert_eq!(figures.wire_bytes(3000.0), 3330.0);
    }
}
