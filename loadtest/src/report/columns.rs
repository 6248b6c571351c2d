//! The columns of a comparison's tables, on a terminal and on a page. Each scenario has those that it is
//! about.

use super::Report;
use super::table::{figure, group};
use crate::compare::{Contest, Row};

/// A column after the name and the number of streams.
pub(super) struct Column {
    pub(super) title: &'static str,
    value: fn(&Row) -> String,
}

impl Column {
    pub(super) fn value(&self, row: &Row) -> String {
        (self.value)(row)
    }
}

macro_rules! figures {
    ($($name:ident, $title:expr, $value:expr;)*) => {$(
        const $name: Column = Column {
            title: $title,
            value: |row| {
                let value: fn(&Report) -> Option<f64> = $value;
                figure(value(&row.median))
            },
        };
    )*};
}

/// The latency at 50 % or 99 % of a part of the run.
fn part(report: &Report, name: &str, value: fn(&super::Percentiles) -> f64) -> Option<f64> {
    report.parts.iter().find(|part| part.name == name)?.latency_us.as_ref().map(value)
}

figures! {
    P50, "p50 us", |report| Some(report.latency_us.as_ref()?.p50);
    P99, "p99 us", |report| Some(report.latency_us.as_ref()?.p99);
    P99_9, "p99.9 us", |report| Some(report.latency_us.as_ref()?.p99_9);
    MAX, "max us", |report| Some(report.latency_us.as_ref()?.max);
    LAST, "last ms", |report| report.last_subscriber_ms;
    THROUGHPUT, "deliveries/s", |report| report.deliveries_per_s;
    ANSWER_P99, "answer p99 us", |report| Some(report.client.publish_answer_us.as_ref()?.p99);
    CPU, "CPU us/delivery", |report| report.server_cpu_us_per_delivery;
    CPU_SHARE, "CPU % of a core", |report| Some(report.server_cpu_share? * 100.0);
    IDLE_CPU, "idle CPU % of a core", |report| Some(report.server_idle_cpu_share? * 100.0);
    USER, "user B/stream", |report| report.server_user_bytes_per_connection;
    USER_AFTER, "after", |report| report.server_user_bytes_per_connection_after;
    SLAB, "slab B/pair", |report| report.kernel_slab_bytes_per_pair;
    STACKS, "stack+tables B/pair", |report| report.kernel_stack_bytes_per_pair;
    OPENED, "opened/s", |report| Some(report.opening.per_second).filter(|rate| *rate > 0.0);
    OPENING_CPU, "CPU us/opening", |report| report.server_cpu_us_per_opening;
    OPENING, "opening p99 us", |report| Some(report.opening.latency_us.as_ref()?.p99);
    ALL_BACK, "all back ms", |report| report.storm_all_back_ms;
    MISSED, "missed while away", |report| Some(report.missed_while_away as f64);
    STEADY_BEFORE, "p99 us before", |report| part(report, "before, steady", |latency| latency.p99);
    STEADY_STALLED, "p99 us while stalled", |report| part(report, "while stalled, steady", |latency| latency.p99);
    GROWN, "server bytes grown", |report| report.slow_server_bytes_grown;
    BUFFERS, "socket bytes grown", |report| report.slow_kernel_tcp_bytes_grown;
    SLOW_LOST, "lost by the stalled", |report| Some(report.slow_lost? as f64);
    JOINED, "streams opened", |report| Some(report.opening.streams as f64);
    BIG_P50, "big p50 us", |report| part(report, "big", |latency| latency.p50);
    BIG_P99, "big p99 us", |report| part(report, "big", |latency| latency.p99);
    SMALL_P50, "small p50 us", |report| part(report, "small", |latency| latency.p50);
    SMALL_P99, "small p99 us", |report| part(report, "small", |latency| latency.p99);
}

const RANGE: Column = Column {
    title: "lowest-highest",
    value: |row| match row.server_cpu_us_per_delivery_range {
        Some((low, high)) => format!("{}-{}", figure(Some(low)), figure(Some(high))),
        None => "-".to_owned(),
    },
};

const FAULTS: Column = Column { title: "faults", value: |row| group(row.faults()) };

/// What a scenario's table shows.
pub(super) fn columns(contest: Contest) -> Vec<Column> {
    match contest {
        Contest::Fanout => {
            vec![
                P50, P99, P99_9, MAX, LAST, ANSWER_P99, THROUGHPUT, CPU, RANGE, USER, USER_AFTER, SLAB,
                FAULTS,
            ]
        }
        Contest::Idle => vec![IDLE_CPU, USER, USER_AFTER, SLAB, STACKS, OPENED, OPENING_CPU, OPENING, FAULTS],
        Contest::Saturate => vec![THROUGHPUT, CPU, RANGE, CPU_SHARE, USER, USER_AFTER, FAULTS],
        Contest::Storm => vec![ALL_BACK, OPENING, MISSED, P99, MAX, CPU, USER, USER_AFTER, FAULTS],
        Contest::Slow => vec![STEADY_BEFORE, STEADY_STALLED, MAX, GROWN, BUFFERS, SLOW_LOST, CPU, FAULTS],
        Contest::Churn => vec![JOINED, OPENING, P50, P99, MAX, CPU, RANGE, USER_AFTER, FAULTS],
        Contest::Topics => vec![P50, P99, P99_9, MAX, THROUGHPUT, CPU, RANGE, USER, USER_AFTER, FAULTS],
        Contest::Mixed => vec![SMALL_P50, SMALL_P99, BIG_P50, BIG_P99, LAST, CPU, RANGE, USER, FAULTS],
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

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
}
