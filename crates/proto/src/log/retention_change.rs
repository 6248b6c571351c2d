//! Other retentions for a log that is in use.
//!
//! The topics get them one after another, by their slots, within the budget of [`Log::trim`]. So no call
//! waits for the log's lock while very many topics change. Until its turn a topic has the retention of
//! before. What a lower retention does not cover any more goes as every excess goes: with [`Log::trim`], a
//! budget at a time.

use super::Log;
use super::expiry::AT_ONCE;
use crate::limits::{LogLimits, Retention, RetentionRule};

/// A change under way.
pub(super) struct RetentionChange {
    before: LogLimits,
    /// Topics below this slot have the new retention.
    next_slot: u32,
    /// What was asked for meanwhile.
    then: Option<(Retention, Vec<RetentionRule>)>,
}

impl RetentionChange {
    /// The limits that the topic in this slot has.
    pub(super) fn limits_of<'limits>(
        &'limits self,
        slot: u32,
        after: &'limits LogLimits,
    ) -> &'limits LogLimits {
        if slot < self.next_slot { after } else { &self.before }
    }
}

impl Log {
    /// Replaces the retention of topics that no rule matches, and the rules. The change is complete when
    /// [`Log::trim`] has gone through all topics; [`Log::next_expiry`] asks for that at once. Where another
    /// change is under way, this one follows it; of several that wait, only the last one is made.
    pub fn set_retention(&mut self, retention: Retention, rules: Vec<RetentionRule>) {
        self.changes += 1;
        if let Some(change) = &mut self.change {
            change.then = Some((retention, rules));
            return;
        }
        let before = self.limits.clone();
        (self.limits.retention, self.limits.rules) = (retention, rules);
        self.change = Some(RetentionChange { before, next_slot: 0, then: None });
    }

    /// Whether topics may have the retention of before.
    pub fn is_changing_retention(&self) -> bool {
        self.change.is_some()
    }

    /// The limits that the topic in this slot has.
    pub(super) fn limits_of(&self, slot: u32) -> &LogLimits {
        match &self.change {
            Some(change) => change.limits_of(slot, &self.limits),
            None => &self.limits,
        }
    }

    /// Goes on with a change under way, by this many slots.
    pub(super) fn go_on_changing(&mut self, budget: usize) {
        for _ in 0..budget {
            let Some(change) = &mut self.change else { return };
            let slot = self.topics.skip_unallocated(change.next_slot);
            if slot >= self.topics.end() {
                let then = change.then.take();
                self.change = None;
                if let Some((retention, rules)) = then {
                    self.set_retention(retention, rules);
                }
                continue;
            }
            change.next_slot = slot + 1;
            self.adopt_retention(slot);
        }
    }

    /// Gives the topic in this slot, if there is one with frames, its new retention, and its new place in the
    /// queue by age.
    fn adopt_retention(&mut self, slot: u32) {
        let Some(entry) = self.topics.get_mut(slot) else { return };
        let Some(retained) = entry.retained.as_deref_mut() else { return };
        retained.rule = self.limits.rule_of(&entry.name);
        let has_entry = std::mem::take(&mut retained.expiry_stamp) != 0;
        retained.is_due_at_once = false;
        if has_entry {
            self.end_expiry();
        }
        let at = self.due_at(slot).unwrap_or(AT_ONCE);
        self.queue_expiry(slot, at);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::cursor::Epoch;
    use crate::event::{Event, Topic};
    use crate::frame::Frame;

    const SECOND: Duration = Duration::from_secs(1);

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn of(events: usize) -> Retention {
        Retention::default().with_events(events)
    }

    fn rule(pattern: &str, retention: Retention) -> RetentionRule {
        RetentionRule::new(pattern.parse().unwrap(), retention)
    }

    fn log() -> Log {
        Log::new(Epoch::new(7), LogLimits::default(), 1)
    }

    fn append(log: &mut Log, name: &str, now: Duration) {
        let seq = log.newest() + 1;
        let event = Event::new(topic(name)).with_data("x");
        log.append(Arc::new(Frame::encode(seq, "id", event, now)), now, &mut Vec::new());
    }

    fn frames(log: &Log, name: &str) -> usize {
        log.topic(&topic(name)).map_or(0, |extent| extent.frames)
    }

    /// Trims with a small budget for as long as there is something to do, and checks the log after each step.
    fn trim(log: &mut Log, now: Duration, budget: usize) {
        while log.next_expiry().is_some_and(|at| at <= now) {
            let mut dropped = Vec::new();
            log.trim(now, budget, &mut dropped);
            assert!(dropped.len() <= budget, "{} frames", dropped.len());
            log.check();
        }
    }

    #[test]
    fn a_lower_retention_drops_the_oldest_and_a_higher_one_keeps_more() {
        let mut log = log();
        for number in 0..60 {
            append(&mut log, ["a", "b", "user/1"][number % 3], SECOND);
        }
        log.set_retention(of(5), vec![rule("user/*", of(7))]);
        assert!(log.is_changing_retention() && log.next_expiry() == Some(Duration::ZERO));
        log.check();
        trim(&mut log, SECOND, 3);
        assert!(!log.is_changing_retention());
        assert_eq!(["a", "b", "user/1"].map(|name| frames(&log, name)), [5, 5, 7]);
        log.set_retention(of(8), Vec::new());
        trim(&mut log, SECOND, 3);
        assert_eq!(["a", "b", "user/1"].map(|name| frames(&log, name)), [5, 5, 7], "what is gone is gone");
        for number in 0..30 {
            append(&mut log, ["a", "b", "user/1"][number % 3], SECOND);
        }
        assert_eq!(["a", "b", "user/1"].map(|name| frames(&log, name)), [8, 8, 8]);
    }

    #[test]
    fn ages_hold_for_what_is_kept_already() {
        let mut log = log();
        append(&mut log, "a", SECOND);
        append(&mut log, "b", 5 * SECOND);
        log.set_retention(Retention::default().with_age(10 * SECOND), Vec::new());
        trim(&mut log, 6 * SECOND, 1);
        assert_eq!(log.next_expiry(), Some(11 * SECOND));
        trim(&mut log, 11 * SECOND, 1);
        assert_eq!((frames(&log, "a"), frames(&log, "b")), (0, 1));
        // And what expires later than before does.
        log.set_retention(Retention::default().with_age(Duration::MAX), Vec::new());
        trim(&mut log, 12 * SECOND, 1);
        assert_eq!((frames(&log, "b"), log.next_expiry()), (1, None));
    }

    #[test]
    fn of_changes_that_come_meanwhile_the_last_one_holds() {
        let mut log = log();
        for number in 0..100 {
            append(&mut log, &format!("t{}", number % 10), SECOND);
        }
        log.set_retention(of(9), Vec::new());
        log.trim(SECOND, 6, &mut Vec::new());
        log.set_retention(of(1), Vec::new());
        log.set_retention(of(4), vec![rule("t3", of(2))]);
        log.check();
        trim(&mut log, SECOND, 6);
        let kept: Vec<usize> = (0..10).map(|number| frames(&log, &format!("t{number}"))).collect();
        assert_eq!(kept, [4, 4, 4, 2, 4, 4, 4, 4, 4, 4]);
    }

    /// Topics come and go, and change, while others wait for their turn.
    #[test]
    fn a_log_in_use_is_right_at_every_moment_of_a_change() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        };
        let (mut log, mut now, mut last) = (log(), SECOND, of(100_000));
        for _ in 0..4000 {
            now += Duration::from_millis(random(50));
            match random(20) {
                0 => {
                    last = of(random(8) as usize).with_age(Duration::from_millis(200 + random(2000)));
                    log.set_retention(last, vec![rule("t1*", of(3).with_age(SECOND))]);
                }
                1..4 => log.trim(now, 1 + random(6) as usize, &mut Vec::new()),
                _ => append(&mut log, &format!("t{}", random(40)), now),
            }
            log.check();
        }
        trim(&mut log, now, 5);
        for number in 0..40 {
            let most = if number == 1 || number / 10 == 1 { 3 } else { last.events };
            assert!(frames(&log, &format!("t{number}")) <= most, "t{number}");
        }
    }
}
