//! What is particular to a scenario.

use std::sync::atomic::Ordering;

use super::{Conductor, SETTLE};
use crate::client::Command;
use crate::clock::{self, MILLISECOND, SECOND, nanoseconds};
use crate::failure::{Failure, Outcome};
use crate::publish::{Pace, Publisher};
use crate::scenario::kind::{Idle, Listen, Storm};
use crate::scenario::run::progress;
use crate::scenario::stages::streams_at;

impl Conductor<'_> {
    pub(super) fn idle(&mut self, idle: &Idle) -> Outcome<()> {
        let &Idle { events, settle } = idle;
        let settled = clock::now() + nanoseconds(settle);
        while clock::now() < settled {
            self.rest((settled - clock::now().min(settled)).min(100 * MILLISECOND))?;
        }
        let bar = progress("idle", self.load.duration.as_secs(), self.load.quiet);
        let begin = self.snapshot(true);
        let end = clock::now() + nanoseconds(self.load.duration);
        while clock::now() < end {
            self.rest((end - clock::now().min(end)).min(100 * MILLISECOND))?;
            bar.set_position((clock::now() - begin.at) / SECOND);
        }
        bar.finish_and_clear();
        self.evidence.idle = Some((begin, self.snapshot(true)));
        // The processor time of a delivery is that of the broadcasts alone: until now nothing was published.
        self.window(true)?;
        if !self.tried {
            self.evidence.last = self.snapshot(false);
            return Ok(());
        }
        let pace = Pace::Schedule { start: clock::now(), rate: self.load.rate, burst: 1, count: events };
        let publisher = Publisher::start(self.route(0, 1), pace, self.sequences.clone())?;
        self.attend(vec![publisher], events, |_| Ok(()))?;
        self.outstanding()?;
        self.rest(SETTLE)?;
        self.evidence.last = self.snapshot(false);
        Ok(())
    }

    /// Streams are open; whatever comes is measured for a time, or until the last one has ended.
    pub(super) fn listen(&mut self, listen: &Listen) -> Outcome<()> {
        let bar = progress("listening", self.load.duration.as_secs(), self.load.quiet);
        let (begin, all) = (clock::now(), self.load.subscribers);
        let end = begin + nanoseconds(self.load.duration);
        while clock::now() < end && !(listen.once && self.crowd()?.over() + self.crowd()?.failed() >= all) {
            self.rest((end - clock::now().min(end)).min(20 * MILLISECOND))?;
            bar.set_position((clock::now() - begin) / SECOND);
            self.monitor.show(&bar);
        }
        bar.finish_and_clear();
        self.evidence.active(clock::now());
        Ok(())
    }

    /// Events are published while the number of streams follows the stages.
    pub(super) fn stages(&mut self) -> Outcome<()> {
        /// Between two changes of the number.
        const STEP: u64 = 20 * MILLISECOND;
        let publishers = self.publishers()?;
        let begin = clock::now();
        self.evidence.stages_since = Some(begin);
        let mut due = begin;
        self.attend(publishers, self.count, |this| {
            let now = clock::now();
            if now >= due {
                due = now + STEP;
                this.follow_stages(now - begin)?;
            }
            Ok(())
        })?;
        // The last event may be due long before the end of the last stage.
        let end = begin + nanoseconds(self.load.duration);
        while clock::now() < end {
            self.follow_stages(clock::now() - begin)?;
            self.rest((end - clock::now().min(end)).min(STEP))?;
        }
        self.admit(self.load.streams_at_end())
    }

    fn follow_stages(&mut self, after: u64) -> Outcome<()> {
        let stages = &self.load.stages;
        // The stream that is there before the first stage need not leave for its first moment.
        let is_first = stages.first().is_some_and(|stage| after < nanoseconds(stage.over));
        self.admit(streams_at(stages, after).max(u64::from(is_first)))
    }

    fn admit(&mut self, subscribers: u64) -> Outcome<()> {
        if self.wanted != subscribers {
            self.wanted = subscribers;
            self.crowd()?.tell(|| Command::Admit { subscribers });
        }
        Ok(())
    }

    pub(super) fn storm(&mut self, storm: &Storm) -> Outcome<()> {
        /// Where a storm stands.
        enum StormState {
            Before,
            /// Since then all are being cut.
            Cutting,
            /// All are away; events up to this number are published meanwhile.
            Away(u64),
            /// Since then all come back.
            Returning(u64),
            Back,
        }
        let publishers = self.publishers()?;
        let (all, missed) = (self.load.subscribers, storm.missed);
        let due = clock::now() + nanoseconds(self.load.duration) / 3;
        // Streams that were opened before all were away: what the server ended until then was opened again,
        // too.
        let mut before = 0;
        // A publish that has no answer yet may not be with the server.
        let under_way = self.load.pipeline as u64;
        let mut state = StormState::Before;
        self.attend(publishers, self.count, |this| {
            let now = clock::now();
            let published = this.sequences[0].load(Ordering::Relaxed);
            match state {
                StormState::Before if now >= due => {
                    this.crowd()?.tell(|| Command::CutAll);
                    state = StormState::Cutting;
                }
                StormState::Cutting if this.crowd()?.open() == 0 => {
                    before = this.crowd()?.opened();
                    state = StormState::Away(published + missed + under_way);
                }
                StormState::Away(enough) if published >= enough => {
                    // The rate may have been high enough for more than was asked for.
                    this.evidence.published_while_away = Some(missed + (published - enough));
                    this.crowd()?.tell(|| Command::Return);
                    state = StormState::Returning(now);
                }
                StormState::Returning(since) if this.crowd()?.opened() >= before + all => {
                    this.evidence.all_back_ns = Some(now - since);
                    state = StormState::Back;
                }
                _ => {}
            }
            Ok(())
        })?;
        let since = match state {
            StormState::Back => return Ok(()),
            StormState::Returning(since) => since,
            StormState::Before | StormState::Cutting | StormState::Away(_) => {
                self.crowd()?.tell(|| Command::Return);
                return Err(Failure::new(format!(
                    "the storm was over before {missed} events were published while all streams were cut: raise --rate or --duration, or lower --missed"
                )));
            }
        };
        let patience = clock::now() + nanoseconds(self.load.patience) + nanoseconds(self.load.head_timeout);
        while clock::now() < patience {
            self.rest(MILLISECOND)?;
            if self.crowd()?.opened() >= before + all {
                self.evidence.all_back_ns = Some(clock::now() - since);
                return Ok(());
            }
        }
        Err(Failure::new("not everybody was back in time after the storm"))
    }

    pub(super) fn slow(&mut self) -> Outcome<()> {
        let publishers = self.publishers()?;
        let due = clock::now() + 20 * MILLISECOND + nanoseconds(self.load.duration) / 2;
        let mut stalled = false;
        let mut published_before = 0;
        self.attend(publishers, self.count, |this| {
            if !stalled && clock::now() >= due {
                stalled = true;
                published_before = this.sequences[0].load(Ordering::Relaxed);
                this.evidence.stall_before = Some(this.snapshot(false));
                this.crowd()?.tell(|| Command::Stall { group: 1, stalled: true });
            }
            Ok(())
        })?;
        if !stalled {
            return Err(Failure::new(
                "no reader stalled, because the last event was published before half of the time was over: raise --rate or --duration",
            ));
        }
        self.rest(100 * MILLISECOND)?;
        self.evidence.stall_after = Some(self.snapshot(false));
        self.crowd()?.tell(|| Command::Stall { group: 1, stalled: false });
        self.rest(100 * MILLISECOND)?;
        let events = self.sequences[0].load(Ordering::Relaxed).saturating_sub(published_before);
        let bytes = events * self.groups[1].subscribers as u64 * self.load.size as u64;
        // What waits on a stream of HTTP/2 is within the library, which does not say how much it is.
        let waiting = if self.load.http2 { None } else { Some(self.crowd()?.waiting()) };
        self.evidence.stalled_backlog = Some((bytes, waiting));
        Ok(())
    }
}
