//! A log that keeps nothing is only for what comes by mail.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::sync::Arc;
use std::time::Duration;

use fanfare_proto::audience::Subscription;
use fanfare_proto::cursor::{Cursor, Epoch};
use fanfare_proto::delivery::{Delivery, NewStream};
use fanfare_proto::event::{Event, Topic};
use fanfare_proto::event_log::{EventLog, UnsharedLog};
use fanfare_proto::frame::{Frame, WireFormat};
use fanfare_proto::limits::{Limits, LogLimits, Retention};
use fanfare_proto::log::Log;
use fanfare_proto::stream::StreamOptions;

fn frame(seq: u64, topic: &str) -> Arc<Frame> {
    let event = Event::new(Topic::new(topic).unwrap()).with_data("x");
    Arc::new(Frame::encode(seq, &seq.to_string(), event, Duration::ZERO))
}

/// A subscriber resumed that had every event of its quiet topic; another topic's event was newer. It became a
/// laggard, because its number was older than the newest. Before its turn an event of its topic came: its
/// mail was on the way, but the log, which kept nothing, had lost it already. The subscriber was
/// disconnected, and told of a gap when it came back.
#[test]
fn an_up_to_date_subscriber_of_a_quiet_topic_is_at_the_head_at_once() {
    let (epoch, now) = (Epoch::new(1), Duration::ZERO);
    let retention = Retention::default().with_events(0);
    let mut log = Log::new(epoch, LogLimits::default().with_retention(retention), 7);
    let mut delivery = Delivery::new(Limits::default(), epoch, 1);
    let append = |log: &mut Log, frame: &Arc<Frame>| log.append(Arc::clone(frame), now, &mut Vec::new());
    append(&mut log, &frame(1, "quiet"));
    append(&mut log, &frame(2, "busy"));

    let subscription = Subscription::new([Topic::new("quiet").unwrap()], WireFormat::Plain, false);
    let mut access = UnsharedLog { log: &mut log, shard: 0 };
    let id = Cursor { epoch, seq: 1 }.to_string();
    let start = access.resume(&id, subscription.selection());
    let link = delivery.reserve();
    let opened = delivery.open(subscription, Some(start), &mut access).unwrap();
    assert!(!opened.gap);
    let new = NewStream { link, socket: 5, options: StreamOptions::default(), lifetime: None, unsent: None };
    delivery.begin(opened, new, now, &mut access);

    // An event is released between this and the next tick, and its mail comes with the next tick.
    let event = frame(3, "quiet");
    append(&mut log, &event);
    let mut sent = Vec::new();
    for has_mail in [false, true] {
        if has_mail {
            delivery.handle_event(Arc::clone(&event), &mut 100);
        }
        let mut access = UnsharedLog { log: &mut log, shard: 0 };
        let mut budget = delivery.budget();
        while let Some(batch) = delivery.poll_send(now, &mut budget, &mut access) {
            sent.extend_from_slice(batch.bytes);
            delivery.handle_sent([], now, &mut access);
        }
    }
    assert_eq!(delivery.poll_closed(), None);
    assert_eq!(sent, event.wire(WireFormat::Plain));
}
