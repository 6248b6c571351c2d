//! The comparison of one subscriber's log with what was published.

use std::collections::{HashMap, HashSet};
use std::ops::AddAssign;
use std::time::Duration;

use crate::ledger::{EpochNumber, Fate, Round};

/// An entry of a subscriber's log.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A stream began. `resumed`: the request had a last event id. `gap`: the head has `Fanfare-Gap`.
    Began { at: Duration, resumed: bool, gap: bool },
    /// The stream ended, for any reason.
    Ended { at: Duration },
    /// A gap event: events of this epoch behind `after` may be missing (0: the subscriber resumed from
    /// another epoch). The stream continues behind `upto`. Up to `incomplete_until` it has only what the log
    /// still had.
    Gap { epoch: EpochNumber, after: u64, upto: u64, incomplete_until: u64 },
    /// A published event.
    Event { key: u64, mask: u32, epoch: EpochNumber, seq: u64 },
    /// Something that is not a published event, with a description.
    Damage(String),
}

/// The last event that a subscriber had at the end of the previous round.
pub(crate) type Position = Option<(EpochNumber, u64)>;

/// A subscriber that reads without a pause has an event within this time.
const IN_TIME: Duration = Duration::from_secs(1);

/// Where a thread of subscribers could not read for this long, the machine was busy with other work. How the
/// streams of unhindered subscribers ended then says nothing about the server.
pub(crate) const BUSY_MACHINE: Duration = Duration::from_millis(250);

/// How many streams ended, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct StreamEnds {
    /// Subscribers that did not get the last events before the server stopped.
    pub(crate) cut: u64,
    /// Subscribers that lack events that were acknowledged more than [`IN_TIME`] before a kill.
    pub(crate) missing_at_kill: u64,
    pub(crate) reconnects: u64,
}

impl AddAssign for StreamEnds {
    fn add_assign(&mut self, other: StreamEnds) {
        self.cut += other.cut;
        self.missing_at_kill += other.missing_at_kill;
        self.reconnects += other.reconnects;
    }
}

/// The result of comparing subscribers' logs with the ledger.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// Correct deliveries.
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) disordered: u64,
    pub(crate) damaged: u64,
    /// Gaps that were reported in response heads.
    pub(crate) gaps: u64,
    /// Acknowledged events that a gap includes and that the log may have dropped, while the process
    /// continued.
    pub(crate) missed_in_gap: u64,
    /// Acknowledged events that were lost with their process, and that a gap reports.
    pub(crate) lost_with_process: u64,
    pub(crate) stream_ends: StreamEnds,
    /// The same for unhindered subscribers only: these have an ordinary receive buffer and were not asked to
    /// stall or to read slowly.
    pub(crate) unhindered: StreamEnds,
    /// The longest time for which a thread of subscribers could not read.
    pub(crate) longest_delay: Duration,
    /// The same during the time in which a server stopped.
    pub(crate) delay_at_stop: Duration,
    /// Subscribers whose connection had lost its other end, and that reconnected for that reason.
    pub(crate) half_open: u64,
    /// Subscribers that had no stream, or lacked events, a long time after the fault.
    pub(crate) absent: u64,
    /// Descriptions of the first violations.
    pub(crate) examples: Vec<String>,
}

impl Findings {
    const EXAMPLES: usize = 8;

    pub(crate) fn is_good(&self) -> bool {
        self.lost + self.doubled + self.disordered + self.damaged + self.absent == 0
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < Findings::EXAMPLES {
            self.examples.push(text());
        }
    }
}

impl AddAssign for Findings {
    fn add_assign(&mut self, other: Findings) {
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.disordered += other.disordered;
        self.damaged += other.damaged;
        self.gaps += other.gaps;
        self.missed_in_gap += other.missed_in_gap;
        self.lost_with_process += other.lost_with_process;
        self.stream_ends += other.stream_ends;
        self.unhindered += other.unhindered;
        self.longest_delay = self.longest_delay.max(other.longest_delay);
        self.delay_at_stop = self.delay_at_stop.max(other.delay_at_stop);
        self.half_open += other.half_open;
        self.absent += other.absent;
        let room = Findings::EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(other.examples.into_iter().take(room));
    }
}

/// Compares a subscriber's log of a round with what was published in that round. `position` is advanced to
/// the last event.
pub(crate) fn verify(round: &Round, mask: u32, position: &mut Position, log: &[Entry]) -> Findings {
    let mut found = Findings::default();
    let mut seen = vec![false; round.records.len()];
    let mut fresh_since = None;
    let mut gaps = Vec::new();
    // The last `seq` that arrived of each epoch.
    let mut reached: HashMap<EpochNumber, u64> = position.iter().copied().collect();
    // Epochs whose last events are missing: where the server was asked to stop, and where it was killed.
    let (mut cut, mut missing_at_kill) = (HashSet::new(), HashSet::new());
    // When the newest stream began: events that were sent later are not part of its gap.
    let mut began = Duration::MAX;
    // The times without a stream: from the end of one to the beginning of the next.
    let mut away: Vec<(Duration, Duration)> = Vec::new();
    // Whether a gap was reported, in a head or by an event, since the last event.
    let mut gap_reported = false;
    // Whether a head reported a gap that no gap event has described: with `gap=off` there is none.
    let mut gap_in_head = false;
    for entry in log {
        match entry {
            Entry::Began { at, resumed, gap } => {
                found.stream_ends.reconnects += 1;
                began = *at;
                if let Some((_, until)) = away.last_mut() {
                    *until = (*until).min(*at);
                }
                found.gaps += u64::from(*gap);
                gap_reported |= gap;
                gap_in_head |= gap;
                if !resumed {
                    fresh_since = Some(*at);
                }
            }
            Entry::Ended { at } => away.push((*at, Duration::MAX)),
            Entry::Gap { epoch, after, upto, incomplete_until } => {
                gap_reported = true;
                gap_in_head = false;
                gaps.push((*epoch, *after, *incomplete_until, round.retained_after(*epoch, began)));
                *position = Some((*epoch, *upto));
            }
            Entry::Damage(text) => {
                found.damaged += 1;
                found.example(|| text.clone());
            }
            Entry::Event { key, mask: of_event, epoch, seq } => {
                if let Some((before, _)) = *position
                    && before != *epoch
                {
                    if !gap_reported {
                        found.lost += 1;
                        found.example(|| {
                            format!("epoch {epoch} began after {before} and no gap was reported")
                        });
                    }
                    *position = None;
                }
                gap_reported = false;
                if std::mem::take(&mut gap_in_head) {
                    // What the log still had of the incomplete part comes first, so this event does not say
                    // where the history is complete again. Only the bound of what the log can have dropped
                    // does.
                    let after = position.map_or(0, |(_, seq)| seq);
                    gaps.push((*epoch, after, u64::MAX, round.retained_after(*epoch, began)));
                }
                let known = key.checked_sub(round.base).filter(|index| *index < seen.len() as u64);
                let again = known.is_none_or(|index| seen[index as usize]);
                if again {
                    found.doubled += 1;
                    found.example(|| format!("event {key} (seq {seq}) came again, or in a later round"));
                } else if position.is_some_and(|(_, last)| *seq <= last) {
                    found.disordered += 1;
                    found.example(|| format!("event {key} has seq {seq} and came behind {position:?}"));
                }
                if let Some(index) = known {
                    seen[index as usize] = true;
                    let record = &round.records[index as usize];
                    let wrong_seq = match record.fate {
                        Fate::Acknowledged { epoch: of, seq: (from, to), .. } => {
                            of != *epoch || *seq < from || *seq > to
                        }
                        Fate::Open | Fate::Refused => false,
                    };
                    let whose = record.mask == *of_event && mask & of_event != 0;
                    if wrong_seq || !whose || record.fate == Fate::Refused {
                        found.damaged += 1;
                        found.example(|| {
                            format!(
                                "event {key} (seq {seq}, topics {of_event:x}) came, published as {record:?}"
                            )
                        });
                    } else if !again {
                        found.delivered += 1;
                    }
                }
                *position = Some((*epoch, *seq));
                reached.insert(*epoch, *seq);
            }
        }
    }
    let last_epoch = position.map(|(epoch, _)| epoch);
    for (index, record) in round.records.iter().enumerate() {
        let Fate::Acknowledged { epoch, seq, at } = record.fate else { continue };
        if seen[index] || record.mask & mask == 0 || fresh_since.is_some_and(|since| record.begun < since) {
            continue;
        }
        // A process that has ended took undelivered events with it; the check above is that a gap was
        // reported.
        let over = last_epoch.is_some_and(|last| epoch < last);
        // A subscriber that had no stream at that time (it was a laggard, for example) is promised nothing.
        let was_there = |since, stop| !away.iter().any(|&(from, until)| from < stop && since < until);
        let ends = &round.epochs[epoch];
        let promised = ends.stop_requested.is_some_and(|stop| at < stop && was_there(stop, stop));
        let late = |kill: Duration| at < kill.saturating_sub(IN_TIME) && was_there(at, kill);
        // Only the last events of an epoch are excused. Where a later event of the epoch arrived, the missing
        // one is a loss, also for a subscriber that reconnected to the same process.
        let last = reached.get(&epoch).is_none_or(|reached| *reached < seq.1);
        if over && last {
            found.lost_with_process += 1;
            if promised {
                cut.insert(epoch);
            }
            if ends.killed.is_some_and(late) {
                missing_at_kill.insert(epoch);
            }
        } else if round.may_be_dropped(record, mask)
            && gaps.iter().any(|&(of, after, upto, retained_after)| {
                of == epoch && after < seq.1 && seq.0 <= upto.min(retained_after)
            })
        {
            found.missed_in_gap += 1;
        } else {
            found.lost += 1;
            found.example(|| {
                let key = round.base + index as u64;
                format!(
                    "event {key} was acknowledged and never came: {record:?}, \
                     subscriber at {position:?}, topics {mask:x}"
                )
            });
        }
    }
    found.stream_ends.cut = cut.len() as u64;
    found.stream_ends.missing_at_kill = missing_at_kill.len() as u64;
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;
    use fanfare_io::Clock;

    /// Five events of one topic in epoch `a`, acknowledged as 1 to 5.
    fn round_of_five() -> Round {
        let ledger = Ledger::new(Clock::start(), 0);
        ledger.begin(&[(1, 100); 5]);
        ledger.acknowledged(0, 5, "a-1", "a-5").unwrap();
        ledger.end_round()
    }

    fn event(seq: u64) -> Entry {
        Entry::Event { key: seq - 1, mask: 1, epoch: 0, seq }
    }

    fn summary(round: &Round, log: &[Entry]) -> (u64, u64, u64, u64, u64) {
        let found = verify(round, 1, &mut Some((0, 0)), log);
        (found.delivered, found.lost, found.doubled, found.disordered, found.damaged)
    }

    #[test]
    fn every_kind_of_violation_is_seen() {
        let round = round_of_five();
        let all: Vec<Entry> = (1..=5).map(event).collect();
        assert_eq!(summary(&round, &all), (5, 0, 0, 0, 0));
        assert_eq!(summary(&round, &all[1..]), (4, 1, 0, 0, 0));
        assert_eq!(summary(&round, &[&all[..], &all[4..]].concat()), (5, 0, 1, 0, 0));
        let swapped: Vec<Entry> = [1, 3, 2, 4, 5].map(event).to_vec();
        assert_eq!(summary(&round, &swapped), (5, 0, 0, 1, 0));
        let foreign = Entry::Event { key: 4, mask: 2, epoch: 0, seq: 5 };
        assert_eq!(summary(&round, &[&all[..4], &[foreign]].concat()), (4, 0, 0, 0, 1));
        let renumbered = Entry::Event { key: 4, mask: 1, epoch: 0, seq: 6 };
        assert_eq!(summary(&round, &[&all[..4], &[renumbered]].concat()), (4, 0, 0, 0, 1));
        let damage = [&all[..], &[Entry::Damage("cut".to_owned())]].concat();
        assert_eq!(summary(&round, &damage), (5, 0, 0, 0, 1));
    }

    #[test]
    fn a_gap_excuses_the_events_that_it_names_and_no_others() {
        let round = round_of_five();
        let gap = Entry::Gap { epoch: 0, after: 0, upto: 3, incomplete_until: 3 };
        let found = verify(&round, 1, &mut Some((0, 0)), &[gap.clone(), event(5)]);
        assert_eq!((found.missed_in_gap, found.lost), (3, 1));
    }

    /// Every event that a gap named was excused, so a server that reported gaps to every subscriber could
    /// lose everything.
    #[test]
    fn a_gap_names_no_event_that_the_log_still_has() {
        let ledger = Ledger::new(Clock::start(), 250);
        ledger.begin(&[(1, 100); 6]);
        ledger.acknowledged(0, 6, "a-1", "a-6").unwrap();
        let round = ledger.end_round();
        let began = |at| Entry::Began { at, resumed: true, gap: true };
        let gap = |upto| Entry::Gap { epoch: 0, after: 0, upto, incomplete_until: upto };
        let found = |log: &[Entry]| {
            let found = verify(&round, 1, &mut Some((0, 0)), log);
            (found.missed_in_gap, found.lost, found.disordered)
        };
        assert_eq!(found(&[began(Duration::MAX), gap(5), event(6)]), (4, 1, 0));
        // With `gap=off`.
        assert_eq!(found(&[began(Duration::MAX), event(6)]), (4, 1, 0));
        // An event arrives although the gap names it as missing.
        assert_eq!(found(&[began(Duration::MAX), gap(4), event(4), event(5), event(6)]), (3, 0, 1));
        // No event had been sent by then that could have taken its room in the log.
        assert_eq!(found(&[began(Duration::ZERO), gap(3), event(4), event(5), event(6)]), (0, 3, 0));
    }

    /// A subscriber of two topics with `gap=off` gets first what the log still has of the topic that lost
    /// less. The verifier took the first event that came for the end of the gap, and reported what the other
    /// topic had dropped behind it as lost.
    #[test]
    fn a_gap_without_an_event_ends_where_the_log_has_everything() {
        let ledger = Ledger::new(Clock::start(), 150);
        let topics = [1, 2, 1, 2, 1, 2];
        ledger.begin(&topics.map(|topic| (topic, 100)));
        ledger.acknowledged(0, 6, "a-1", "a-6").unwrap();
        let round = ledger.end_round();
        let event = |seq: u64| Entry::Event { key: seq - 1, mask: topics[seq as usize - 1], epoch: 0, seq };
        let began = Entry::Began { at: Duration::MAX, resumed: true, gap: true };
        let summary = |sequence: &[u64]| {
            let log: Vec<Entry> =
                [began.clone()].into_iter().chain(sequence.iter().copied().map(event)).collect();
            let found = verify(&round, 0b11, &mut Some((0, 0)), &log);
            (found.missed_in_gap, found.lost)
        };
        assert_eq!(summary(&[2, 4, 5, 6]), (2, 0));
        // The log certainly retains the last event of each topic.
        assert_eq!(summary(&[2, 4, 6]), (2, 1));
    }

    /// The log retains as much of each topic as its retention says, however busy the others are. The verifier
    /// summed the bytes of all topics, so a busy topic excused every loss of a quiet one.
    #[test]
    fn a_gap_excuses_no_event_that_its_topic_retains() {
        let ledger = Ledger::new(Clock::start(), 250);
        ledger.begin(&[(1, 100), (2, 100), (2, 100), (2, 100), (2, 100), (0b11, 100)]);
        ledger.acknowledged(0, 6, "a-1", "a-6").unwrap();
        let round = ledger.end_round();
        let began = Entry::Began { at: Duration::MAX, resumed: true, gap: true };
        let gap = Entry::Gap { epoch: 0, after: 0, upto: 0, incomplete_until: u64::MAX };
        let last = Entry::Event { key: 5, mask: 0b11, epoch: 0, seq: 6 };
        let summary = |mask| {
            let found = verify(&round, mask, &mut Some((0, 0)), &[began.clone(), gap.clone(), last.clone()]);
            (found.missed_in_gap, found.lost)
        };
        // Of the four events that only topic 2 has it retains the last one.
        assert_eq!((summary(0b01), summary(0b10), summary(0b11)), ((0, 1), (3, 1), (3, 2)));
    }

    /// An unanswered event that some subscribers had got was not missed at the others.
    #[test]
    fn an_event_that_one_subscriber_got_must_reach_all() {
        let ledger = Ledger::new(Clock::start(), 0);
        ledger.begin(&[(1, 100); 2]);
        ledger.epoch("a");
        let mut round = ledger.end_round();
        let lost = |round: &Round, log: &[Entry]| verify(round, 1, &mut Some((0, 0)), log).lost;
        assert_eq!(lost(&round, &[]), 0);
        round.came(0, 0, 1);
        assert_eq!(lost(&round, &[event(1)]), 0);
        assert_eq!(lost(&round, &[]), 1);
    }

    /// An event that was acknowledged long before the kill was excused as undelivered.
    #[test]
    fn a_subscriber_that_reads_has_events_from_long_before_a_kill() {
        let ledger = Ledger::new(Clock::start(), 0);
        ledger.begin(&[(1, 100); 2]);
        ledger.acknowledged(0, 1, "a-1", "a-1").unwrap();
        ledger.acknowledged(1, 1, "b-1", "b-1").unwrap();
        let mut round = ledger.end_round();
        let second = Entry::Event { key: 1, mask: 1, epoch: 1, seq: 1 };
        let began = |at| Entry::Began { at: Duration::from_secs(at), resumed: true, gap: true };
        let mut missing_at_kill = |killed, log: &[Entry]| {
            round.epochs[0].killed = Some(Duration::from_secs(killed));
            verify(&round, 1, &mut Some((0, 0)), log).stream_ends.missing_at_kill
        };
        let log = [began(100), second.clone()];
        assert_eq!((missing_at_kill(50, &log), missing_at_kill(1, &log)), (1, 0));
        // The subscriber had no stream for a while.
        let ended = Entry::Ended { at: Duration::from_secs(10) };
        assert_eq!(missing_at_kill(50, &[ended, began(20), second]), 0);
    }

    #[test]
    fn events_that_end_with_their_process_need_a_gap() {
        let ledger = Ledger::new(Clock::start(), 0);
        ledger.begin(&[(1, 100); 2]);
        ledger.acknowledged(0, 1, "a-1", "a-1").unwrap();
        ledger.acknowledged(1, 1, "b-1", "b-1").unwrap();
        let round = ledger.end_round();
        let second = Entry::Event { key: 1, mask: 1, epoch: 1, seq: 1 };
        let began = |gap| Entry::Began { at: Duration::ZERO, resumed: true, gap };
        let found = verify(&round, 1, &mut Some((0, 0)), &[began(true), second.clone()]);
        assert_eq!((found.lost, found.lost_with_process, found.gaps), (0, 1, 1));
        let found = verify(&round, 1, &mut Some((0, 0)), &[began(false), second]);
        assert_eq!((found.lost, found.lost_with_process), (1, 1));
    }

    /// Every missing event of a killed epoch was excused, also one that the server had lost before.
    #[test]
    fn a_kill_excuses_the_last_events_and_no_earlier_ones() {
        let ledger = Ledger::new(Clock::start(), 0);
        ledger.begin(&[(1, 100); 6]);
        ledger.acknowledged(0, 5, "a-1", "a-5").unwrap();
        ledger.acknowledged(5, 1, "b-1", "b-1").unwrap();
        let round = ledger.end_round();
        let began = |gap| Entry::Began { at: Duration::from_secs(2), resumed: true, gap };
        let next = || vec![began(true), Entry::Event { key: 5, mask: 1, epoch: 1, seq: 1 }];
        let summary = |log: Vec<Entry>| {
            let found = verify(&round, 1, &mut Some((0, 0)), &[log, next()].concat());
            (found.lost, found.missed_in_gap, found.lost_with_process)
        };
        let [one, two, four, five] = [1, 2, 4, 5].map(event);
        assert_eq!(summary(vec![one.clone(), two.clone()]), (0, 0, 3));
        assert_eq!(summary(vec![one.clone(), two.clone(), four.clone(), five.clone()]), (1, 0, 0));
        // The subscriber reconnects to the same process: it must get what it missed, or a gap.
        let ended = Entry::Ended { at: Duration::from_secs(1) };
        let away = vec![one, two, ended, began(false), four.clone()];
        assert_eq!(summary(away.clone()), (1, 0, 1));
        let gap = Entry::Gap { epoch: 0, after: 2, upto: 3, incomplete_until: 3 };
        assert_eq!(summary([&away[..3], &[began(true), gap, four]].concat()), (0, 1, 1));
        // The subscriber has no stream until the next epoch.
        assert_eq!(summary(away[..3].to_vec()), (0, 0, 3));
    }

    /// Events of other publishers came between those of a body, so the missing one may be behind the last one
    /// that arrived.
    #[test]
    fn an_event_that_may_be_the_last_is_excused_by_a_kill() {
        let ledger = Ledger::new(Clock::start(), 0);
        ledger.begin(&[(1, 100); 4]);
        ledger.acknowledged(0, 2, "a-1", "a-3").unwrap();
        ledger.acknowledged(2, 1, "a-2", "a-2").unwrap();
        ledger.acknowledged(3, 1, "b-1", "b-1").unwrap();
        let round = ledger.end_round();
        let event = |key, epoch, seq| Entry::Event { key, mask: 1, epoch, seq };
        let began = Entry::Began { at: Duration::ZERO, resumed: true, gap: true };
        let log = [event(0, 0, 1), event(2, 0, 2), began, event(3, 1, 1)];
        let found = verify(&round, 1, &mut Some((0, 0)), &log);
        assert_eq!((found.lost, found.lost_with_process), (0, 1));
    }

    #[test]
    fn events_from_before_a_stop_must_arrive_unless_the_stream_is_cut() {
        let ledger = Ledger::new(Clock::start(), 0);
        ledger.begin(&[(1, 100); 3]);
        ledger.acknowledged(0, 2, "a-1", "a-2").unwrap();
        ledger.note_stop_request();
        ledger.acknowledged(2, 1, "b-1", "b-1").unwrap();
        let round = ledger.end_round();
        let [first, second] = [event(1), event(2)];
        let began = Entry::Began { at: Duration::ZERO, resumed: true, gap: true };
        let third = Entry::Event { key: 2, mask: 1, epoch: 1, seq: 1 };
        let summary = |log: &[Entry]| {
            let found = verify(&round, 1, &mut Some((0, 0)), log);
            (found.lost, found.lost_with_process, found.stream_ends.cut)
        };
        assert_eq!(summary(&[first.clone(), second.clone(), began.clone(), third.clone()]), (0, 0, 0));
        assert_eq!(summary(&[first, began.clone(), third.clone()]), (0, 1, 1));
        assert_eq!(summary(&[began.clone(), third.clone()]), (0, 2, 1));
        // A missing event before one that arrived is a loss.
        assert_eq!(summary(&[second, began, third.clone()]), (1, 0, 0));
        // The subscriber had no stream when the server stopped.
        let ended = Entry::Ended { at: Duration::ZERO };
        let later = Entry::Began { at: Duration::MAX, resumed: true, gap: true };
        assert_eq!(summary(&[ended, later, third]), (0, 2, 0));
    }

    #[test]
    fn refused_events_must_not_come_and_unanswered_ones_may_once() {
        let ledger = Ledger::new(Clock::start(), 0);
        ledger.begin(&[(1, 100); 2]);
        ledger.refused(0, 1);
        let round = ledger.end_round();
        assert_eq!(summary(&round, &[event(1)]), (0, 0, 0, 0, 1));
        assert_eq!(summary(&round, &[event(2)]), (1, 0, 0, 0, 0));
        assert_eq!(summary(&round, &[event(2), event(2)]), (1, 0, 1, 0, 0));
        assert_eq!(summary(&round, &[]), (0, 0, 0, 0, 0));
    }

    #[test]
    fn a_subscriber_without_an_id_must_get_what_is_published_after_its_beginning() {
        let round = round_of_five();
        let later = Entry::Began { at: Duration::from_secs(60), resumed: false, gap: false };
        assert_eq!(verify(&round, 1, &mut None, &[later]).lost, 0);
    }
}
