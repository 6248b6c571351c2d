//! NDJSON: a stream of lines, whose events are published while it comes. The events before a bad line stay
//! published, and the answer says so.

use axum::response::Response;
use fanfare::{ProblemKind, PublishError};

use super::{Part, Publishing, Sum, publish_waiting, refused};
use crate::control::Control;
use crate::control::bodies::{BodyAccount, Receiving};
use crate::control::body::{self, Lines};
use crate::control::limits::LINE_EXTRA;
use crate::control::problem::Problem;
use crate::control::publish_rates::Bill;

/// Publishes a body of lines.
pub(super) async fn publish_lines(
    control: &Control,
    publisher: &Publishing<'_>,
    mut body: Receiving,
) -> Result<Response, Problem> {
    let line_limit = control.hub.limits().event_bytes + LINE_EXTRA;
    let mut lines = Lines::default();
    let mut sum = Sum::default();
    loop {
        body.account.set_memory(lines.buffer.capacity()).map_err(|problem| sum.describe(problem))?;
        let bytes = body.next(None).await;
        let ended = bytes.is_none();
        // A body may come for days.
        publisher.still_holds(control).map_err(|problem| sum.describe(problem))?;
        let mut bill = publisher.bill();
        match bytes {
            Some(Err(problem)) => return Err(sum.describe(problem)),
            Some(Ok(bytes)) => {
                bill.bytes = bytes.len();
                lines.buffer.extend_from_slice(&bytes);
            }
            None => {}
        }
        let mut part = Part::default();
        let mut failure = None;
        let (before, mut is_refused) = (sum.len(), false);
        while let Some(line) = lines.next(ended) {
            let is_full = if line.trim_ascii().is_empty() {
                part.has_read(line.len())
            } else {
                let event = body::json_event(&line).map_err(Problem::from).and_then(|event| {
                    publisher.may_publish(control, &event)?;
                    control.hub.check(std::slice::from_ref(&event)).map_err(|error| {
                        is_refused = true;
                        refused(&error)
                    })?;
                    Ok(event)
                });
                match event {
                    Ok(event) => {
                        part.lines.push(lines.number);
                        part.add(event)
                    }
                    Err(problem) => {
                        let number = lines.number;
                        failure = Some(problem.at(&format!("line {number}")).member("line", number));
                        break;
                    }
                }
            };
            if is_full {
                publish_lines_up_to(control, publisher, &mut body, &lines, &mut part, &mut sum, &mut bill)
                    .await?;
            }
        }
        if failure.is_none() && lines.buffer.len() > line_limit {
            let number = lines.number + 1;
            let long = format!("line {number} is longer than {line_limit} bytes");
            failure = Some(Problem::new(ProblemKind::LineTooLong, long).member("line", number));
        }
        publish_lines_up_to(control, publisher, &mut body, &lines, &mut part, &mut sum, &mut bill).await?;
        if let Some(problem) = failure {
            if is_refused && sum.len() == before {
                bill.refuse();
            }
            return Err(sum.describe(problem));
        }
        body.pause(bill.pay()).await.map_err(|problem| sum.describe(problem))?;
        if ended {
            return Ok(sum.into_response());
        }
    }
}

/// Publishes a part of a body of lines, and waits as the publisher's rate says. `bytes` is the bill of the
/// bytes that have come last.
async fn publish_lines_up_to(
    control: &Control,
    publisher: &Publishing<'_>,
    body: &mut Receiving,
    lines: &Lines,
    part: &mut Part,
    sum: &mut Sum,
    bytes: &mut Bill<'_>,
) -> Result<(), Problem> {
    let (mut bill, count, before) = (publisher.bill(), part.events.len(), sum.len());
    // Where the client leaves meanwhile, all of it may have been published.
    bill.events = count;
    let result = part.publish_lines(control, &body.account, lines, sum).await;
    let published = sum.len() - before;
    bill.events = published;
    let wait = bill.pay();
    if let Err(problem) = result {
        bill.events = count.saturating_sub(published);
        bill.refuse();
        if published == 0 {
            bytes.refuse();
        }
        return Err(problem);
    }
    body.pause(wait).await.map_err(|problem| sum.describe(problem))
}

impl Part {
    /// Publishes the events of these lines, if there are any, and lets others go on.
    async fn publish_lines(
        &mut self,
        control: &Control,
        account: &BodyAccount,
        lines: &Lines,
        sum: &mut Sum,
    ) -> Result<(), Problem> {
        let part = std::mem::take(self);
        if !part.events.is_empty() {
            control.owed_wakes.make();
            let up_to = format!("up to line {}", lines.number);
            let memory = lines.buffer.capacity().saturating_add(part.bytes);
            account.set_memory(memory).map_err(|problem| sum.describe(problem).at(&up_to))?;
            let conflict = part.publish_up_to_conflict(control, sum).await;
            match conflict.map_err(|error| sum.describe(refused(&error)).at(&up_to))? {
                None => {}
                Some((number, error)) => {
                    let problem = refused(&error).at(&format!("line {number}")).member("line", number);
                    return Err(sum.describe(problem));
                }
            }
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Publishes the events. Where the id of one of them was given to another event, only those before it are
    /// published, as before every bad line; the answer is the number of that line.
    async fn publish_up_to_conflict(
        mut self,
        control: &Control,
        sum: &mut Sum,
    ) -> Result<Option<(usize, PublishError)>, PublishError> {
        let mut conflict = None;
        while !self.events.is_empty() {
            let count = self.events.len();
            match publish_waiting(&control.hub, &mut self.events, sum).await {
                Ok(published) => sum.add(published),
                Err(error @ PublishError::IdConflict { index }) => {
                    let taken = count - self.events.len();
                    self.lines.drain(..taken);
                    conflict = self.lines.get(index).map(|number| (*number, error));
                    self.events.truncate(index);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(conflict)
    }
}
