//! What is asked of other people's servers: requests of any shape, for each subscriber.

mod fake;

use fake::http2::Gateway;
use fake::tls::{self, Proxy};
use fake::{Behaviour, Fake, Framing, Send, judge};

#[test]
fn a_subscription_can_be_any_request() {
    let fake = Fake::start(Behaviour::default());
    let (headers, values) = (fake::scratch("headers"), fake::scratch("values"));
    std::fs::write(&headers, "X-One: 1\nCookie: session={value}\n").unwrap();
    std::fs::write(&values, "ann\nbob\n").unwrap();
    let verdict = fake.judge(&format!(
        "fanout -n 3 -r 20 -d 200ms --subscribe-body {{\"who\":{{subscriber}}}} --subscribe-header @{} --values {}",
        headers.display(),
        values.display()
    ));
    std::fs::remove_file(&headers).unwrap();
    std::fs::remove_file(&values).unwrap();
    assert_eq!((verdict.code, verdict.count("deliveries")), (0, 3 * 5), "{}", verdict.complaint);
    let mut asked = fake.subscriptions();
    asked.sort_by_key(|text| text.rsplit_once("who").unwrap().1.to_owned());
    for (number, cookie) in ["ann", "bob", "ann"].iter().enumerate() {
        let text = &asked[number];
        assert!(text.starts_with("POST /events/load HTTP/1.1\r\n"), "{text}");
        assert!(
            text.contains("X-One: 1\r\n") && text.contains(&format!("Cookie: session={cookie}\r\n")),
            "{text}"
        );
        assert!(text.ends_with(&format!("Content-Length: 9\r\n\r\n{{\"who\":{number}}}")), "{text}");
    }
}

#[test]
fn each_subscriber_can_have_a_url_of_its_own() {
    let (one, other) = (Fake::start(Behaviour::default()), Fake::start(Behaviour::default()));
    let urls = fake::scratch("urls");
    std::fs::write(&urls, format!("http://{}/a/x\nhttp://{}/b/y\n", one.address, other.address)).unwrap();
    let verdict = judge(&format!("idle -n 5 -d 200ms --subscribe-urls {}", urls.display()));
    std::fs::remove_file(&urls).unwrap();
    assert_eq!(verdict.code, 0, "{}", verdict.complaint);
    // The report named 127.0.0.1:8844, where nothing was asked.
    assert_eq!(verdict.json["name"], format!("the URLs of {}", urls.display()));
    let first_lines = |fake: &Fake| -> Vec<String> {
        fake.subscriptions().iter().map(|text| text.lines().next().unwrap().to_owned()).collect()
    };
    assert_eq!(first_lines(&one), ["GET /a/x HTTP/1.1"; 3]);
    assert_eq!(first_lines(&other), ["GET /b/y HTTP/1.1"; 2]);
}

#[test]
fn subscribers_can_be_spread_over_several_hosts() {
    let fakes = [(); 3].map(|()| Fake::start(Behaviour::default()));
    let addresses = fakes.each_ref().map(|fake| fake.address.to_string()).join(",");
    let verdict =
        judge(&format!("idle -n 7 -d 200ms --subscribe-url http://push.example/x --connect-to {addresses}"));
    assert_eq!(verdict.code, 0, "{}", verdict.complaint);
    assert_eq!(fakes.each_ref().map(|fake| fake.subscriptions().len()), [3, 2, 2]);
    assert!(fakes[0].subscriptions()[0].contains("Host: push.example\r\n"));
}

#[test]
fn a_stream_can_have_several_topics() {
    let run = |address| {
        format!(
            "topics -n 20 --topics 10 --per-stream 3 -r 100 -d 400ms --patience 400ms --subscribe-url http://{address}/events/{{topics:,}}"
        )
    };
    let fake = Fake::start(Behaviour::default());
    let verdict = fake.judge(&run(fake.address));
    // Each topic has 60 / 10 streams.
    assert_eq!((verdict.code, verdict.count("deliveries")), (0, (10 + 40) * 6), "{}", verdict.complaint);
    assert!(fake.subscriptions()[0].starts_with("GET /events/load-"), "{}", fake.subscriptions()[0]);

    // The first 10 events try the topics out; the next is the second of the first one.
    let fake = Fake::start(Behaviour {
        mischief: Box::new(|_, event| if event == 10 { vec![] } else { vec![Send::Event(event)] }),
        ..Behaviour::default()
    });
    assert_eq!(fake.judge(&run(fake.address)).faults(), [6, 0, 0, 0]);

    let verdict = Fake::start(Behaviour::default()).judge("topics -n 20 --topics 10 --per-stream 3");
    assert_eq!(verdict.code, 2);
    assert!(verdict.complaint.contains("{topics:SEPARATOR}"), "{}", verdict.complaint);
}

#[test]
fn popular_topics_have_many_streams() {
    let fake = Fake::start(Behaviour::default());
    let verdict = fake.judge("topics -n 60 --topics 20 --zipf 1.2 -r 100 -d 200ms --patience 400ms");
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    let subscriptions = fake.subscriptions();
    let of = |name: &str| subscriptions.iter().filter(|text| text.contains(name)).count();
    assert!(of("/load-0 ") > 10 && of("/load-0 ") > of("/load-5 "), "{} {}", of("/load-0 "), of("/load-5 "));
}

/// A server with TLS that closes a connection after a while without requests ended the run with "did it
/// die?".
#[test]
fn a_publishers_connection_with_tls_that_was_closed_meanwhile_is_opened_again() {
    let fake = Fake::start(Behaviour { impatient: true, ..Behaviour::default() });
    let proxy = Proxy::start(fake.address);
    let verdict = judge(&format!(
        "fanout -n 3 -r 10 -d 500ms --server plain --url https://{} --ca {}",
        proxy.address,
        proxy.certificate.display()
    ));
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!(verdict.count("deliveries"), 3 * 6);
}

#[test]
fn streams_and_publishes_go_through_tls() {
    for (framing, hangs_up) in [(Framing::Chunked, false), (Framing::Close, false), (Framing::Chunked, true)]
    {
        let mischief = move |_, event| match event {
            10 if hangs_up => vec![Send::Hangup],
            _ => vec![Send::Event(event)],
        };
        let fake = Fake::start(Behaviour {
            framing,
            replays: true,
            mischief: Box::new(mischief),
            ..Behaviour::default()
        });
        let proxy = Proxy::start(fake.address);
        let port = proxy.address.port();
        let run = format!("fanout -n 20 -r 50 -d 500ms --server plain --url https://localhost:{port}");
        let verdict = judge(&format!("{run} --ca {}", proxy.certificate.display()));
        assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{framing:?}: {}", verdict.complaint);
        assert_eq!(verdict.count("deliveries"), 20 * 26);
        assert_eq!(verdict.count("streams_reopened"), if hangs_up { 20 } else { 0 });
        assert_eq!(judge(&format!("{run} --insecure")).code, 0);
        let verdict = judge(&run);
        assert_eq!(verdict.code, 1);
        for expected in ["invalid peer certificate", "--ca", "--insecure"] {
            assert!(verdict.complaint.contains(expected), "{}", verdict.complaint);
        }
        std::fs::remove_file(&proxy.certificate).unwrap();
    }
    let fake = Fake::start(Behaviour::default());
    let verdict = judge(&format!("idle -n 2 -d 1s --insecure --subscribe-url https://{}/x", fake.address));
    assert!(verdict.code == 1 && verdict.complaint.contains("TLS"), "no TLS there: {}", verdict.complaint);
}

#[test]
fn compressed_streams_are_decompressed() {
    for drip in [0, 5] {
        let fake = Fake::start(Behaviour { gzip: true, drip, ..Behaviour::default() });
        let run = "fanout -n 3 -r 20 -d 300ms --payload text --size 2000";
        let verdict = fake.judge(&format!("{run} --gzip"));
        assert_eq!((verdict.code, verdict.count("deliveries")), (0, 3 * 7), "{}", verdict.complaint);
        assert!(fake.subscriptions()[0].contains("Accept-Encoding: gzip\r\n"));
        let verdict = fake.judge(run);
        assert!(verdict.code == 1 && verdict.complaint.contains("--gzip"), "{}", verdict.complaint);
    }
    // What is said to be compressed and is not.
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\nthis is not compressed";
    let fake = Fake::start(Behaviour { answer: Some(answer), lingers: true, ..Behaviour::default() });
    let verdict = fake.judge("fanout -n 1 -d 500ms --gzip");
    assert!(
        verdict.code == 1 && verdict.complaint.contains("compressed stream is broken"),
        "{}",
        verdict.complaint
    );
}

#[test]
fn streams_share_connections_of_http2() {
    let behaviour = || Behaviour { framing: Framing::Close, replays: true, ..Behaviour::default() };
    let run = |fake: &Fake, url: &str, scenario: &str| {
        judge(&format!(
            "{scenario} --threads 2 --http2 --streams-per-connection 5 --subscribe-url {url}/events/load --server plain --publish-url http://{}/events/load",
            fake.address
        ))
    };
    let fake = Fake::start(behaviour());
    let gateway = Gateway::start(fake.address, None);
    let url = format!("http://{}", gateway.address);
    let verdict = run(&fake, &url, "fanout -n 20 -r 50 -d 500ms");
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!((verdict.count("deliveries"), gateway.connections()), (20 * 26, 4));

    let (config, certificate) = tls::configuration(&[b"h2"]);
    let gateway = Gateway::start(fake.address, Some(config));
    let url = format!("https://localhost:{}", gateway.address.port());
    let verdict = judge(&format!(
        "idle -n 10 -d 300ms --http2 --subscribe-url {url}/events/x --ca {}",
        certificate.display()
    ));
    assert_eq!((verdict.code, verdict.count("streams_open_at_end")), (0, 10), "{}", verdict.complaint);
    let verdict = judge(&format!("idle -n 2 -d 300ms --http2 --subscribe-url {url}/events/x"));
    assert!(
        verdict.code == 1 && verdict.complaint.contains("invalid peer certificate"),
        "{}",
        verdict.complaint
    );
    std::fs::remove_file(certificate).unwrap();

    // Streams that the server resets come back, and resume.
    let hang_up = |_, event| if event == 10 { vec![Send::Hangup] } else { vec![Send::Event(event)] };
    let fake = Fake::start(Behaviour { mischief: Box::new(hang_up), ..behaviour() });
    let gateway = Gateway::start(fake.address, None);
    let url = format!("http://{}", gateway.address);
    let verdict = run(&fake, &url, "fanout -n 10 -r 50 -d 500ms");
    assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{}", verdict.complaint);
    assert_eq!((verdict.count("streams_cut"), verdict.count("streams_reopened")), (10, 10));

    let fake = Fake::start(behaviour());
    let gateway = Gateway::start(fake.address, None);
    let url = format!("http://{}", gateway.address);
    for scenario in [
        "storm -n 10 -r 50 -d 900ms",
        "churn -n 10 -r 50 -d 500ms --per-second 20",
        "slow -n 10 --share 0.5 -r 50 -d 400ms",
    ] {
        let verdict = run(&fake, &url, scenario);
        assert_eq!((verdict.code, verdict.faults()), (0, [0; 4]), "{scenario}: {}", verdict.complaint);
        if scenario.starts_with("slow") {
            // It was said to be nothing, although up to a megabyte of each stream waits in the client.
            assert!(verdict.json["slow_waiting_bytes"].is_null(), "{}", verdict.json);
            assert!(verdict.json["notes"].to_string().contains("over HTTP/2 a stalled reader takes 1 MiB"));
        }
    }
    // A server that does not speak it.
    let verdict = judge(&format!(
        "idle -n 2 -d 300ms --http2 --head-timeout 500ms --subscribe-url http://{}/x",
        fake.address
    ));
    assert_eq!(verdict.code, 1, "{}", verdict.complaint);
}

/// Only the first member was read.
#[test]
fn a_compressed_stream_may_have_several_members() {
    let fake = Fake::start(Behaviour { gzip: true, members: true, ..Behaviour::default() });
    let verdict = fake.judge("fanout -n 3 -r 20 -d 300ms --gzip --patience 300ms");
    assert_eq!((verdict.code, verdict.count("deliveries")), (0, 3 * 7), "{}", verdict.complaint);
}
