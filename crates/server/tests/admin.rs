//! The admin listener: metrics, health checks, and the rules for access to them. And the lines of the log for
//! operators.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};
use support::server::{arguments, fanfare, run};
use support::tokens::PublisherKey;
use support::{Backend, CONTROL_PATH, Connection, Server, Subscriber, eventually, http, on_both_backends};

/// A server with an admin listener on a free port.
struct Watched {
    server: Server,
    admin: std::net::SocketAddr,
}

impl Watched {
    // The name is that of the tests' requests.
    const OPTIONS: [&str; 4] = ["--admin", "127.0.0.1:0", "--admin-host", "fanfare.test,admin.example"];

    fn start(backend: Backend, options: &[&str]) -> Watched {
        Watched::of(Server::start_with(backend, &[&Watched::OPTIONS, options].concat()))
    }

    fn of(mut server: Server) -> Watched {
        let admin = server.admin_address();
        Watched { server, admin }
    }

    fn ask(&self, target: &str, headers: &[(&str, &str)]) -> support::Response {
        Connection::open(self.admin).request("GET", target, headers)
    }

    fn scrape(&self) -> Scrape {
        let response = self.ask("/metrics", &[]);
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        Scrape::of(&response.text())
    }

    /// Does something, and waits until these series have changed by so much.
    fn expect<T>(&self, changes: &[(&str, f64)], action: impl FnOnce() -> T) -> T {
        let before = self.scrape();
        let result = action();
        let mut seen = Vec::new();
        eventually(&format!("{changes:?}"), || {
            let now = self.scrape();
            seen = changes.iter().map(|(name, _)| now.value(name) - before.value(name)).collect();
            changes.iter().zip(&seen).all(|((_, wanted), seen)| wanted == seen).then_some(())
        });
        result
    }
}

/// A dashboard that is open.
struct Dashboard(Subscriber);

impl Dashboard {
    /// Opens its stream, with these fields in the request. Otherwise the refusal.
    fn open(watched: &Watched, headers: &[(&str, &str)]) -> Result<Dashboard, support::Response> {
        let mut connection = Connection::open(watched.admin);
        connection.send(http::head("GET", "/dashboard/events", headers));
        let head = connection.read_head();
        connection.received.splice(0..0, head.bytes());
        if http::status_of(&head) != 200 {
            return Err(connection.read_response());
        }
        let stream = Subscriber::on(connection);
        assert_eq!(stream.header("Content-Type"), Some("text/event-stream"));
        assert_eq!(stream.header("Cache-Control"), Some("no-store, no-cache, no-transform"));
        Ok(Dashboard(stream))
    }

    /// The next figures.
    fn next(&mut self) -> Value {
        let event = self.0.event();
        assert_eq!((event.kind.as_str(), event.id.as_str()), ("figures", ""));
        serde_json::from_str(&event.data).expect("JSON")
    }
}

/// One answer, by series: the name and the labels as they stand in the text.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    /// Reads the text format of Prometheus, and checks what `promtool check metrics` checks, and more: each
    /// family has its help and its type before its series, none is there twice, units and suffixes are in the
    /// names.
    fn of(text: &str) -> Scrape {
        let (mut helps, mut types) = (BTreeSet::new(), BTreeMap::new());
        let mut series: BTreeMap<String, f64> = BTreeMap::new();
        let mut family = String::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').expect("a help text");
                assert!(!help.trim().is_empty() && help.ends_with('.'), "{line}");
                assert!(helps.insert(name.to_owned()), "a second help: {line}");
                name.clone_into(&mut family);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                assert_eq!(name, family, "the type follows the help");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "a second type: {line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(kind != "histogram" || name.ends_with("_seconds"), "no base unit: {line}");
                assert!(kind != "summary", "{line}");
            } else {
                let (name, value) = line.rsplit_once(' ').expect("a value");
                let bare = name.split('{').next().expect("a name");
                let of_family = match types.get(&family).map(String::as_str) {
                    Some("histogram") => ["_bucket", "_sum", "_count"]
                        .iter()
                        .any(|suffix| bare.strip_suffix(suffix) == Some(&family)),
                    Some(_) => bare == family,
                    None => false,
                };
                assert!(of_family, "a series outside of its family {family}: {line}");
                let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
                assert!(bare.bytes().all(is_word), "{line}");
                for unit in ["_ms", "_milliseconds", "_microseconds", "_kb", "_kilobytes", "_minutes"] {
                    assert!(!bare.contains(unit), "no base unit: {line}");
                }
                let value: f64 = value.parse().expect("a number");
                assert!(series.insert(name.to_owned(), value).is_none(), "a series is there twice: {line}");
            }
        }
        assert_eq!(helps, types.keys().cloned().collect());
        let scrape = Scrape(series);
        types
            .iter()
            .filter(|(_, kind)| *kind == "histogram")
            .for_each(|(name, _)| scrape.check_histogram(name));
        scrape
    }

    /// Its buckets rise, and the last one is the count.
    fn check_histogram(&self, name: &str) {
        let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for (series, value) in &self.0 {
            let Some(labels) = series.strip_prefix(&format!("{name}_bucket{{")) else { continue };
            let mut others = Vec::new();
            let mut bound = None;
            for label in labels.trim_end_matches('}').split(',') {
                match label.strip_prefix("le=\"") {
                    Some("+Inf\"") => bound = Some(f64::INFINITY),
                    Some(le) => bound = le.trim_end_matches('"').parse().ok(),
                    None => others.push(label),
                }
            }
            buckets.entry(others.join(",")).or_default().push((bound.expect("a bound"), *value));
        }
        assert!(!buckets.is_empty(), "{name} has no buckets");
        for (labels, mut buckets) in buckets {
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            assert!(buckets.is_sorted_by_key(|(_, count)| *count), "{name} {buckets:?}");
            let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            let (bound, last) = *buckets.last().expect("a bucket");
            assert_eq!((bound, last), (f64::INFINITY, self.value(&format!("{name}_count{labels}"))));
            assert!(self.value(&format!("{name}_sum{labels}")) >= 0.0);
        }
    }

    fn value(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("no series {series} in {:#?}", self.0.keys()))
    }

    /// The sum of a family over its labels.
    fn sum(&self, family: &str) -> f64 {
        let of_family = self.0.iter().filter(|(name, _)| name.split('{').next() == Some(family));
        of_family.map(|(_, value)| value).sum()
    }
}

on_both_backends! {
    fn each_metric_moves_when_it_should(backend) {
        let watched = Watched::start(backend, &["--heartbeat", "300ms", "--retain-events", "3"]);
        let server = &watched.server;
        let mut subscriber = watched.expect(
            &[
                ("fanfare_connections", 1.0),
                ("fanfare_subscriptions_total", 1.0),
                ("fanfare_connections_accepted_total", 1.0),
                ("fanfare_audiences", 1.0),
                ("fanfare_topics", 1.0),
            ],
            || server.subscribe("topic=a"),
        );
        assert_eq!(watched.scrape().sum("fanfare_shard_connections"), 1.0);
        let before = watched.scrape();
        watched.expect(
            &[
                ("fanfare_events_published_total", 1.0),
                ("fanfare_deliveries_total", 1.0),
                ("fanfare_sends_total", 1.0),
                ("fanfare_delivery_lag_seconds_count", 1.0),
                ("fanfare_delivery_lag_seconds_bucket{le=\"60\"}", 1.0),
                ("fanfare_sweep_duration_seconds_count", 1.0),
                ("fanfare_log_events", 1.0),
            ],
            || {
                server.publish("a", "hello");
                assert_eq!(subscriber.event().data, "hello");
            },
        );
        let after = watched.scrape();
        let grown = |name: &str| after.value(name) - before.value(name);
        assert!(grown("fanfare_published_bytes_total") > 5.0);
        assert_eq!(grown("fanfare_delivered_bytes_total"), grown("fanfare_published_bytes_total"));
        assert!(grown("fanfare_log_bytes") > 0.0);
        for family in ["fanfare_shard_deliveries_total", "fanfare_shard_mailbox_events_taken_total"] {
            assert_eq!(after.sum(family) - before.sum(family), 1.0, "{family}");
        }
        let ticks = |scrape: &Scrape| scrape.sum("fanfare_shard_tick_duration_seconds_count");
        assert!(ticks(&after) > ticks(&before));
        eventually("a heartbeat is counted", || {
            (watched.scrape().value("fanfare_heartbeats_total") > 0.0).then_some(())
        });

        // One that comes back, and one that comes back too late.
        let first = server.publish("a", "one");
        (0..2).for_each(|number| drop(server.publish("a", &number.to_string())));
        let resume = format!("topic=a&last_event_id={first}");
        let resumed = watched.expect(
            &[("fanfare_replayed_events_total", 2.0), ("fanfare_gaps_total", 0.0)],
            || server.subscribe(&resume),
        );
        (0..5).for_each(|number| drop(server.publish("a", &number.to_string())));
        let late = watched.expect(
            &[("fanfare_gaps_total", 1.0), ("fanfare_replayed_events_total", 3.0)],
            || server.subscribe(&resume),
        );
        for leaves in [resumed, late, subscriber] {
            let changes = [
                ("fanfare_connections", -1.0),
                ("fanfare_connections_closed_total{reason=\"peer_left\"}", 1.0),
            ];
            watched.expect(&changes, || leaves.leave(false));
        }

        // Requests that are no subscriptions, or are refused.
        watched.expect(&[("fanfare_requests_answered_total", 1.0)], || server.get("/health/live"));
        watched.expect(&[("fanfare_requests_handed_over_total", 1.0)], || server.get(CONTROL_PATH));
        watched.expect(&[("fanfare_requests_refused_total", 1.0)], || server.get("/events"));
        watched.expect(&[("fanfare_refused_total{reason=\"host\"}", 1.0)], || {
            server.connect().request("GET", "/events?topic=a", &[("Host", "evil.example")])
        });
        watched.expect(&[("fanfare_refused_total{reason=\"admin_host\"}", 1.0)], || {
            watched.ask("/metrics", &[("Host", "evil.example")])
        });
        let pending = watched.expect(&[("fanfare_requests_pending", 1.0)], || {
            let mut connection = server.connect();
            connection.send("GET /ev");
            connection
        });
        watched.expect(&[("fanfare_requests_pending", -1.0)], || drop(pending));
        let publish = watched.expect(&[("fanfare_publishes_in_progress", 1.0)], || {
            let mut connection = server.connect();
            let fields = [("Content-Type", "application/json"), ("Content-Length", "100")];
            connection.send(http::head("POST", "/events", &fields));
            connection.send("{");
            connection
        });
        assert!(watched.scrape().value("fanfare_publish_memory_bytes") > 0.0);
        watched.expect(&[("fanfare_publishes_in_progress", -1.0)], || drop(publish));
    }

    fn slow_subscribers_and_bounds_are_counted(backend) {
        let slow = |time: &str| {
            let options = ["--max-connections", "2", "--shards", "1", "--send-buffer", "16KiB", "--laggard-time", time];
            let watched = Watched::start(backend, &options);
            let subscriber = watched.expect(&[("fanfare_connections", 1.0)], || {
                watched.server.ask_with_small_buffer("topic=a", 4096)
            });
            (watched, subscriber)
        };
        let large = "x".repeat(1 << 20);
        // Whether this machine is busy or not, it stays a laggard for as long as the test looks.
        let (watched, stays) = slow("1h");
        watched.expect(&[("fanfare_laggards", 1.0)], || watched.server.publish("a", &large));
        let closed = "fanfare_connections_closed_total{reason=\"peer_left\"}";
        watched.expect(&[(closed, 1.0), ("fanfare_laggards", -1.0)], || stays.reset());
        let (watched, _stalled) = slow("200ms");
        let closed = "fanfare_connections_closed_total{reason=\"laggard_stalled\"}";
        watched.expect(&[(closed, 1.0)], || watched.server.publish("a", &large));
        let server = &watched.server;
        assert_eq!(watched.scrape().value("fanfare_connections_limit"), 2.0);
        let _both = [(); 2].map(|()| server.subscribe("topic=a"));
        let full = [("fanfare_refused_total{reason=\"connections_full\"}", 1.0)];
        let refused = watched.expect(&full, || server.get("/events?topic=a"));
        assert_eq!(refused.status, 503);
        // The log is smaller than what comes.
        let small = Watched::start(backend, &["--log-bytes", "64KiB"]);
        let event = "x".repeat(8 << 10);
        (0..20).for_each(|_| drop(small.server.publish("a", &event)));
        let scrape = small.scrape();
        assert!(scrape.value("fanfare_log_evicted_events_total") > 0.0);
        assert!(scrape.value("fanfare_log_bytes") <= scrape.value("fanfare_log_limit_bytes"));
    }

    /// A topic, a subject or an address never makes a series.
    fn what_clients_send_makes_no_series(backend) {
        let watched = Watched::start(backend, &[]);
        let before: Vec<String> = watched.scrape().0.into_keys().collect();
        let hostile = ["a\"} 1\nfanfare_fake 2", "\\", "le=\"+Inf\"", "\u{1F4A5}", "{topic=\"x\"}"];
        for (number, name) in hostile.into_iter().enumerate() {
            let body = json!({ "topic": name, "data": name, "type": format!("t{number}") }).to_string();
            watched.server.connect().post("application/json", body);
        }
        for number in 0..50 {
            watched.server.publish(&format!("topic-{number}"), "x");
            watched.server.get(&format!("/path-{number}"));
            watched.server.connect().request("GET", "/", &[("Host", &format!("host-{number}.example"))]);
        }
        let after: Vec<String> = watched.scrape().0.into_keys().collect();
        assert_eq!(before, after);
        let response = watched.ask("/metrics", &[]);
        for never in ["topic-1", "path-1", "host-1", "fake", "127.0.0.1"] {
            assert!(!response.text().contains(never), "{never}");
        }
    }

    /// The two listeners serve different things to different names.
    fn each_listener_serves_its_own(backend) {
        let watched = Watched::start(backend, &["--host", "push.example,fanfare.test"]);
        for target in ["/metrics", "/admin"] {
            assert_eq!(watched.server.get(target).status, 404, "{target}");
        }
        for target in ["/events?topic=a", "/topics", "/demo.js", CONTROL_PATH] {
            assert_eq!(watched.ask(target, &[]).status, 404, "{target}");
        }
        let mut kept = Connection::open(watched.admin);
        for name in ["127.0.0.1:1", "localhost", "admin.example", "[::1]"] {
            assert_eq!(kept.request("GET", "/metrics", &[("Host", name)]).status, 200, "{name}");
        }
        // A public name is none of the admin listener's, and the other way round.
        for name in ["push.example", "evil.example"] {
            let problem = kept.request("GET", "/metrics", &[("Host", name)]).problem(421);
            let detail = problem["detail"].as_str().expect("a reason");
            assert!(detail.contains(&format!("--admin-host {name} ")), "{detail}");
            assert_eq!(kept.request("GET", "/health/live", &[("Host", name)]).text(), "live\n");
        }
        let other = watched.server.connect().request("GET", "/topics", &[("Host", "admin.example")]);
        other.problem(421);
        let post = kept.request("POST", "/metrics", &[]);
        assert_eq!((post.status, post.header("Allow")), (405, Some("GET, HEAD")));
        let metrics = kept.request("GET", "/metrics", &[("Origin", "http://127.0.0.1")]);
        assert_eq!(metrics.header("Access-Control-Allow-Origin"), None);
        assert_eq!(kept.request("HEAD", "/metrics", &[]).status, 200);
        let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        let open = kept.request("GET", "/metrics", &[("Accept", accept)]);
        assert!(open.header("Content-Type").is_some_and(|kind| kind.starts_with("application/openmetrics-text")));
        assert!(open.text().ends_with("# EOF\n") && open.text().contains("# UNIT fanfare_log_bytes bytes\n"));
    }

    /// A scrape has a thread of its own.
    fn a_scrape_is_answered_during_a_broadcast(backend) {
        let watched = Watched::start(backend, &[]);
        let mut subscribers: Vec<_> = (0..200).map(|_| watched.server.subscribe("topic=a")).collect();
        let is_over = AtomicBool::new(false);
        let events = 300;
        let scrapes = thread::scope(|scope| {
            let scraper = scope.spawn(|| {
                let mut kept = Connection::open(watched.admin);
                let (mut scrapes, mut last) = (0, 0.0);
                while !is_over.load(Ordering::Relaxed) {
                    let text = kept.request("GET", "/metrics", &[]).text();
                    let deliveries = Scrape::of(&text).value("fanfare_deliveries_total");
                    assert!(deliveries >= last, "a counter fell");
                    (scrapes, last) = (scrapes + 1, deliveries);
                }
                scrapes
            });
            (0..events).for_each(|number| drop(watched.server.publish("a", &number.to_string())));
            for subscriber in &mut subscribers {
                let wanted: Vec<String> = (0..events).map(|number| number.to_string()).collect();
                assert_eq!(subscriber.data(events), wanted);
            }
            is_over.store(true, Ordering::Relaxed);
            scraper.join().expect("the scraper ends")
        });
        assert!(scrapes > 0);
        let deliveries = (subscribers.len() * events) as f64;
        eventually("every delivery is counted and timed", || {
            let scrape = watched.scrape();
            let counted = ["fanfare_deliveries_total", "fanfare_delivery_lag_seconds_count"];
            (counted.map(|name| scrape.value(name)) == [deliveries; 2]).then_some(())
        });
    }

    /// The page and everything that it asks for come from the admin listener, with the same strict policy.
    fn the_dashboard_has_nothing_from_elsewhere(backend) {
        let watched = Watched::start(backend, &[]);
        let page = watched.ask("/dashboard", &[]);
        assert_eq!((page.status, page.header("Content-Type")), (200, Some("text/html; charset=utf-8")));
        let html = page.text();
        let attributes = |name: &str| {
            let attribute = format!(" {name}=\"");
            let found = html.split(&attribute).skip(1);
            found.filter_map(|rest| rest.split('"').next()).collect::<Vec<_>>()
        };
        let files: Vec<&str> = [attributes("src"), attributes("href")].concat();
        assert!(files.len() >= 5, "{files:?}");
        for file in files.into_iter().filter(|file| *file != "data:," && *file != "metrics") {
            let response = watched.ask(&format!("/{file}"), &[]);
            assert_eq!(response.status, 200, "{file}");
            let policy = response.header("Content-Security-Policy");
            assert!(policy.is_some(), "{file}");
            assert_eq!(policy, page.header("Content-Security-Policy"), "{file}");
            assert_eq!(response.header("X-Content-Type-Options"), Some("nosniff"), "{file}");
            assert_eq!(watched.server.get(&format!("/{file}")).status, 404, "{file} on a public listener");
        }
        let policy = page.header("Content-Security-Policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        for loose in ["unsafe", "*", "http:", "https:"] {
            assert!(!policy.contains(loose), "{policy}");
        }
        let post = Connection::open(watched.admin).request("POST", "/dashboard", &[]);
        assert_eq!((post.status, post.header("Allow")), (405, Some("GET, HEAD")));
    }

    /// Everything that was delivered and published is in the rates of some second, and all dashboards get the
    /// same figures.
    fn dashboards_get_figures_once_a_second(backend) {
        let watched = Watched::start(backend, &["--shards", "2"]);
        let mut dashboards = [(); 3].map(|()| Dashboard::open(&watched, &[]).expect("there is room"));
        let first = dashboards[0].next();
        assert!(first["rates"].is_null() && first["interval"].is_null() && first["lag"].is_null(), "{first}");
        let found = ["connections", "readiness", "is_ready"].map(|name| &first[name]);
        assert_eq!(found, [&json!(0), &json!("ready"), &json!(true)]);
        assert_eq!(first["shards"].as_array().map(Vec::len), Some(2));

        let hostile = "<img src=x onerror=alert(1)>";
        let mut subscribers: Vec<_> = (0..10).map(|_| watched.server.subscribe("topic=a")).collect();
        let encoded: String = form_urlencoded::byte_serialize(hostile.as_bytes()).collect();
        let _other = watched.server.subscribe(&format!("topic={encoded}"));
        for number in 0..30 {
            watched.server.publish("a", &number.to_string());
        }
        for subscriber in &mut subscribers {
            assert_eq!(subscriber.data(30).len(), 30);
        }
        let (mut published, mut delivered, mut had_lag) = (0.0, 0.0, false);
        let sum = |figures: &Value, name: &str| {
            let number = |value: &Value| value.as_f64().expect("a number");
            number(&figures["rates"][name]) * number(&figures["interval"])
        };
        let mut last = Value::Null;
        for _ in 0..60 {
            last = dashboards[0].next();
            published += sum(&last, "publishes");
            delivered += sum(&last, "deliveries");
            had_lag |= last["lag"]["p99"].as_f64().is_some_and(|p99| p99 > 0.0);
            let topics = last["top_topics"].as_array().is_some_and(|topics| topics.len() == 2);
            if topics && (published.round(), delivered.round()) == (30.0, 300.0) {
                break;
            }
        }
        assert_eq!((published.round(), delivered.round(), had_lag), (30.0, 300.0, true), "{last}");
        assert_eq!(last["connections"], 11);
        let topics: Vec<(&Value, &Value)> = last["top_topics"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|topic| (&topic["topic"], &topic["subscribers"]))
            .collect();
        assert_eq!(topics, [(&json!("a"), &json!(10)), (&json!(hostile), &json!(1))]);
        let limits = last["limits"].as_array().expect("limits");
        let connections = limits.iter().find(|limit| limit["name"] == "connections").expect("that limit");
        assert_eq!((&connections["used"], &connections["option"]), (&json!(11), &json!("--max-connections")));

        // Another dashboard shows each second that this one shows.
        let wanted = last["time"].as_f64().expect("a time");
        let times = |dashboard: &mut Dashboard| {
            let mut times = std::iter::repeat_with(|| dashboard.next()["time"].as_f64().expect("a time"));
            times.find(|time| *time >= wanted)
        };
        assert_eq!(times(&mut dashboards[1]), Some(wanted));
        assert_eq!(times(&mut dashboards[2]), Some(wanted));
    }

    /// Where connections of the public listeners have used up the descriptors, each probe found none.
    fn the_admin_listener_has_descriptors_when_all_others_are_used_up(backend) {
        // In a table of its own a shard takes none of the control plane's.
        for (tables, path) in [("private", CONTROL_PATH), ("shared", "/events?topic=a")] {
            let options = ["--descriptor-tables", tables, "--shards", "1", "--max-control-connections", "4096"];
            let options = [&Watched::OPTIONS[..], &options].concat();
            let watched = Watched::of(Server::start_limited(backend, 300, &options));
            let _crowd: Vec<Connection> = (0..600)
                .map(|_| {
                    let mut connection = Connection::open(watched.server.address);
                    connection.send_what_it_takes(http::head("GET", path, &[]));
                    connection
                })
                .collect();
            for _ in 0..40 {
                assert_eq!(watched.ask("/health/ready", &[]).status, 200, "{tables}");
            }
            // The listener gave a spare descriptor away whenever it found no further connection, and
            // newcomers of the public listener took it. The spare ones are copies of this file.
            let spare = || watched.server.descriptors_of("/dev/null");
            let (before, mut newcomers) = (spare(), Vec::new());
            for _ in 0..20 {
                assert_eq!(watched.ask("/health/ready", &[]).status, 200, "{tables}");
                let mut newcomer = Connection::open(watched.server.address);
                newcomer.send_what_it_takes(http::head("GET", path, &[]));
                newcomers.push(newcomer);
            }
            // Between the moment in which one is free and that in which it is used, a newcomer may still take
            // it.
            eventually("most of the spare descriptors are back", || (spare() + 5 >= before).then_some(()));
            // Silent ones take them all, and make room.
            let _silent: Vec<Connection> = (0..40).map(|_| Connection::open(watched.admin)).collect();
            for _ in 0..3 {
                assert_eq!(watched.ask("/health/ready", &[]).status, 200, "{tables}");
            }
        }
    }

    /// Dashboards are bounded, and take no place of probes. A page of another site opens none.
    fn dashboards_are_bounded(backend) {
        let watched = Watched::start(backend, &[]);
        let mut dashboards: Vec<Dashboard> = Vec::new();
        let refused = loop {
            match Dashboard::open(&watched, &[]) {
                Ok(dashboard) => dashboards.push(dashboard),
                Err(refused) => break refused,
            }
            assert!(dashboards.len() <= 16, "there is no bound");
        };
        assert_eq!(dashboards.len(), 16);
        assert_eq!(refused.header("Retry-After"), Some("5"));
        let problem = refused.problem(503);
        let detail = problem["detail"].as_str().expect("a reason");
        assert!(detail.contains("16 dashboards"), "{detail}");
        // Connections that are opened later end no dashboard.
        let _idle: Vec<Connection> = (0..100)
            .map(|_| {
                let mut connection = Connection::open(watched.admin);
                assert_eq!(connection.request("GET", "/health/live", &[]).status, 200);
                connection
            })
            .collect();
        for dashboard in &mut dashboards {
            dashboard.next();
            dashboard.next();
        }
        dashboards.pop();
        let again = || Dashboard::open(&watched, &[]).ok();
        eventually("the place of a closed dashboard is free", again).next();
        drop(dashboards);
        for site in ["cross-site", "same-site"] {
            let refused = Dashboard::open(&watched, &[("Sec-Fetch-Site", site)]).err().expect("a refusal");
            refused.problem(403);
        }
        let mut own = eventually("the page's own stream", || {
            Dashboard::open(&watched, &[("Sec-Fetch-Site", "same-origin")]).ok()
        });
        own.next();
        watched.ask("/dashboard/events", &[("Host", "evil.example")]).problem(421);
    }

    /// Where the output is no terminal, `fanfare top` prints the figures of one second. It says by its exit
    /// code what is wrong.
    fn top_prints_figures(backend) {
        let watched = Watched::start(backend, &[]);
        let _subscribers = [(); 3].map(|()| watched.server.subscribe("topic=a"));
        let top = |url: &str| {
            let mut command = fanfare();
            command.args(["top", "--url", url]);
            run(command, "")
        };
        // The public address is no admin listener.
        let public = top(&watched.server.url());
        assert_eq!((public.code, public.stdout.as_str()), (Some(3), ""), "{}", public.stderr);
        assert!(public.stderr.contains("/dashboard/events answered 404"), "{}", public.stderr);
        assert!(public.stderr.contains("--url names the admin listener"), "{}", public.stderr);
        let unused = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        assert_eq!(top(&format!("http://{unused}")).code, Some(4));
        // The address of the page in a browser is good, too.
        assert_eq!(top(&format!("http://{}/dashboard", watched.admin)).code, Some(0));
        let ran = top(&format!("http://{}", watched.admin));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
        let words = |line: &'_ str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let mut lines = ran.stdout.lines().map(words);
        assert!(ran.stdout.starts_with("Fanfare ") && ran.stdout.contains("  ready"), "{}", ran.stdout);
        let counts = ["connections", "3"].map(str::to_owned);
        assert!(lines.any(|line| line.starts_with(&counts)), "{}", ran.stdout);
    }

    /// A probe on the admin listener learns of the drain, when the public listeners are closed already.
    fn readiness_ends_with_the_drain(backend) {
        let watched = Watched::start(backend, &["--drain", "30s"]);
        let ready = |watched: &Watched| {
            let response = watched.ask("/health/ready", &[]);
            (response.status, response.text())
        };
        assert_eq!(ready(&watched), (200, "ready\n".to_owned()));
        assert_eq!(watched.scrape().value("fanfare_ready"), 1.0);
        let _subscribers = [(); 20].map(|()| watched.server.subscribe("topic=a"));
        watched.server.signal("TERM");
        eventually("it says why it is not ready", || {
            (ready(&watched) == (503, "draining\n".to_owned())).then_some(())
        });
        assert_eq!(watched.scrape().value("fanfare_ready"), 0.0);
        assert_eq!(watched.ask("/health/live", &[]).status, 200);
    }

    /// Connections that are slow or idle keep no probe out.
    fn idle_connections_make_room_for_a_probe(backend) {
        let watched = Watched::start(backend, &[]);
        let mut idle = Vec::new();
        for _ in 0..100 {
            let mut connection = Connection::open(watched.admin);
            assert_eq!(connection.request("GET", "/health/live", &[]).status, 200);
            idle.push(connection);
        }
        assert_eq!(watched.ask("/health/live", &[]).status, 200);
        // A bad head is refused as everywhere.
        let mut bad = Connection::open(watched.admin);
        bad.send("GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
        assert_eq!(bad.read_response().status, 400);
    }

    /// Connections that never say anything, and such that only ask for heads of streams, kept every probe
    /// out.
    fn silent_connections_make_room_for_a_probe(backend) {
        let watched = Watched::start(backend, &[]);
        let silent: Vec<_> = (0..80).map(|_| Connection::open(watched.admin)).collect();
        for _ in 0..5 {
            assert_eq!(watched.ask("/health/ready", &[]).status, 200);
        }
        drop(silent);
        let mut kept = Vec::new();
        for _ in 0..80 {
            let mut connection = Connection::open(watched.admin);
            connection.send(http::head("HEAD", "/dashboard/events", &[]));
            assert_eq!(http::status_of(&connection.read_head()), 200);
            kept.push(connection);
        }
        assert_eq!(watched.ask("/health/ready", &[]).status, 200);
        let page = watched.ask("/dashboard/events", &[("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", "cross-site")]);
        page.problem(403);
    }

    /// The list of connections has the addresses of clients, and nothing said that everyone can read it.
    fn an_admin_listener_that_others_reach_is_told(backend) {
        let open = Server::start_with(backend, &["--admin", "0.0.0.0:0"]);
        let log = open.expect_log("the admin listener (--admin) asks for no token");
        assert!(log.contains("WARN") && log.contains("/connections") && log.contains("firewall"), "{log}");
        let guarded = Server::start_with(backend, &["--admin", "127.0.0.1:0"]);
        let log = guarded.expect_log("memory_at_most");
        assert!(!log.contains("asks for no token"), "{log}");
    }

    /// The new server of an upgrade did not start, because the old one keeps its admin listener to the end of
    /// its drain; or it ran without metrics for good, where the address was the default one.
    fn an_address_in_use_is_waited_for(backend) {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let admin = taken.local_addr().expect("an address");
        let server = Server::start_with(backend, &["--admin", &admin.to_string()]);
        server.expect_health();
        let log = server.expect_log("the admin listener is not open");
        assert!(log.contains(&admin.to_string()), "{log}");
        drop(taken);
        server.expect_log("the admin listener is open now");
        assert_eq!(Connection::open(admin).request("GET", "/health/ready", &[]).status, 200);
        // Another error ends the start. This address is no machine's (RFC 5737).
        let mut command = fanfare();
        command.args(arguments(backend, &["--admin", "192.0.2.1:1"]));
        let ran = run(command, "");
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains("cannot open the admin listener on 192.0.2.1:1"), "{}", ran.stderr);
        // The default address may be another server's. Whether it is in use here or not, both servers start.
        let both = [(); 2].map(|()| {
            let mut command = fanfare();
            command.args(arguments(backend, &[]));
            Server::run_with_default_admin(command)
        });
        let without =
            both.iter().filter(|server| server.log().contains("the admin listener is not open")).count();
        assert!((1..=2).contains(&without), "{}", both[1].log());
        both.iter().for_each(Server::expect_health);
        let off = Server::start_with(backend, &["--admin", "off"]);
        assert!(!off.log().contains("admin listener"));
    }

    /// Each line is an object, whatever clients send.
    fn the_log_can_be_json(backend) {
        let watched = Watched::start(backend, &["--log-format", "json", "--access-log"]);
        let server = &watched.server;
        let refused = server.connect().post("application/json", "{\"topic\": \"a\\u0000\"}");
        assert_eq!(refused.status, 400);
        server.expect_log("a publish was refused");
        assert_eq!(server.get("/topics?access_token=secret").status, 200);
        // On a connection that is kept, also what gets to no route: a refused subscription, and a bad head.
        let mut kept = server.connect();
        assert_eq!(kept.request("GET", support::CONTROL_PATH, &[]).status, 200);
        assert_eq!(kept.request("GET", "/events?topic=%ff&access_token=secret", &[]).status, 400);
        assert_eq!(kept.request("GET", "/%zz secret", &[]).status, 400);
        server.subscribe("topic=a&last_event_id=earliest").leave(false);
        // Two threads write the lines.
        eventually("all requests are in the log", || {
            (server.log().matches("\"message\":\"request\"").count() == 5).then_some(())
        });
        let log = server.expect_log("stream ends");
        assert!(!log.contains("secret"), "{log}");
        let lines: Vec<Value> =
            log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
        let find = |message: &str| {
            let found = lines.iter().find(|line| line["message"] == message);
            found.unwrap_or_else(|| panic!("{message} is not in {log}"))
        };
        let audit = find("a publish was refused");
        assert_eq!((&audit["status"], &audit["client"], &audit["level"]), (&json!(400), &json!("127.0.0.1"), &json!("WARN")));
        assert_eq!(audit["target"], "fanfare::audit");
        assert!(audit["reason"].as_str().is_some_and(|reason| reason.contains("topic")), "{audit}");
        let begins = find("stream begins");
        assert_eq!((&begins["topics"], &begins["topic_count"]), (&json!("\"a\""), &json!(1)));
        let ends = find("stream ends");
        assert_eq!((&ends["reason"], &ends["connection"]), (&json!("peer_left"), &begins["connection"]));
        let requests = lines.iter().filter(|line| line["message"] == "request");
        let requests: Vec<&Value> = requests.collect();
        let paths: Vec<&Value> = requests.iter().map(|line| &line["path"]).collect();
        let has = |method: Value, path: Value| {
            let is_it = |line: &&&Value| (&line["method"], &line["path"]) == (&method, &path);
            requests.iter().find(is_it).is_some_and(|line| line["status"] == 400)
        };
        assert!(has(json!("GET"), json!("/events")), "{log}");
        assert!(has(Value::Null, Value::Null), "{log}");
        assert!(paths.contains(&&json!("/topics")) && paths.contains(&&json!("/events")), "{paths:?}");
    }

    /// The subject of the token is in the line, and the token is not. Without the option there is no access
    /// log.
    fn refused_publishes_are_audited(backend) {
        let key = PublisherKey::new();
        let watched =
            Watched::start(backend, &["--publisher-keys", &key.option(), "--anonymous-subscribe"]);
        let server = &watched.server;
        let denied = [("fanfare_access_denied_total{reason=\"missing\"}", 1.0)];
        let body = json!({ "topic": "a", "data": "x" }).to_string();
        watched.expect(&denied, || {
            assert_eq!(server.connect().post("application/json", &body).status, 401);
        });
        let authorization = key.authorization();
        let response = server.connect().post_with("application/json", "[", &[("Authorization", &authorization)]);
        assert_eq!(response.status, 400);
        for _ in 0..200 {
            server.connect().post("application/json", &body);
        }
        let log = server.expect_log("status=400");
        let lines = log.lines().filter(|line| line.contains("a publish was refused")).count();
        assert!((2..=100).contains(&lines), "{log}");
        assert!(log.contains("status=401") && log.contains("fanfare::audit"), "{log}");
        let token = authorization.rsplit(' ').next().expect("a token");
        assert!(!log.contains(token) && !log.contains("fanfare::access"), "{log}");
    }
}
