//! The columns of a comparison's tables, on a terminal and on a page. Each scenario has those that it is
//! about.

use super::table::{figure, group};
use crate::compare::{Contest, Figure, Row};

/// A column after the name and the number of streams.
#[derive(Clone, Copy)]
pub(super) struct Column {
    pub(super) title: &'static str,
    value: Value,
}

#[derive(Clone, Copy)]
enum Value {
    /// A figure by its name, in units of so many.
    Figure(&'static str, f64),
    /// The faults of all rounds.
    Faults,
    /// The fewest streams that were open at the end of a round.
    OpenAtEnd,
}

/// What a figure is where the client was the bottleneck of a round: the client adds to latencies, and takes
/// from rates.
fn bound(name: &str) -> &'static str {
    match name {
        "deliveries_per_s" | "opening.per_second" => ">= ",
        _ if name.contains("latency") || name.contains("_ms") || name.contains("answer_us") => "<= ",
        _ => "",
    }
}

impl Column {
    /// What a cell shows: the median, and the range where there is one.
    pub(super) fn value(&self, row: &Row) -> (String, Option<String>) {
        match self.value {
            Value::Faults => (group(row.faults()), None),
            Value::Figure(name, factor) => {
                let found = row.figure(name).map(|figure| figure.times(factor));
                let bound = if row.is_client_bound() && found.is_some() { bound(name) } else { "" };
                (format!("{bound}{}", figure(found.map(|found| found.median))), found.and_then(range))
            }
            Value::OpenAtEnd => {
                let open = row.rounds.iter().map(|round| round.streams_open_at_end).min();
                (open.map_or("-".to_owned(), group), None)
            }
        }
    }
}

/// From the lowest to the highest, where they differ.
pub(super) fn range(found: Figure) -> Option<String> {
    let (lowest, highest) = (figure(Some(found.lowest)), figure(Some(found.highest)));
    (lowest != highest).then(|| format!("{lowest}-{highest}"))
}

macro_rules! figures {
    ($($name:ident, $title:expr, $figure:expr $(, $factor:expr)?;)*) => {$(
        const $name: Column =
            Column { title: $title, value: Value::Figure($figure, 1.0 $(* $factor)?) };
    )*};
}

figures! {
    P50, "p50 us", "latency_us.p50";
    P99, "p99 us", "latency_us.p99";
    P99_9, "p99.9 us", "latency_us.p99_9";
    MAX, "max us", "latency_us.max";
    LAST, "last ms", "last_subscriber_ms";
    ACHIEVED, "achieved deliveries/s", "deliveries_per_s";
    ANSWER_P99, "answer p99 us", "client.publish_answer_us.p99";
    CPU, "CPU us/delivery", "server_cpu_us_per_delivery";
    CPU_SHARE, "CPU % of a core", "server_cpu_share", 100.0;
    IDLE_CPU, "idle CPU % of a core", "server_idle_cpu_share", 100.0;
    USER, "user B/stream", "server_user_bytes_per_connection";
    USER_AFTER, "after", "server_user_bytes_per_connection_after";
    SLAB, "slab B/pair", "kernel_slab_bytes_per_pair";
    STACKS, "stack+tables B/pair", "kernel_stack_bytes_per_pair";
    OPENED, "opened/s", "opening.per_second";
    OPENING_CPU, "CPU us/opening", "server_cpu_us_per_opening";
    OPENING, "opening p99 us", "opening.latency_us.p99";
    ALL_BACK, "all back ms", "storm_all_back_ms";
    MISSED, "missed while away", "missed_while_away";
    STEADY_BEFORE, "p99 us before", "parts.before, steady.latency_us.p99";
    STEADY_STALLED, "p99 us while stalled", "parts.while stalled, steady.latency_us.p99";
    GROWN, "server bytes grown", "slow_server_bytes_grown";
    BUFFERS, "socket bytes grown", "slow_kernel_tcp_bytes_grown";
    SLOW_LOST, "lost by the stalled", "slow_lost";
    OPENED_IN_ALL, "opened in all", "opening.streams";
    OFFERED, "offered/s", "offered_deliveries_per_s";
    BIG_P50, "big p50 us", "parts.big.latency_us.p50";
    BIG_P99, "big p99 us", "parts.big.latency_us.p99";
    SMALL_P50, "small p50 us", "parts.small.latency_us.p50";
    SMALL_P99, "small p99 us", "parts.small.latency_us.p99";
}

const FAULTS: Column = Column { title: "faults", value: Value::Faults };
const OPEN: Column = Column { title: "open at end", value: Value::OpenAtEnd };

/// What a scenario's table shows.
pub(super) fn columns(contest: Contest) -> Vec<Column> {
    match contest {
        Contest::Fanout => {
            vec![
                P50, P99, P99_9, MAX, LAST, ANSWER_P99, OFFERED, ACHIEVED, CPU, USER, USER_AFTER, SLAB, OPEN,
                FAULTS,
            ]
        }
        Contest::Idle => {
            vec![IDLE_CPU, USER, USER_AFTER, SLAB, STACKS, OPENED, OPENING_CPU, OPENING, OPEN, FAULTS]
        }
        Contest::Saturate => vec![ACHIEVED, CPU, CPU_SHARE, USER, USER_AFTER, OPEN, FAULTS],
        Contest::Storm => vec![ALL_BACK, OPENING, MISSED, P99, MAX, CPU, USER, USER_AFTER, OPEN, FAULTS],
        Contest::Slow => {
            vec![STEADY_BEFORE, STEADY_STALLED, MAX, GROWN, BUFFERS, SLOW_LOST, CPU, OPEN, FAULTS]
        }
        Contest::Churn => vec![OPENED_IN_ALL, OPENING, P50, P99, MAX, CPU, USER_AFTER, OPEN, FAULTS],
        Contest::Topics => vec![P50, P99, P99_9, MAX, OFFERED, ACHIEVED, CPU, USER, USER_AFTER, OPEN, FAULTS],
        Contest::Mixed => vec![SMALL_P50, SMALL_P99, BIG_P50, BIG_P99, LAST, CPU, USER, OPEN, FAULTS],
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::report::Report;

    #[test]
    fn no_scenario_shows_a_title_twice_and_all_show_faults() {
        for &contest in Contest::value_variants() {
            let mut titles: Vec<&str> = columns(contest).iter().map(|column| column.title).collect();
            assert_eq!(titles.last(), Some(&"faults"), "{contest:?}");
            let all = titles.len();
            titles.sort_unstable();
            titles.dedup();
            assert_eq!(titles.len(), all, "{contest:?}");
        }
    }

    /// A figure of a client at its limit looked like the server's.
    #[test]
    fn figures_of_a_client_at_its_limit_are_bounds() {
        let found = Figure { median: 5.0, lowest: 5.0, highest: 5.0, rounds: 1 };
        let figures = ["latency_us.p99", "deliveries_per_s", "server_cpu_us_per_delivery"];
        let figures = figures.map(|name| (name.to_owned(), found)).into_iter().collect();
        let round =
            |lower_bound| Report { valid: true, lower_bound, streams_open_at_end: 7, ..Report::default() };
        let mut row = Row { figures, rounds: vec![round(false), round(true)], ..Row::default() };
        let shown = |row: &Row| [P99, ACHIEVED, CPU, OPEN, P50].map(|column| column.value(row).0);
        assert_eq!(shown(&row), ["<= 5.00", ">= 5.00", "5.00", "7", "-"]);
        row.rounds.pop();
        assert_eq!(shown(&row), ["5.00", "5.00", "5.00", "7", "-"]);
    }

    /// A name with a mistake in it would be a dash in every row.
    #[test]
    fn the_figures_of_the_columns_are_fields_of_a_report() {
        let report = serde_json::to_value(Report::default()).unwrap();
        for &contest in Contest::value_variants() {
            for column in columns(contest) {
                let Value::Figure(name, _) = column.value else { continue };
                let mut at = &report;
                for key in name.split('.') {
                    at = at.get(key).unwrap_or_else(|| panic!("{name}: no `{key}` in a report"));
                    // Within this is a list by name, or what a run without deliveries does not have.
                    if at.is_null() || at.is_array() {
                        break;
                    }
                }
                assert!(at.is_number() || at.is_null() || at.is_array(), "{name}");
            }
        }
    }

    /// The rate that was achieved looked like what a server is capable of.
    #[test]
    fn a_rate_is_called_achieved() {
        assert_eq!((ACHIEVED.title, OPENED_IN_ALL.title), ("achieved deliveries/s", "opened in all"));
    }
}
