//! What is particular to a scenario.

use super::{Conductor, SETTLE};
use crate::client::Command;
use crate::clock::{self, MILLISECOND, SECOND, nanoseconds};
use crate::failure::{Failure, Outcome};
use crate::publish::{Pace, Publisher};
use crate::scenario::options::Idle;
use crate::scenario::run::progress;
use crate::scenario::snapshot::Snapshot;

impl Conductor<'_> {
    pub(super) fn idle(&mut self, idle: &Idle) -> Outcome<()> {
        let &Idle { events, settle } = idle;
        let settled = clock::now() + nanoseconds(settle);
        while clock::now() < settled {
            self.rest((settled - clock::now().min(settled)).min(100 * MILLISECOND))?;
        }
        let bar = progress("idle", self.load.duration.as_secs(), self.load.quiet);
        let begin = Snapshot::at(self.server, true);
        let end = clock::now() + nanoseconds(self.load.duration);
        while clock::now() < end {
            self.rest((end - clock::now().min(end)).min(100 * MILLISECOND))?;
            bar.set_position((clock::now() - begin.at) / SECOND);
        }
        bar.finish_and_clear();
        self.evidence.idle = Some((begin, Snapshot::at(self.server, true)));
        // While nothing was published the client had nothing to do.
        self.watch_client()?;
        let pace = Pace::Schedule { start: clock::now(), rate: self.load.rate, burst: 1, count: events };
        let publisher = Publisher::start(self.route(0, 1), pace, self.sequences.clone())?;
        self.attend(vec![publisher], events, |_| Ok(()))?;
        self.outstanding()?;
        self.rest(SETTLE)?;
        self.evidence.last = Snapshot::at(self.server, false);
        Ok(())
    }

    pub(super) fn storm(&mut self) -> Outcome<()> {
        let publishers = self.publishers()?;
        let all = self.load.subscribers;
        let due = clock::now() + nanoseconds(self.load.duration) / 3;
        let before = self.crowd()?.opened();
        let (mut dropped, mut back) = (0, None);
        self.attend(publishers, self.count, |this| {
            let now = clock::now();
            if dropped == 0 && now >= due {
                this.crowd()?.tell(|| Command::DropAll);
                dropped = now;
            } else if dropped > 0 && back.is_none() && this.crowd()?.opened() >= before + all {
                back = Some(now - dropped);
            }
            Ok(())
        })?;
        let patience = clock::now() + nanoseconds(self.load.patience) + nanoseconds(self.load.head_timeout);
        while back.is_none() && dropped > 0 && clock::now() < patience {
            self.rest(MILLISECOND)?;
            if self.crowd()?.opened() >= before + all {
                back = Some(clock::now() - dropped);
            }
        }
        self.evidence.all_back_ns = back;
        if back.is_none() {
            return Err(Failure::new("not everybody was back in time after the storm"));
        }
        Ok(())
    }

    pub(super) fn slow(&mut self) -> Outcome<()> {
        let publishers = self.publishers()?;
        let due = clock::now() + 20 * MILLISECOND + nanoseconds(self.load.duration) / 2;
        let mut stalled = false;
        self.attend(publishers, self.count, |this| {
            if !stalled && clock::now() >= due {
                stalled = true;
                this.evidence.stall_before = Some(Snapshot::at(this.server, false));
                this.crowd()?.tell(|| Command::Stall { group: 1, stalled: true });
            }
            Ok(())
        })?;
        self.rest(100 * MILLISECOND)?;
        self.evidence.stall_after = Some(Snapshot::at(self.server, false));
        self.crowd()?.tell(|| Command::Stall { group: 1, stalled: false });
        Ok(())
    }
}
