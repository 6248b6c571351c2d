//! Stories of decisions that come later, of connections that are ended or get other topics, and of what is
//! told of them.

use fanfare::ConnectionFilter;

use super::*;
use crate::desk::TicketUse;
use crate::orders::Order;
use crate::wishes::{Member, WhenDecided};

impl World {
    fn id_of(&self, number: usize) -> fanfare::ConnectionId {
        let at = self.clients[number].connection.as_ref().unwrap();
        self.shards[at.shard].net.borrow().connection(at.index).id.unwrap()
    }

    fn change(&self, number: usize, names: &[&str]) {
        let (id, topics) = (self.id_of(number), names.iter().map(topic));
        let topics: Vec<_> = topics.collect();
        self.give(Some(0), |_| Order::ChangeTopics(id, topics.clone(), Vec::new()));
    }
}

/// A stream that began in the tick in which another one left had its slot, and what was known of the other
/// one was lost: its end was not told, and its member stayed for ever.
#[test]
fn a_stream_that_gets_a_slot_in_the_tick_of_another_s_end_leaves_that_its_end() {
    let mut world = World::without_chance(Limits::default());
    let named = |name: &str| Some(Member { topic: "a".to_owned(), name: name.to_owned() });
    let first = world.join_as("a", usize::MAX, 0, |client| client.request.wishes.member = named("ada"));
    let slot_of =
        |world: &World, number| world.id_of(number).to_string().rsplit_once('-').unwrap().0.to_owned();
    let slot = slot_of(&world, first);
    world.leave(first, true);
    // One tick hears of both.
    let second = world.join_as("a", usize::MAX, 0, |client| client.request.wishes.member = named("bob"));
    assert_eq!(slot_of(&world, second), slot);
    // The world checks that each end is told once, and who the members are.
    world.pass(2 * SECOND);
    world.check_members();
    assert_eq!(world.shared.hub().members(&topic("a")), ["bob".into()]);
    world.all_leave();
    world.end();
}

/// A stream that was to be ended was sent an event in the same tick. Its socket took a part of that, and
/// nothing ended the stream when the rest was out.
#[test]
fn a_stream_that_is_disconnected_while_it_is_sent_an_event_ends() {
    let mut world = World::without_chance(Limits::default());
    let number = world.join("a", 500);
    let id = world.id_of(number);
    world.give(Some(0), |_| Order::Disconnect(id));
    world.publish_one("a", 3_000);
    // The world checks that a shard without work has no stream that is to end.
    world.pass(SECOND / 100);
    assert_eq!(world.counted().closed_for(CloseReason::Disconnected), 1);
    assert_eq!(world.counted().connections, 0);
}

/// A decision that was put off again and again kept its request for as long: each time the wait began anew.
#[test]
fn a_decision_that_is_put_off_has_no_more_time() {
    let mut world = World::without_chance(Limits::default().with_decision_time(SECOND).with_undecided(1));
    let waits = |client: &mut Client| client.request.wishes.decision = WhenDecided::Later;
    world.join_as("a", usize::MAX, 0, waits);
    for _ in 0..9 {
        world.pass(SECOND / 10);
        world.use_tickets(TicketUse::PutOff);
    }
    assert_eq!((world.undecided(), world.counted().decisions_timed_out), (1, 0));
    // It has kept its place.
    world.join_as("a", usize::MAX, 0, waits);
    assert_eq!(world.happened(Occurrence::UndecidedFull), 1);
    world.pass(SECOND / 10);
    assert_eq!((world.undecided(), world.counted().decisions_timed_out), (0, 1));
    // The decision comes too late: its client has left.
    world.use_tickets(TicketUse::Subscribe);
    world.pass(SECOND / 10);
    assert_eq!(world.counted().subscribed, 0);
}

/// A decision was put off, and the next one was made before the shard had acted on the first. It came behind
/// an order that was given after it, so that the connections of the subject ended, and this one began after
/// that and stayed.
#[test]
fn an_order_comes_behind_a_decision_that_was_put_off_before_it() {
    let mut world = World::without_chance(Limits::default());
    world.join_as("a", usize::MAX, 0, |client| {
        client.request.wishes.decision = WhenDecided::Later;
        client.request.wishes.subject = Some("x".to_owned());
    });
    world.use_tickets(TicketUse::PutOff);
    world.use_tickets(TicketUse::Subscribe);
    world.give(None, |_| Order::DisconnectSubject("x".to_owned()));
    // The world checks that a shard without work has no stream that is to end.
    world.pass(SECOND / 100);
    assert_eq!(world.counted().closed_for(CloseReason::Disconnected), 1);
}

/// A stream whose peer was found gone in a sweep was told of as if it had been given what was sent to the
/// others.
#[test]
fn the_end_of_a_stream_that_is_found_gone_does_not_say_that_it_was_given_the_event() {
    let mut world = World::without_chance(Limits::default());
    let (_stays, gone) = (world.join("a", usize::MAX), world.join("a", usize::MAX));
    world.publish_one("a", 10);
    world.pass(SECOND / 100);
    world.leave(gone, true);
    world.shards[0].net.borrow_mut().hold_back();
    // The world compares what the end says with what the socket took.
    world.publish_one("a", 10);
    world.pass(SECOND / 100);
    assert_eq!(world.counted().closed_for(CloseReason::PeerLeft), 1);
}

/// A stream that got other topics was silent since ever, as far as its new audience knew: a heartbeat came
/// right behind an event.
#[test]
fn a_change_of_topics_brings_no_heartbeat_forward() {
    let mut world = World::without_chance(Limits::default().with_heartbeat(4 * SECOND));
    let number = world.join("a", usize::MAX);
    for round in 0..20 {
        world.pass(SECOND * 3 / 2);
        world.publish_one("a", 10);
        world.pass(SECOND / 10);
        world.change(number, [&["a", "b"][..], &["a"]][round % 2]);
    }
    world.pass(SECOND / 100);
    assert_eq!(world.counted().heartbeats, 0);
    assert_eq!(world.happened(Occurrence::TopicsChanged), 20);
}

/// The rule of a change, in one slow subscriber: what stays comes whole, what comes begins behind the change,
/// and what goes ends with the event that was begun.
#[test]
fn a_slow_subscriber_whose_topics_change_gets_each_event_by_its_number() {
    let mut world = World::without_chance(Limits::default());
    let number = world.join_as("a", 500, 0, |client| {
        client.request.interest.topics = vec![topic("a"), topic("b")];
    });
    // It is in the middle of an event of "b".
    world.publish_one("b", 3_000);
    world.pass(SECOND / 100);
    for name in ["a", "b", "c"] {
        world.publish_one(name, 10);
    }
    world.change(number, &["a", "c"]);
    world.pass(SECOND / 100);
    for name in ["a", "b", "c"] {
        world.publish_one(name, 10);
    }
    world.change(number, &["c", "b"]);
    world.pass(SECOND / 100);
    for name in ["a", "b", "c"] {
        world.publish_one(name, 10);
    }
    let before = world.counted().deliveries;
    world.opens(number);
    world.pass(SECOND / 100);
    // The event in whose middle it was, "c" between the changes, and "b" and "c" behind both.
    assert_eq!(world.counted().deliveries - before, 4);
    assert_eq!(world.cursor_of(number), 10);
}

/// A question about connections looks at a part of the table in each tick, also where its filter names none
/// of them, and events are delivered between two parts.
#[test]
fn a_question_about_connections_is_answered_piece_by_piece() {
    const STREAMS: usize = 200;
    let mut setting = Setting::without_chance(Limits::default());
    setting.budgets.states = 10;
    let mut world = World::of(setting);
    for number in 0..STREAMS {
        world.join_as("a", usize::MAX, 0, |client| {
            client.request.wishes.subject = Some((number % 2).to_string());
        });
    }
    world.pass(SECOND / 100);
    let subject = |name: &str| ConnectionFilter::Subject(name.to_owned());
    // A connection that is found counts for more than one that is only looked at: two of them use a tick up.
    let cases = [
        (subject("nobody"), STREAMS / 10),
        (subject("1"), STREAMS / 2),
        (ConnectionFilter::All, STREAMS / 2),
    ];
    for (filter, least_ticks) in cases {
        let before = world.shards[0].ticks;
        world.list(0, filter);
        let mut ticks = 0;
        while world.listing.is_some() {
            world.publish_one("a", 10);
            let delivered = world.counted().deliveries;
            world.work_for(Duration::from_millis(1));
            assert_eq!(
                world.counted().deliveries,
                delivered + STREAMS as u64,
                "events do not wait for the answer"
            );
            world.take_listing();
            ticks += 1;
        }
        assert_eq!(world.shards[0].ticks - before, ticks);
        assert!(ticks >= least_ticks as u64, "{ticks} ticks");
    }
    // A question that is given up is over.
    world.list(0, ConnectionFilter::All);
    world.work_for(Duration::from_millis(1));
    world.listing = None;
    let before = world.shards[0].ticks;
    world.pass(SECOND / 100);
    assert!(world.shards[0].ticks - before < 5, "it is still answered");
}
