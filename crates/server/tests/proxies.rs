//! Proxies in front of the server: the PROXY protocol, and `X-Forwarded-For` and `Forwarded`, from peers that
//! are trusted and from others. The log shows which client the server takes a refused request for.

mod support;

use support::http::{self, Connection};
use support::{Backend, Server, Subscriber, on_both_backends};

const V1: &str = "PROXY TCP4 203.0.113.7 127.0.0.1 40000 80\r\n";

/// Version 2, a `PROXY` command, TCP over IPv4, twelve bytes: from 203.0.113.8:40000 to 127.0.0.1:80.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x08\x7f\0\0\x01\x9c\x40\0\x50";

fn start(backend: Backend, options: &[&str]) -> Server {
    Server::start_with(backend, options)
}

/// Asks for a name that the server does not answer to.
fn ask_by_wrong_name(connection: &mut Connection, target: &str, fields: &[(&str, &str)]) {
    let fields = [&[("Host", "wrong.example")], fields].concat();
    assert_eq!(connection.request("GET", target, &fields).status, 421);
}

on_both_backends! {
    fn a_trusted_peer_names_its_client_by_x_forwarded_for(backend) {
        let server = start(backend, &["--trusted-proxies", "127.0.0.0/8,10.0.0.0/8"]);
        // What the client has sent itself is left of what the proxies have added.
        let field = ("X-Forwarded-For", "192.0.2.66, 203.0.113.9, 10.1.2.3");
        ask_by_wrong_name(&mut server.connect(), "/events?topic=a", &[field]);
        server.expect_log("last_client=\"203.0.113.9\"");
    }

    fn of_another_peer_the_field_is_not_believed(backend) {
        let server = start(backend, &["--trusted-proxies", "10.0.0.0/8"]);
        ask_by_wrong_name(&mut server.connect(), "/events?topic=a", &[("X-Forwarded-For", "203.0.113.9")]);
        let log = server.expect_log("last_client=\"127.0.0.1\"");
        assert!(!log.contains("203.0.113.9"), "{log}");
    }

    fn the_control_plane_knows_the_client_too(backend) {
        let server = start(backend, &["--trusted-proxies", "127.0.0.1"]);
        let mut kept = server.connect();
        assert_eq!(kept.request("GET", "/topics", &[]).status, 200);
        let fields = [("Origin", "https://evil.example"), ("X-Forwarded-For", "2001:db8::9")];
        let refused = kept.post_with("application/x-www-form-urlencoded", "topic=a&data=x", &fields);
        assert_eq!(refused.status, 403);
        server.expect_log("last_client=\"2001:db8::9\"");
        ask_by_wrong_name(&mut server.connect(), "/topics", &[("X-Forwarded-For", "203.0.113.10")]);
        server.expect_log("last_client=\"203.0.113.10\"");
    }

    /// A proxy that writes `Forwarded` passes an `X-Forwarded-For` on as the client has sent it.
    fn only_the_field_of_the_proxies_is_read(backend) {
        let options = ["--trusted-proxies", "127.0.0.1", "--forwarded-field", "forwarded"];
        let server = start(backend, &options);
        let fields = [("X-Forwarded-For", "192.0.2.66"), ("Forwarded", "for=203.0.113.11")];
        ask_by_wrong_name(&mut server.connect(), "/events?topic=a", &fields);
        let log = server.expect_log("last_client=\"203.0.113.11\"");
        assert!(!log.contains("192.0.2.66"), "{log}");
    }

    fn a_trusted_peer_names_its_client_by_the_proxy_protocol(backend) {
        let options = ["--listen-proxy", "127.0.0.1:0", "--trusted-proxies", "127.0.0.0/8"];
        for (header, client) in [(V1.as_bytes(), "203.0.113.7"), (V2, "203.0.113.8")] {
            let mut server = start(backend, &options);
            let address = server.proxy_address();
            let open = || {
                let mut connection = Connection::open(address);
                connection.send(header);
                connection
            };
            ask_by_wrong_name(&mut open(), "/events?topic=a", &[]);
            server.expect_log(&format!("last_client=\"{client}\""));
            // It subscribes, and publishes by the control plane, as others do.
            let mut connection = open();
            connection.send(http::head("GET", "/events?topic=a", &[]));
            let mut subscriber = Subscriber::on(connection);
            let mut publisher = open();
            assert_eq!(publisher.post("application/x-www-form-urlencoded", "topic=a&data=x").status, 200);
            assert_eq!(subscriber.event().data, "x");
            let foreign = [("Origin", "https://evil.example")];
            let refused = publisher.post_with("application/x-www-form-urlencoded", "topic=a&data=x", &foreign);
            assert_eq!(refused.status, 403);
            let from_control = format!("(--cors-origin) count=1 last_client=\"{client}\"");
            server.expect_log(&from_control);
        }
    }

    fn the_header_of_another_peer_is_refused(backend) {
        let options = ["--listen-proxy", "127.0.0.1:0", "--trusted-proxies", "10.0.0.0/8"];
        let mut server = start(backend, &options);
        let mut connection = Connection::open(server.proxy_address());
        connection.send_what_it_takes(V1);
        connection.send_what_it_takes(http::head("GET", "/health/live", &[]));
        connection.expect_end();
        // Where clients connect themselves, a header is no request.
        let mut connection = server.connect();
        connection.send(V1);
        connection.read_response().problem(400);
        server.expect_health();
    }

    fn the_listener_for_proxies_takes_no_request_without_a_header(backend) {
        let options = ["--listen-proxy", "127.0.0.1:0", "--trusted-proxies", "127.0.0.1"];
        let mut server = start(backend, &options);
        let mut connection = Connection::open(server.proxy_address());
        connection.send(http::head("GET", "/health/live", &[]));
        connection.expect_end();
        server.expect_health();
    }

    /// SIGHUP replaces the proxies of both: of the fields and of the PROXY protocol.
    fn a_reload_replaces_the_proxies(backend) {
        let text = |proxies: &str| {
            let listen = "[server]\nlisten-proxy = '127.0.0.1:0'\n[web]\nhost = 'fanfare.test'\n";
            format!("{listen}[proxies]\ntrusted-proxies = [{proxies}]\n")
        };
        let file = support::file::ConfigFile::new(&text("'10.0.0.0/8'"));
        let mut server = Server::start_configured(backend, file.path(), &[]);
        let address = server.proxy_address();
        let mut refused = Connection::open(address);
        refused.send_what_it_takes(V1);
        refused.expect_end();
        file.write(&text("'127.0.0.1'"));
        server.signal("HUP");
        server.expect_log("changed=\"trusted-proxies\"");
        let mut taken = Connection::open(address);
        taken.send(V1);
        assert_eq!(taken.request("GET", "/health/live", &[]).text(), "live\n");
        ask_by_wrong_name(&mut server.connect(), "/events?topic=a", &[("X-Forwarded-For", "203.0.113.12")]);
        server.expect_log("last_client=\"203.0.113.12\"");
        file.write(&text("'10.0.0.0/8'"));
        server.signal("HUP");
        support::eventually("it is read again", || {
            (server.log().matches("changed=\"trusted-proxies\"").count() == 2).then_some(())
        });
        let mut refused = Connection::open(address);
        refused.send_what_it_takes(V1);
        refused.expect_end();
    }
}
