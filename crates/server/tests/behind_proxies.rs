//! The server behind nginx, Caddy and HAProxy, with the configurations of `docs/guides/proxies.md`: curl
//! subscribes and publishes through each of them over HTTP/2.
//!
//! A configuration is taken from the document as it is; [`Document::with`] replaces what depends on the
//! machine, and shortens the time-outs. `cargo xtask test` installs the proxies; its `--no-proxies` leaves
//! out what is named `proxied_by_...`.

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::{env, process, thread};

use support::server::{Guard, Ran, fanfare, run};
use support::{Backend, PATIENCE, Server, eventually, now, on_both_backends};

const HINT: &str = "run: cargo xtask test (it installs the proxies), or leave these tests out: --no-proxies";

/// The name in the document.
const NAME: &str = "push.example.com";

/// The port of every proxy here; each has an address of its own.
const PORT: u16 = 8443;

/// A client's address, and another one. Neither is the operator's.
const CLIENT: &str = "127.0.0.77";
const OTHER_CLIENT: &str = "127.0.0.78";

/// What a client may claim about itself; the address is of no machine.
const CLAIM: &str = "192.0.2.66";

/// Seconds after which the proxies here close a silent stream, where the document says 75.
const SHORT_TIME_OUT: usize = 2;

/// More of the heartbeats below than fit into twice the short time-out.
const HEARTBEATS: usize = 2 * 2 * SHORT_TIME_OUT + 1;

const HEARTBEAT: &str = "500ms";
const NO_HEARTBEAT: &str = "1h";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nginx,
    NginxOverUnixSocket,
    Caddy,
    HaProxy,
}

on_both_backends! {
    fn proxied_by_nginx(backend) {
        pass(Kind::Nginx, backend);
    }

    fn proxied_by_nginx_over_a_unix_socket(backend) {
        pass(Kind::NginxOverUnixSocket, backend);
    }

    fn proxied_by_caddy(backend) {
        pass(Kind::Caddy, backend);
    }

    fn proxied_by_haproxy(backend) {
        pass(Kind::HaProxy, backend);
    }
}

/// Everything that the guide promises of a proxy.
fn pass(kind: Kind, backend: Backend) {
    let site = Site::start(kind, backend);
    events_pass_at_once(&site);
    lines_of_a_publisher_pass_at_once(&site);
    the_server_knows_the_client(&site);
    a_client_that_leaves_ends_its_stream_and_resumes(&site);
    heartbeats_keep_a_silent_stream(&site);
}

fn events_pass_at_once(site: &Site) {
    let mut stream = site.subscribe(CLIENT, "/events?topic=at-once", &[]);
    assert_eq!(stream.status, "HTTP/2 200");
    for data in ["1", "2"] {
        let id = site.server.publish("at-once", data);
        // Nothing but heartbeats comes behind it: a proxy that fills a buffer first does not send it in time.
        assert_eq!(stream.event(), (data.to_owned(), id));
    }
    site.leave(stream, "at-once");
}

/// A page of the proxy's own name publishes. Its event is delivered while its body is still under way.
fn lines_of_a_publisher_pass_at_once(site: &Site) {
    let mut stream = site.subscribe(CLIENT, "/events?topic=lines", &[]);
    let page = format!("Origin: https://{NAME}:{PORT}");
    let mut publisher = site.curl(CLIENT);
    publisher.args(["-H", &page, "-H", "Content-Type: application/x-ndjson"]);
    publisher.args(["-X", "POST", "-T", "-", &site.url("/events")]);
    publisher.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut publisher = Guard(publisher.spawn().expect("curl starts"));
    let mut body: ChildStdin = publisher.0.stdin.take().expect("it is piped");
    for data in ["1", "2"] {
        writeln!(body, r#"{{"topic":"lines","data":"{data}"}}"#).expect("curl reads");
        assert_eq!(stream.event().0, data);
    }
    drop(body);
    let mut answer = String::new();
    let stdout = publisher.0.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut answer).expect("an answer");
    assert!(answer.contains(r#""published":2"#), "{answer}");

    let foreign = ["-H", "Origin: https://evil.example", "-d", "topic=lines&data=x"];
    assert_eq!(site.status(CLIENT, "/events", &foreign), "403");
    site.leave(stream, "lines");
}

/// By the bound of one address, and by the log.
fn the_server_knows_the_client(site: &Site) {
    let claim = format!("X-Forwarded-For: {CLAIM}");
    let forwarded = format!("Forwarded: for={CLAIM}");
    let claims = ["-H", &claim, "-H", &forwarded];
    let [first, second] = [(); 2].map(|()| site.subscribe(CLIENT, "/events?topic=bound", &claims));
    assert_eq!(site.status(CLIENT, "/events?topic=bound", &claims), "429");
    let other = site.subscribe(OTHER_CLIENT, "/events?topic=bound", &claims);
    assert_eq!([&first, &second, &other].map(|stream| stream.status.as_str()), ["HTTP/2 200"; 3]);
    drop((first, second));
    site.leave(other, "bound");

    let foreign = [&claims[..], &["-H", "Origin: https://evil.example", "-d", "topic=a&data=x"]].concat();
    assert_eq!(site.status(OTHER_CLIENT, "/events", &foreign), "403");
    let log = site.server.expect_log(&format!("last_client=\"{OTHER_CLIENT}\""));
    assert!(!log.contains(CLAIM), "{log}");
}

fn a_client_that_leaves_ends_its_stream_and_resumes(site: &Site) {
    let mut stream = site.subscribe(CLIENT, "/events?topic=resumed", &[]);
    site.server.publish("resumed", "before");
    let (_, last) = stream.event();
    site.leave(stream, "resumed");
    for data in ["1", "2"] {
        site.server.publish("resumed", data);
    }
    let last = format!("Last-Event-ID: {last}");
    let mut stream = site.subscribe(CLIENT, "/events?topic=resumed", &["-H", &last]);
    site.server.publish("resumed", "3");
    for data in ["1", "2", "3"] {
        assert_eq!(stream.event().0, data);
    }
    site.leave(stream, "resumed");
}

/// The time-out of the proxy is in force, and a stream with heartbeats outlives it.
fn heartbeats_keep_a_silent_stream(site: &Site) {
    let mut kept = site.subscribe(CLIENT, "/events?topic=kept", &[]);
    for _ in 0..HEARTBEATS {
        kept.heartbeat();
    }
    let id = site.server.publish("kept", "after the silence");
    assert_eq!(kept.event(), ("after the silence".to_owned(), id));

    site.settings.write_heartbeat(NO_HEARTBEAT);
    site.server.signal("HUP");
    site.server.expect_log("changed=\"heartbeat\"");
    let mut silent = site.subscribe(OTHER_CLIENT, "/events?topic=silent", &[]);
    silent.expect_end();
    site.server.expect_subscribers("silent", 0);
}

/// A server and a proxy in front of it, with what they need.
struct Site {
    /// Ends first, so that the proxy does not report that the server is gone.
    _proxy: Proxy,
    server: Server,
    settings: Settings,
    address: SocketAddr,
    folder: Folder,
}

impl Site {
    fn start(kind: Kind, backend: Backend) -> Site {
        let folder = Folder::new();
        folder.write_certificate();
        let settings = Settings::of(kind, &folder);
        settings.write_heartbeat(HEARTBEAT);
        let mut command = fanfare();
        command.args(["--backend", &backend.to_string(), "--shards", "2"]);
        command.args(["--operators", "127.0.0.1", "--max-connections-per-address", "2"]);
        command.arg("--config").arg(&settings.path);
        let mut server = Server::run_with_input(command, Stdio::null());
        let address = own_address();
        let upstream = match kind {
            Kind::HaProxy => server.proxy_address(),
            _ => server.address,
        };
        let proxy = Proxy::start(kind, address, upstream, &folder);
        Site { _proxy: proxy, server, settings, address, folder }
    }

    fn url(&self, target: &str) -> String {
        format!("https://{NAME}:{PORT}{target}")
    }

    /// A curl that comes from this address, and believes only our own certificate.
    fn curl(&self, from: &str) -> Command {
        let mut curl = Command::new("curl");
        let certificate = self.folder.path.join("certificate.pem");
        curl.args(["--silent", "--no-buffer", "--http2", "--noproxy", "*", "--interface", from]);
        curl.args(["--resolve", &format!("{NAME}:{PORT}:{}", self.address.ip())]);
        curl.arg("--cacert").arg(certificate);
        curl
    }

    /// The status of the answer to a request with these arguments.
    fn status(&self, from: &str, target: &str, arguments: &[&str]) -> String {
        let mut curl = self.curl(from);
        curl.args(["--show-error", "--output", "/dev/null", "--write-out", "%{http_code}"]).args(arguments);
        curl.arg(self.url(target));
        let Ran { stdout, stderr, .. } = run(curl, "");
        assert_eq!(stderr, "");
        stdout
    }

    /// Has the client of this stream go away, and waits until the topic has no subscriber at the server.
    fn leave(&self, stream: Stream, topic: &str) {
        drop(stream);
        self.server.expect_subscribers(topic, 0);
    }

    fn subscribe(&self, from: &str, target: &str, arguments: &[&str]) -> Stream {
        let mut curl = self.curl(from);
        curl.arg("--include").args(arguments).arg(self.url(target));
        Stream::begin(curl)
    }
}

/// A stream that curl reads.
struct Stream {
    _curl: Guard,
    lines: Receiver<String>,
    /// The first line of the answer.
    status: String,
}

impl Stream {
    fn begin(mut curl: Command) -> Stream {
        let mut child = curl.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("curl starts");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (send, lines) = mpsc::channel();
        // It ends with curl.
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let mut stream = Stream { _curl: Guard(child), lines, status: String::new() };
        stream.status = stream.line().expect("a status line").trim_end().to_owned();
        while stream.line().expect("a whole head").trim_end() != "" {}
        stream
    }

    /// The next line; `None` at the end of the stream.
    fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("nothing comes in {PATIENCE:?}"),
        }
    }

    /// Data and id of the next event; comments and blocks without data are passed over.
    fn event(&mut self) -> (String, String) {
        let deadline = now() + PATIENCE;
        let (mut data, mut id) = (None, String::new());
        loop {
            assert!(now() < deadline, "nothing but heartbeats comes in {PATIENCE:?}");
            let line = self.line().expect("the stream goes on");
            assert_ne!(line, "event: fanfare.gap");
            if let Some(value) = line.strip_prefix("data: ") {
                data = Some(value.to_owned());
            } else if let Some(value) = line.strip_prefix("id: ") {
                id = value.to_owned();
            } else if line.is_empty()
                && let Some(data) = data.take()
            {
                return (data, id);
            }
        }
    }

    fn heartbeat(&mut self) {
        while self.line().expect("the stream goes on") != ":" {}
    }

    fn expect_end(&mut self) {
        let deadline = now() + PATIENCE;
        while self.line().is_some() {
            assert!(now() < deadline, "it has no end");
        }
    }
}

/// The server's settings, in a file.
struct Settings {
    path: PathBuf,
    text: String,
}

impl Settings {
    fn of(kind: Kind, folder: &Folder) -> Settings {
        // The test itself comes by TCP, and by its own name.
        let text = match kind {
            Kind::Nginx | Kind::Caddy => Document::block("toml fields").with("127.0.0.1:8844", "127.0.0.1:0"),
            Kind::NginxOverUnixSocket => {
                let listen = format!("[\"127.0.0.1:0\", \"unix:{}\"]", folder.socket());
                Document::block("toml unix").with("\"unix:/run/fanfare/events.sock\"", &listen)
            }
            Kind::HaProxy => Document::block("toml proxy-protocol")
                .with("127.0.0.1:8844", "127.0.0.1:0")
                .with("127.0.0.1:8846", "127.0.0.1:0"),
        };
        let text = text.with("\"push.example.com\"", "[\"push.example.com\", \"fanfare.test\"]").0;
        Settings { path: folder.path.join("fanfare.toml"), text }
    }

    fn write_heartbeat(&self, heartbeat: &str) {
        let text = format!("{}\n[streams]\nheartbeat = \"{heartbeat}\"\n", self.text);
        fs::write(&self.path, text).expect("the folder takes it");
    }
}

/// A block of code of the guide.
struct Document(String);

impl Document {
    /// The block that begins with these words.
    fn block(begin: &str) -> Document {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guides/proxies.md");
        let guide = fs::read_to_string(path).expect("the guide is there");
        let fence = format!("\n```{begin}\n");
        let (_, rest) =
            guide.split_once(&fence).unwrap_or_else(|| panic!("the guide has no block {begin:?}"));
        let (block, _) = rest.split_once("\n```\n").expect("the block ends");
        Document(format!("{block}\n"))
    }

    /// Replaces what the guide must have.
    fn with(self, text: &str, replacement: &str) -> Document {
        assert!(self.0.contains(text), "{text:?} is not in the guide any more:\n{}", self.0);
        Document(self.0.replace(text, replacement))
    }
}

/// A running proxy. It is killed when this is dropped.
struct Proxy(#[allow(dead_code, reason = "it is dropped")] Guard);

impl Proxy {
    fn start(kind: Kind, address: SocketAddr, upstream: SocketAddr, folder: &Folder) -> Proxy {
        let (program, text) = match kind {
            Kind::Nginx | Kind::NginxOverUnixSocket => ("nginx", nginx(kind, address, upstream, folder)),
            Kind::Caddy => ("caddy", caddy(address, upstream, folder)),
            Kind::HaProxy => ("haproxy", haproxy(address, upstream, folder)),
        };
        let file = folder.path.join(program);
        fs::write(&file, text).expect("the folder takes it");
        let log = folder.path.join("proxy.log");
        let mut command = Command::new(program_path(program));
        match kind {
            Kind::Nginx | Kind::NginxOverUnixSocket => {
                command.args(["-e", "stderr", "-p"]).arg(&folder.path).arg("-c").arg(&file);
            }
            Kind::Caddy => {
                command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file);
                command.env("XDG_DATA_HOME", &folder.path).env("XDG_CONFIG_HOME", &folder.path);
            }
            Kind::HaProxy => {
                command.args(["-db", "-f"]).arg(&file);
            }
        }
        let output = File::create(&log).expect("the folder takes it");
        let errors = output.try_clone().expect("one more descriptor");
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let mut child = Guard(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; {HINT}")));
        eventually("the proxy listens", || {
            let ended = ended(&mut child.0);
            let said = || fs::read_to_string(&log).unwrap_or_default();
            assert!(!ended, "{program} does not start:\n{}", said());
            TcpStream::connect(address).ok()
        });
        Proxy(child)
    }
}

fn ended(child: &mut Child) -> bool {
    child.try_wait().expect("it is our child").is_some()
}

/// Debian has daemons where the path of a user may not look.
fn program_path(program: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(program)).find(|file| file.exists()).unwrap_or_else(|| {
        panic!("{program} is missing; {HINT}");
    })
}

fn time_out(unit: &str) -> String {
    format!("{unit} {SHORT_TIME_OUT}s")
}

fn nginx(kind: Kind, address: SocketAddr, upstream: SocketAddr, folder: &Folder) -> String {
    let mut block = Document::block("nginx")
        .with("listen 443 ", &format!("listen {address} "))
        .with("    listen [::]:443 ssl http2;\n", "")
        .with("/etc/ssl/push.example.com.pem", &folder.file("certificate.pem"))
        .with("/etc/ssl/push.example.com.key", &folder.file("key.pem"))
        .with("proxy_read_timeout 75s", &time_out("proxy_read_timeout"));
    if kind == Kind::NginxOverUnixSocket {
        let (_, rest) = block.0.split_once("\n\n").expect("a blank line behind the upstream");
        let upstream = Document::block("nginx unix").with("/run/fanfare/events.sock", &folder.socket());
        block = Document(upstream.0 + rest);
    } else {
        block = block.with("127.0.0.1:8844", &upstream.to_string());
    }
    // What `/etc/nginx/nginx.conf` has around it. All files are in the folder.
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {};\n", folder.file(name)))
        .concat();
    format!(
        "user root;\ndaemon off;\npid {};\nerror_log stderr warn;\nevents {{}}\nhttp {{\n    access_log off;\n\
         {paths}{}}}\n",
        folder.file("nginx.pid"),
        block.0
    )
}

fn caddy(address: SocketAddr, upstream: SocketAddr, folder: &Folder) -> String {
    let block = Document::block("caddyfile")
        .with("push.example.com {", &format!("https://{NAME}:{PORT} {{\n\tbind {}", address.ip()))
        .with("/etc/ssl/push.example.com.pem", &folder.file("certificate.pem"))
        .with("/etc/ssl/push.example.com.key", &folder.file("key.pem"))
        .with("127.0.0.1:8844", &upstream.to_string())
        .with("read_timeout 75s", &time_out("read_timeout"));
    // No port 80, no administration, no HTTP/3.
    let globals = "{\n\tadmin off\n\tauto_https off\n\tservers {\n\t\tprotocols h1 h2\n\t}\n}\n";
    format!("{globals}{}", block.0)
}

fn haproxy(address: SocketAddr, upstream: SocketAddr, folder: &Folder) -> String {
    Document::block("haproxy")
        .with("bind :443 ", &format!("bind {address} "))
        .with("    bind [::]:443 ssl crt /etc/ssl/push.example.com.both alpn h2,http/1.1\n", "")
        .with("/etc/ssl/push.example.com.both", &folder.file("both.pem"))
        .with("127.0.0.1:8846", &upstream.to_string())
        // A stream is silent for both sides.
        .with("timeout client 75s", &time_out("timeout client"))
        .with("timeout server 75s", &time_out("timeout server"))
        .0
}

/// An address on loopback that no other test has.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let process = process::id();
    let (high, low) = (1 + process / 256 % 254, process % 256);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from((Ipv4Addr::new(127, high as u8, low as u8, next), PORT))
}

/// A folder that is removed when this is dropped.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("fanfare-proxy-{}-{next}", process::id()));
        fs::create_dir_all(&path).expect("the folder for temporary files takes it");
        Folder { path }
    }

    fn file(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    fn socket(&self) -> String {
        self.file("events.sock")
    }

    /// A certificate that signs itself, its key, and both in one file.
    fn write_certificate(&self) {
        let signed = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
        let (certificate, key) = (signed.cert.pem(), signed.signing_key.serialize_pem());
        for (name, text) in [
            ("certificate.pem", certificate.clone()),
            ("key.pem", key.clone()),
            ("both.pem", certificate + &key),
        ] {
            fs::write(self.path.join(name), text).expect("the folder takes it");
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[test]
fn the_guide_names_options_that_there_are() {
    let mut help = fanfare();
    help.args(["serve", "--help"]);
    let help = run(help, "").stdout;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guides/proxies.md");
    let guide = fs::read_to_string(path).expect("the guide is there");
    let options: Vec<&str> = guide
        .split("`--")
        .skip(1)
        .map(|rest| {
            rest.split(|sign: char| sign != '-' && !sign.is_ascii_alphanumeric()).next().unwrap_or(rest)
        })
        .collect();
    assert!(options.len() > 5, "{options:?}");
    for option in options {
        let goes_on = |rest: &str| rest.starts_with(|sign: char| sign == '-' || sign.is_ascii_alphanumeric());
        let is_there = help.split(&format!("--{option}")).skip(1).any(|rest| !goes_on(rest));
        assert!(is_there, "the server has no option --{option}");
    }
}
