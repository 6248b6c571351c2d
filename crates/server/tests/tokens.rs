//! Tokens, grants and signed URLs over real sockets, on both backends: tables of cases, each with a name.
//!
//! Each case is asked on a connection of its own, and on one that the control plane has. Its status, its
//! challenge and the whole body are compared, so that the body says nothing that it should not. A table runs
//! on a server that hides the reasons from clients, and on one with `--debug-auth`. At its end the log has to
//! have counted each refusal under its reason, and to have no part of a token, although everything is logged.

#[path = "tokens/case.rs"]
mod case;
#[path = "tokens/faults.rs"]
mod faults;
#[path = "tokens/grants.rs"]
mod grants;
#[path = "tokens/keys.rs"]
mod keys;
#[path = "tokens/places.rs"]
mod places;
mod support;
#[path = "tokens/urls.rs"]
mod urls;

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use case::{Case, Judge};
use faults::Row;
use grants::Viewer;
use keys::{Keys, PUBLISHERS, SUBSCRIBERS, URL_SECRETS};
use places::Places;
use serde_json::json;
use support::file::ConfigFile;
use support::{Backend, Server, Subscriber, on_both_backends};

#[allow(clippy::disallowed_methods, reason = "tokens expire by the wall clock")]
fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// The rows as subscriptions to the topic `a`.
fn as_subscriptions(rows: Vec<Row>) -> Vec<Case> {
    let case = |row: Row| Case::subscribe(row.name, "topic=a", row.subscriber).bearer(&row.token);
    rows.into_iter().map(case).collect()
}

/// The rows as publishes to the topic `a`.
fn as_publishes(rows: Vec<Row>) -> Vec<Case> {
    let case = |row: Row| Case::publish(row.name, "a", row.publisher).bearer(&row.token);
    rows.into_iter().map(case).collect()
}

/// The options with keys of all algorithms for both sides.
fn with_keys<'o>(files: &'o [String; 2], options: &[&'o str]) -> Vec<&'o str> {
    [&["--subscriber-keys", &*files[0], "--publisher-keys", &*files[1]], options].concat()
}

/// Runs a table on a server that hides the reasons, and on one that tells them.
fn run(backend: Backend, options: &[&str], cases: &[Case]) {
    let (subscribers, publishers) = (SUBSCRIBERS.jwks(), PUBLISHERS.jwks());
    let files = [subscribers.name(), publishers.name()];
    for debug in [true, false] {
        let mut judge = Judge::start(backend, &with_keys(&files, options), debug);
        judge.expect_all(cases);
        judge.expect_log();
    }
}

/// Runs the table for a server that has public keys alone.
fn run_with_public_keys(backend: Backend, keys: &Keys, side: &str, cases: &[Case]) {
    let files = [&keys.rsa, &keys.p256].map(|pair| ConfigFile::new(&pair.public_key_pem()));
    let [rsa, ec] = files.each_ref().map(ConfigFile::name);
    let pss = format!("ps256:{rsa}");
    let other = if side == "--subscriber-keys" { "--publisher-keys" } else { "--subscriber-keys" };
    let options = [side, &rsa, side, &pss, side, &ec, other, &ec];
    for debug in [true, false] {
        let mut judge = Judge::start(backend, &options, debug);
        judge.expect_all(cases);
        judge.expect_log();
    }
}

/// Publishes a public event to all topics of this viewer, a private one to each of them, and a public one to
/// all. Gives the ids of the first and of the last. Afterwards every shard has taken them in.
fn publish_for(server: &Server, viewer: &Viewer) -> [String; 2] {
    let token = PUBLISHERS.token(json!({ "fanfare": { "publish": ["*"] } }));
    let authorization = format!("Bearer {token}");
    let headers = [("Authorization", authorization.as_str())];
    // The topics of a query are the fields of a form.
    let publish = |topics: &str, data: &str| {
        let form = format!("{topics}&data={data}");
        let response = server.connect().post_with("application/x-www-form-urlencoded", form, &headers);
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()["id"].as_str().expect("an id").to_owned()
    };
    let first = publish(&viewer.query(), "before");
    for topic in &viewer.topics {
        publish(&format!("topic={topic}"), &format!("private+{topic}&private=on"));
    }
    let last = publish(&viewer.query(), "after");
    assert_eq!(server.connect().request("GET", "/topics?limit=1", &headers).status, 200);
    [first, last]
}

/// The data that the viewer gets of these, without the first one or with it. Each is as it was published:
/// with the escapes of the query in it decoded.
fn seen_of(viewer: &Viewer, with_first: bool) -> Vec<String> {
    let sees = |topic: &&&str| viewer.sees_private.contains(topic);
    let mut all: Vec<String> = if with_first { vec!["before".to_owned()] } else { Vec::new() };
    all.extend(viewer.topics.iter().filter(sees).map(|topic| format!("private {}", decoded(topic))));
    all.push("after".to_owned());
    all
}

/// A value of a form.
fn decoded(value: &str) -> String {
    let form = format!("x={value}");
    let (_, value) = fanfare::form_fields(form.as_bytes()).next().expect("one field");
    String::from_utf8(value.into_owned()).expect("UTF-8")
}

/// Subscribes on a connection of its own, or on one that the control plane has.
fn view(
    server: &Server,
    viewer: &Viewer,
    more: &str,
    last_event_id: Option<&str>,
    is_kept: bool,
) -> Subscriber {
    let authorization = viewer.token.as_ref().map(|token| format!("Bearer {token}"));
    let mut headers = Vec::new();
    headers.extend(authorization.iter().map(|value| ("Authorization", value.as_str())));
    headers.extend(last_event_id.map(|id| ("Last-Event-ID", id)));
    let mut connection = server.connect();
    if is_kept {
        assert_eq!(connection.request("GET", support::CONTROL_PATH, &[]).status, 200);
    }
    connection.send(support::http::head("GET", &format!("/events?{}{more}", viewer.query()), &headers));
    Subscriber::on(connection)
}

on_both_backends! {
    fn every_token_of_a_subscriber_gets_its_answer(backend) {
        let cases = as_subscriptions(faults::rows(&SUBSCRIBERS, &PUBLISHERS));
        run(backend, &faults::OPTIONS, &cases);
    }

    fn every_token_of_a_publisher_gets_its_answer(backend) {
        let cases = as_publishes(faults::rows(&PUBLISHERS, &SUBSCRIBERS));
        run(backend, &faults::OPTIONS, &cases);
    }

    fn public_keys_without_names_accept_their_own_algorithms_alone(backend) {
        let cases = as_subscriptions(faults::rows_of_public_keys(&SUBSCRIBERS));
        run_with_public_keys(backend, &SUBSCRIBERS, "--subscriber-keys", &cases);
        let cases = as_publishes(faults::rows_of_public_keys(&PUBLISHERS));
        run_with_public_keys(backend, &PUBLISHERS, "--publisher-keys", &cases);
    }

    fn a_token_is_taken_from_its_places_alone_and_two_tokens_from_none(backend) {
        for places in Places::ALL {
            let options = [places.options(), &["--cors-origin", "https://app.example"]].concat();
            run(backend, &options, &places::cases(places));
        }
    }

    fn grants_cover_what_they_say_and_nothing_else(backend) {
        run(backend, &[], &grants::subscriptions(false));
        run(backend, &["--anonymous-subscribe"], &grants::subscriptions(true));
        run(backend, &[], &grants::publishes());
    }

    /// Live, in a replay of everything, behind an id, and each of them on a kept connection, too.
    fn private_events_reach_the_streams_whose_grants_cover_them(backend) {
        let (subscribers, publishers) = (SUBSCRIBERS.jwks(), PUBLISHERS.jwks());
        let files = [subscribers.name(), publishers.name()];
        let server = Server::start_with(backend, &with_keys(&files, &["--anonymous-subscribe"]));
        for viewer in grants::viewers() {
            let name = &viewer.name;
            let (whole, rest) = (seen_of(&viewer, true), seen_of(&viewer, false));
            // Each row has the topic of others, so the last id of these is where its own events begin.
            let [begin, _] = publish_for(&server, &viewer);
            let mut live = [false, true].map(|is_kept| view(&server, &viewer, "", None, is_kept));
            let [first, last] = publish_for(&server, &viewer);
            for stream in &mut live {
                assert_eq!(stream.data(whole.len()), whole, "{name}, live");
            }
            for is_kept in [false, true] {
                let mut replay = view(&server, &viewer, "", Some(&first), is_kept);
                assert_eq!(replay.data(rest.len()), rest, "{name}, behind an id");
                let mut replay = view(&server, &viewer, &format!("&last_event_id={begin}"), None, is_kept);
                let both = [rest.clone(), whole.clone()].concat();
                assert_eq!(replay.data(both.len()), both, "{name}, behind an id in the query");
                // Other rows may have published to these topics before, so the whole replay is read up to the
                // newest.
                let mut replay = view(&server, &viewer, "&last_event_id=earliest", None, is_kept);
                let mut all = Vec::new();
                while all.last().is_none_or(|event: &support::Event| event.id != last) {
                    all.push(replay.event());
                }
                let privates = all.iter().filter_map(|event| event.data.strip_prefix("private "));
                let sees = |topic: &str| viewer.sees_private.iter().any(|seen| decoded(seen) == topic);
                let wrong: Vec<&str> = privates.clone().filter(|topic| !sees(topic)).collect();
                assert!(wrong.is_empty(), "{name}, everything: {wrong:?}");
                assert_eq!(privates.count() > 0, !viewer.sees_private.is_empty(), "{name}, everything");
            }
        }
    }

    fn a_signed_url_is_good_as_it_was_signed_and_in_no_other_form(backend) {
        let secrets = URL_SECRETS.map(ConfigFile::new);
        let [newer, older] = secrets.each_ref().map(ConfigFile::name);
        run(backend, &["--url-keys", &newer, "--url-keys", &older], &urls::cases());
        run(backend, &[], &urls::cases_without_keys());
    }

    fn connections_are_ended_by_the_token_of_all_topics_alone(backend) {
        run(backend, &[], &grants::ends());
    }
}

#[test]
fn each_case_has_a_name_of_its_own_and_there_are_many() {
    let mut names = BTreeSet::new();
    let mut count = 0;
    let mut add = |table: &str, cases: Vec<Case>| {
        count += cases.len();
        names.extend(cases.into_iter().map(|case| format!("{table}: {}", case.name)));
    };
    add("subscribers", as_subscriptions(faults::rows(&SUBSCRIBERS, &PUBLISHERS)));
    add("publishers", as_publishes(faults::rows(&PUBLISHERS, &SUBSCRIBERS)));
    add("public keys", as_publishes(faults::rows_of_public_keys(&PUBLISHERS)));
    for places in Places::ALL {
        add("places", places::cases(places));
    }
    add("subscriptions", grants::subscriptions(false));
    add("subscriptions, anonymous", grants::subscriptions(true));
    add("publishes", grants::publishes());
    add("ends", grants::ends());
    add("URLs", urls::cases());
    add("URLs without keys", urls::cases_without_keys());
    println!("{count} cases");
    assert_eq!(names.len(), count);
    assert!(count >= 600, "{count} cases");
}
