//! The program under test, and what it offers.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufRead, BufReader, PipeWriter, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use super::http::{self, Connection, Response};
use super::stream::Subscriber;
use super::{Backend, CONTROL_PATH, eventually};

/// A running `fanfare`. It is killed when this is dropped; a test that panics then shows what the server had
/// logged.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<String>>,
    log_reader: Option<JoinHandle<()>>,
    /// Kept open: what the server prints must not fail.
    stdout: BufReader<ChildStdout>,
}

/// The program, with nothing in its environment that would change what it does.
pub(crate) fn fanfare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    without_settings(&mut command);
    command
}

/// The program under these limits, in the words of `ulimit`.
pub(crate) fn limited(limits: &str, arguments: &[String]) -> Command {
    let mut command = Command::new("sh");
    without_settings(&mut command);
    let script = format!("ulimit {limits}; exec \"$0\" \"$@\"");
    command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_fanfare")).args(arguments);
    command
}

/// Has these system calls fail with `EPERM` in the program that the command starts, as the default profiles
/// of containers do with those that they do not list.
pub(crate) fn forbid(command: &mut Command, calls: &[libc::c_long]) {
    let calls: Vec<_> = calls.iter().map(|&call| (call, libc::EPERM)).collect();
    forbid_with(command, &calls);
}

/// Has each of these system calls fail with its error in the program that the command starts.
pub(crate) fn forbid_with(command: &mut Command, calls: &[(libc::c_long, libc::c_int)]) {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // The number of the system call is the first word of `seccomp_data`.
    let mut program = vec![step(LOAD_NUMBER, 0, 0, 0)];
    for &(call, error) in calls {
        program.push(step(JUMP_IF_EQUAL, 0, 1, call as u32));
        program.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | error as u32));
    }
    program.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    let install = move || {
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: the kernel only reads the program, which outlives both calls.
        let installed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
        };
        if installed { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec, `install` makes two system calls. It allocates nothing and takes no
    // lock.
    unsafe { command.pre_exec(install) };
}

fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FANFARE_") {
            command.env_remove(name);
        }
    }
}

impl Server {
    /// Starts with two shards, so that there is more than one even on a machine with one core.
    pub(crate) fn start(backend: Backend) -> Server {
        Server::start_with(backend, &[])
    }

    /// Starts with these options too. `--shards`, `--listen` and `--host` among them replace the tests' own.
    pub(crate) fn start_with(backend: Backend, options: &[&str]) -> Server {
        let mut command = fanfare();
        command.args(arguments(backend, options));
        Server::run(command)
    }

    /// Starts on an address that no other test and no client of one has, so that its port stays free when it
    /// ends.
    pub(crate) fn start_apart(backend: Backend, options: &[&str]) -> Server {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let process = std::process::id();
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = format!("127.{}.{}.{next}:0", 1 + process / 256 % 254, process % 256);
        Server::start_with(backend, &[options, &["--listen", &address]].concat())
    }

    /// Starts under a limit of this many descriptors, which it cannot raise.
    pub(crate) fn start_limited(backend: Backend, descriptors: usize, options: &[&str]) -> Server {
        Server::run(limited(&format!("-n {descriptors}"), &arguments(backend, options)))
    }

    /// Starts under a soft limit of this many descriptors, which it can raise, with one shard in the shared
    /// table.
    pub(crate) fn start_with_soft_limit(backend: Backend, descriptors: usize) -> Server {
        let options = ["--shards", "1", "--descriptor-tables", "shared"];
        Server::run(limited(&format!("-Sn {descriptors}"), &arguments(backend, &options)))
    }

    /// Starts with these options alone under a filter of system calls, as containers have one.
    pub(crate) fn start_forbidden(calls: &[(libc::c_long, libc::c_int)], options: &[&str]) -> Server {
        let mut command = fanfare();
        command.args(["--listen", "127.0.0.1:0", "--shards", "2", "--host", "fanfare.test"]).args(options);
        forbid_with(&mut command, calls);
        Server::run(command)
    }

    fn run(command: Command) -> Server {
        Server::run_with_input(command, Stdio::null())
    }

    /// Runs a command that becomes the server.
    pub(crate) fn run_with_input(mut command: Command, input: Stdio) -> Server {
        // Servers of other tests may have the default address of the admin listener. The option is stronger.
        command.env("FANFARE_ADMIN", "off");
        Server::spawn(command, input, Stdio::piped())
    }

    /// Runs a command that becomes the server and writes its log here, where the test reads it, or does not.
    pub(crate) fn run_with_log(mut command: Command, log: PipeWriter) -> Server {
        command.env("FANFARE_ADMIN", "off");
        Server::spawn(command, Stdio::null(), log.into())
    }

    /// As it starts where nothing is said of the admin listener.
    pub(crate) fn run_with_default_admin(command: Command) -> Server {
        Server::spawn(command, Stdio::null(), Stdio::piped())
    }

    fn spawn(mut command: Command, input: Stdio, errors: Stdio) -> Server {
        command.stdin(input).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().expect("the server's program is there");
        // It has an end of the log's pipe.
        drop(command);
        let log = Arc::new(Mutex::new(String::new()));
        let log_reader = child.stderr.take().map(|stderr| {
            let (mut stderr, writer) = (BufReader::new(stderr), Arc::clone(&log));
            thread::spawn(move || {
                let mut line = Vec::new();
                while stderr.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                    writer.lock().expect("no panic holds it").push_str(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            })
        });
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the server's output is text");
        let Some((_, address)) = line.trim_end().split_once(" is listening on http://") else {
            let _ = child.wait();
            let _ = log_reader.map(JoinHandle::join);
            panic!("the server does not start: {line:?}\n{}", log.lock().expect("no panic holds it"));
        };
        let address = address.parse().expect("an address");
        Server { child, address, log, log_reader, stdout }
    }

    /// Starts with a configuration file, and with these options alone beside it.
    pub(crate) fn start_configured(backend: Backend, file: &Path, options: &[&str]) -> Server {
        let mut command = fanfare();
        command.args(["--backend", &backend.to_string(), "--shards", "2", "--listen", "127.0.0.1:0"]);
        command.arg("--config").arg(file).args(options);
        Server::run(command)
    }

    /// The first further address that it has printed where it expects the PROXY protocol.
    pub(crate) fn proxy_address(&mut self) -> SocketAddr {
        loop {
            let mut line = String::new();
            let count = self.stdout.read_line(&mut line).expect("the server's output is text");
            assert!(count > 0, "the server has closed its output");
            let address = line.trim_end().strip_suffix(" for the PROXY protocol");
            if let Some((_, address)) = address.and_then(|line| line.split_once(" is listening on ")) {
                return address.parse().expect("an address");
            }
        }
    }

    /// The address of the admin listener that it has printed.
    pub(crate) fn admin_address(&mut self) -> SocketAddr {
        loop {
            let mut line = String::new();
            let count = self.stdout.read_line(&mut line).expect("the server's output is text");
            assert!(count > 0, "the server has closed its output");
            let address = line.trim_end().strip_suffix("/metrics");
            if let Some((_, address)) =
                address.and_then(|line| line.split_once(" has metrics and health checks on http://"))
            {
                return address.parse().expect("an address");
            }
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn port(&self) -> String {
        self.address.port().to_string()
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    /// What the server has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no panic holds it").clone()
    }

    /// Waits until the server has logged this, and gives everything that it has logged so far.
    pub(crate) fn expect_log(&self, text: &str) -> String {
        eventually(&format!("the log says {text:?}"), || {
            let log = self.log();
            log.contains(text).then_some(log)
        })
    }

    pub(crate) fn get(&self, target: &str) -> Response {
        self.connect().request("GET", target, &[])
    }

    /// Subscribes with these parameters of the query, such as `topic=a`.
    pub(crate) fn subscribe(&self, query: &str) -> Subscriber {
        self.subscribe_with(query, &[])
    }

    pub(crate) fn subscribe_with(&self, query: &str, headers: &[(&str, &str)]) -> Subscriber {
        Subscriber::on(self.ask_to_subscribe(query, headers))
    }

    /// Sends the request and reads nothing.
    pub(crate) fn ask_to_subscribe(&self, query: &str, headers: &[(&str, &str)]) -> Connection {
        let mut connection = self.connect();
        connection.send(http::head("GET", &format!("/events?{query}"), headers));
        connection
    }

    /// A subscriber whose receive buffer is small, and which has not read anything.
    pub(crate) fn ask_with_small_buffer(&self, query: &str, receive_buffer: usize) -> Connection {
        let mut connection = Connection::open_small(self.address, receive_buffer);
        connection.send(http::head("GET", &format!("/events?{query}"), &[]));
        connection
    }

    /// Publishes one event, and gives its id.
    pub(crate) fn publish(&self, topic: &str, data: &str) -> String {
        self.publisher().publish(topic, data)
    }

    /// Publishes one event as JSON, and gives its id.
    pub(crate) fn publish_json(&self, event: &Value) -> String {
        self.publisher().publish_json(event)
    }

    pub(crate) fn publisher(&self) -> Publisher {
        Publisher { connection: self.connect() }
    }

    /// What `GET /topics/{topic}` says, if the topic is known.
    pub(crate) fn topic(&self, topic: &str) -> Option<Value> {
        let response = self.get(&format!("/topics/{topic}"));
        (response.status == 200).then(|| response.json())
    }

    /// Every topic that the server knows, from all pages.
    pub(crate) fn topics(&self) -> Vec<Value> {
        let mut connection = self.connect();
        let (mut topics, mut next) = (Vec::new(), Some("/topics?limit=1000".to_owned()));
        while let Some(target) = next {
            let response = connection.request("GET", &target, &[]);
            assert_eq!(response.status, 200, "{}", response.text());
            let mut page = response.json();
            next = page["next"].as_str().map(str::to_owned);
            topics.append(page["topics"].as_array_mut().expect("a list"));
        }
        topics
    }

    /// Waits until every shard has taken in what was published so far: they answer in the order of their
    /// mail. Until then a new subscriber may still get it as something new.
    pub(crate) fn settle(&self) {
        assert_eq!(self.get("/topics?limit=1").status, 200);
    }

    pub(crate) fn subscribers(&self, topic: &str) -> u64 {
        self.topic(topic).map_or(0, |topic| topic["subscribers"].as_u64().expect("a count"))
    }

    pub(crate) fn expect_subscribers(&self, topic: &str, count: u64) {
        let mut seen = 0;
        eventually(&format!("{topic} has {count} subscribers"), || {
            seen = self.subscribers(topic);
            (seen == count).then_some(())
        });
    }

    /// Panics unless the server publishes and delivers.
    pub(crate) fn expect_health(&self) {
        assert_eq!(self.get("/health/live").status, 200);
        assert_eq!(self.get(CONTROL_PATH).status, 200);
        let mut subscriber = self.subscribe("topic=health-of-the-server");
        let id = self.publish("health-of-the-server", "well");
        let event = subscriber.event();
        assert_eq!((event.data.as_str(), event.id), ("well", id));
    }

    /// The processor time that the server has used, by `/proc/PID/stat` ("utime" and "stime", in ticks of 10
    /// ms).
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("the server runs");
        // The second field is the program's name in parentheses, and may hold anything.
        let (_, fields) = stat.rsplit_once(") ").expect("the format of proc(5)");
        let ticks: u64 =
            fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Panics if the server uses much of the processor while it has no requests.
    pub(crate) fn expect_idle(&self) {
        // What was begun may be finished; a server that spins does so for ever.
        eventually("the server is idle for a second", || {
            let before = self.cpu_time();
            thread::sleep(Duration::from_secs(1));
            (self.cpu_time() - before < Duration::from_millis(300)).then_some(())
        });
    }

    /// The memory that is resident, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the server runs");
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the format of proc(5)");
        let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a count of kilobytes");
        kib << 10
    }

    /// The sockets that its threads hold in all their descriptor tables, subscribers' and others'.
    pub(crate) fn sockets(&self) -> usize {
        let all: HashSet<_> =
            self.threads().iter().flat_map(|thread| sockets_in(&thread.join("fd"))).collect();
        all.len()
    }

    /// The sockets in the descriptor table of its main thread.
    pub(crate) fn sockets_of_main_thread(&self) -> usize {
        sockets_in(Path::new(&format!("/proc/{}/fd", self.child.id()))).len()
    }

    /// How many of its descriptors are of this file, in the table of its first thread.
    pub(crate) fn descriptors_of(&self, file: &str) -> usize {
        let folder = format!("/proc/{}/fd", self.child.id());
        let entries = fs::read_dir(folder).expect("the server runs").map_while(Result::ok);
        entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|of| of == Path::new(file))).count()
    }

    /// On which cores each of its shards may run, as `status` in proc(5) has it.
    pub(crate) fn cores_of_shards(&self) -> Vec<String> {
        let status = |thread: PathBuf| fs::read_to_string(thread.join("status")).unwrap_or_default();
        let shards = self
            .threads()
            .into_iter()
            .map(status)
            .filter(|status| status.starts_with("Name:\tfanfare-shard"));
        let cores = |status: String| {
            let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            line.expect("the format of proc(5)").trim().to_owned()
        };
        shards.map(cores).collect()
    }

    /// Where proc(5) describes its threads.
    fn threads(&self) -> Vec<PathBuf> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the server runs");
        threads.flatten().map(|thread| thread.path()).collect()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status();
        assert!(sent.expect("there is a shell").success(), "the server runs");
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually("the server ends", || self.child.try_wait().expect("it is our child"))
    }

    /// Kills it, as a crash would, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.log_reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let log = self.log();
        if thread::panicking() {
            eprintln!("--- what the server had logged:\n{log}---");
        } else {
            assert!(!log.contains("panicked"), "a thread of the server panicked:\n{log}");
        }
    }
}

/// A thread or a descriptor may be gone by the time that we check.
fn sockets_in(table: &Path) -> HashSet<PathBuf> {
    let entries = fs::read_dir(table).into_iter().flatten().flatten();
    let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).collect()
}

pub(crate) fn arguments(backend: Backend, options: &[&str]) -> Vec<String> {
    let mut all = vec!["--backend".to_owned(), backend.to_string()];
    // The names are those of the tests' requests.
    let own = [("--listen", "127.0.0.1:0"), ("--shards", "2"), ("--host", "h,x,fanfare.test,push.example")];
    for (name, value) in own {
        if !options.contains(&name) {
            all.extend([name.to_owned(), value.to_owned()]);
        }
    }
    all.extend(options.iter().map(|&option| option.to_owned()));
    all
}

/// Publishes over one connection that stays open.
#[derive(Debug)]
pub(crate) struct Publisher {
    connection: Connection,
}

impl Publisher {
    pub(crate) fn publish(&mut self, topic: &str, data: &str) -> String {
        self.publish_json(&json!({ "topic": topic, "data": data }))
    }

    pub(crate) fn publish_json(&mut self, event: &Value) -> String {
        let response = self.connection.post("application/json", event.to_string());
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Publishes all of them in one request, and gives the ids of the first and the last.
    pub(crate) fn publish_all(&mut self, events: &[Value]) -> (String, String) {
        let mut body = String::new();
        for event in events {
            body.push_str(&event.to_string());
            body.push('\n');
        }
        let response = self.connection.post("application/x-ndjson", body);
        assert_eq!(response.status, 200, "{}", response.text());
        let answer = response.json();
        assert_eq!(answer["published"], events.len(), "{answer}");
        let id = |name: &str| answer[name].as_str().expect("an id").to_owned();
        (id("first"), id("last"))
    }
}

/// What a program that ran to its end has said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end, which has to come in time.
pub(crate) fn run(mut command: Command, stdin: &str) -> Ran {
    use std::io::Write;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program is there");
    let mut input = child.stdin.take().expect("it is piped");
    let input_text = stdin.to_owned();
    // It may end without reading all of it.
    let writer = thread::spawn(move || drop(input.write_all(input_text.as_bytes())));
    let reader = |mut from: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut text = String::new();
            let _ = from.read_to_string(&mut text);
            text
        })
    };
    let stdout = reader(Box::new(child.stdout.take().expect("it is piped")));
    let stderr = reader(Box::new(child.stderr.take().expect("it is piped")));
    let mut guard = Guard(child);
    let status = eventually("the program ends", || guard.0.try_wait().expect("it is our child"));
    let _ = writer.join();
    let text = |thread: JoinHandle<String>| thread.join().unwrap_or_default();
    Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// A child that does not outlive the test.
pub(crate) struct Guard(pub(crate) Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
