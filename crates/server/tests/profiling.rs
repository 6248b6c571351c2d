//! Profiles of the running server: where they may be had, and that deliveries go on meanwhile.

mod support;

use std::net::SocketAddr;
use std::thread;

use support::{Backend, Connection, Response, Server, on_both_backends};

const ADMIN: [&str; 4] = ["--admin", "127.0.0.1:0", "--admin-host", "fanfare.test"];

fn ask(admin: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    Connection::open(admin).request(method, target, headers)
}

/// Whether a profile has this text in its table of texts.
fn has_text(profile: &[u8], text: &str) -> bool {
    profile.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn without_the_option_there_are_no_profiles() {
    let mut server = Server::start_with(Backend::Epoll, &ADMIN);
    let admin = server.admin_address();
    for target in ["/debug/pprof/profile?seconds=1", "/debug/pprof/heap"] {
        let problem = ask(admin, "GET", target, &[]).problem(404);
        assert_eq!(problem["type"], "/problems/profiling-off");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("--profiling")), "{problem}");
        // The public listeners have them never.
        assert_eq!(server.get(target).problem(404)["type"], "/problems/not-found");
    }
}

on_both_backends! {
    /// A signal interrupts the waits of shards a hundred times a second, and each of them has a descriptor
    /// table of its own: every event arrives, once and in order.
    fn deliveries_go_on_during_a_profile(backend) {
        let mut server = Server::start_with(backend, &[&ADMIN[..], &["--profiling"]].concat());
        let admin = server.admin_address();
        let mut subscribers: Vec<_> = (0..20).map(|_| server.subscribe("topic=a")).collect();
        let profiling = thread::spawn(move || ask(admin, "GET", "/debug/pprof/profile?seconds=2", &[]));
        let mut publisher = server.publisher();
        let mut count = 0;
        while !profiling.is_finished() {
            for _ in 0..50 {
                publisher.publish("a", &count.to_string());
                count += 1;
            }
            for subscriber in &mut subscribers {
                for number in count - 50..count {
                    assert_eq!(subscriber.event().data, number.to_string());
                }
            }
        }
        let profile = profiling.join().expect("an answer");
        assert_eq!(profile.status, 200, "{}", profile.head);
        assert_eq!(profile.header("Content-Type"), Some("application/octet-stream"));
        assert!(has_text(&profile.body, "nanoseconds"), "{} bytes", profile.body.len());
        // The threads that have worked, by their names.
        let texts = String::from_utf8_lossy(&profile.body).into_owned();
        assert!(texts.contains("fanfare-shard"), "no shard was busy: {texts}");
        assert!(has_text(&profile.body, "tick"), "a shard's function has its name");
        server.publish("a", "after");
        assert!(subscribers.iter_mut().all(|subscriber| subscriber.event().data == "after"));
    }
}

#[test]
fn one_profile_is_made_at_a_time_and_only_for_some_seconds() {
    let mut server = Server::start_with(Backend::Epoll, &[&ADMIN[..], &["--profiling"]].concat());
    let admin = server.admin_address();
    for wrong in ["0", "61", "-1", "1.5", "", "x"] {
        let problem = ask(admin, "GET", &format!("/debug/pprof/profile?seconds={wrong}"), &[]).problem(400);
        assert_eq!(problem["type"], "/problems/invalid-parameter", "{wrong}");
    }
    let elsewhere = [("Sec-Fetch-Site", "cross-site")];
    for target in ["/debug/pprof/profile", "/debug/pprof/heap"] {
        assert_eq!(
            ask(admin, "GET", target, &elsewhere).problem(403)["type"],
            "/problems/origin-not-allowed"
        );
        let host = [("Host", "other.example")];
        assert_eq!(ask(admin, "GET", target, &host).problem(421)["type"], "/problems/unknown-host");
        assert_eq!(ask(admin, "HEAD", target, &[]).status, 405);
    }
    // Its client waits for a minute. Where the second request comes before the first, the first is refused.
    let (first, second) = support::eventually("the first one is being made", || {
        let mut first = Connection::open(admin);
        first.send(support::http::head("GET", "/debug/pprof/profile?seconds=60", &[]));
        let second = ask(admin, "GET", "/debug/pprof/profile?seconds=1", &[]);
        (second.status == 503).then_some((first, second))
    });
    assert_eq!(second.problem(503)["type"], "/problems/profile-in-progress");
    assert!(second.header("Retry-After").is_some());
    // A client that leaves ends its profile.
    first.reset();
    support::eventually("the first one has ended", || {
        (ask(admin, "GET", "/debug/pprof/profile?seconds=1", &[]).status == 200).then_some(())
    });
}

/// The process is the same one, with its arguments, after it has started again for the samples of the
/// allocator.
#[test]
fn the_heap_shows_what_holds_it() {
    let mut server =
        Server::start_with(Backend::Epoll, &[&ADMIN[..], &["--profiling", "--log-bytes", "64MiB"]].concat());
    let admin = server.admin_address();
    let data = "x".repeat(100_000);
    for _ in 0..100 {
        server.publish("large", &data);
    }
    let profile = ask(admin, "GET", "/debug/pprof/heap", &[]);
    if !cfg!(feature = "heap-profile") {
        let problem = profile.problem(404);
        assert_eq!(problem["type"], "/problems/profiling-off");
        assert!(
            problem["detail"].as_str().is_some_and(|detail| detail.contains("heap-profile")),
            "{problem}"
        );
        return;
    }
    assert_eq!(profile.status, 200, "{}", String::from_utf8_lossy(&profile.body));
    for text in ["inuse_space", "bytes", "fanfare"] {
        assert!(has_text(&profile.body, text), "{text}: {} bytes", profile.body.len());
    }
    assert!(has_text(&profile.body, "frame"), "10 MB of frames are in use");
}
