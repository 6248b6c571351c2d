//! What connects cost one shard, and what a small topic on that shard notices of them: admissions that decide
//! at once on the shard, at once on the engine's threads, and later, when a database has answered.

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use fanfare::{Backend, Decision, DecisionTicket, Engine, Request, Subscribe, Topic};
use fanfare_bench::client::{Discard, Plan, Reader};
use fanfare_bench::connects::{ConnectPlan, Connected, connect_at_rate};
use fanfare_bench::engine::{self, Measured};
use fanfare_bench::machine::{self, Cores, SoftirqClock, ThreadClock};
use fanfare_bench::paced::Paced;
use fanfare_bench::stamp::Checker;
use fanfare_bench::statistics::Spread;
use fanfare_bench::{Outcome, finish};
use fanfare_io::{Clock, affinity};
use tokio::runtime::Runtime;

/// Bytes of data in the small topic's events.
const DATA_BYTES: usize = 200;

/// Topics that an admission takes.
const TOPICS: usize = 8;

/// The threads on which an engine calls its admission: what the kernel keeps of their names.
const ADMISSION_THREADS: &str = "fanfare-admissi";

/// The threads that play the database.
const DATABASE_THREADS: &str = "database";

/// A client that ran for more than this part of the time, or was kept waiting, could not have connected
/// faster.
const CLIENT_FULL: f64 = 0.95;

/// A client that began each hundredth connect later than this did not keep to its plan.
const CLIENT_LATE_MS: f64 = 5.0;

/// Latency of a small topic beside connects, and the CPU time of a connect, on one shard
#[derive(Clone, Parser)]
struct Options {
    /// Connects a second
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Connects a second of the parts that are not in a hurry
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    low_rate: u32,
    /// Milliseconds that the database takes
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=5000))]
    database_ms: u32,
    /// Subscribers of the small topic
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    small: u32,
    /// Milliseconds between the small topic's events
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    every_ms: u32,
    /// Rounds of all parts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each part
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Only this backend
    #[arg(long)]
    backend: Option<Backend>,
    /// Only this part, by its key, beside the one without connects
    #[arg(long)]
    part: Option<String>,
}

/// Who decides about the connects of a part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Decides {
    /// There are none.
    NoConnects,
    /// The admission, on the shard.
    Shard,
    /// The admission, on the engine's threads.
    Threads,
    /// The database, on a thread with a queue.
    Thread,
    /// The database, in a task of a runtime.
    Task,
}

#[derive(Clone, Copy)]
struct Kind {
    key: &'static str,
    name: &'static str,
    decides: Decides,
    is_slow: bool,
}

const fn kind(key: &'static str, name: &'static str, decides: Decides, is_slow: bool) -> Kind {
    Kind { key, name, decides, is_slow }
}

/// The first one is what the others are compared with.
const KINDS: [Kind; 7] = [
    kind("alone", "no connects", Decides::NoConnects, false),
    kind("shard", "at once, on the shard", Decides::Shard, false),
    kind("threads", "at once, on the engine's threads", Decides::Threads, false),
    kind("ticket", "later, from a thread", Decides::Thread, false),
    kind("task", "later, from a task of tokio", Decides::Task, false),
    kind("shard_low", "at once, on the shard, at the low rate", Decides::Shard, true),
    kind("threads_low", "at once, on the engine's threads, at the low rate", Decides::Threads, true),
];

/// Two engines with the same topics, of which one at a time has something to do: the place of an admission is
/// chosen when an engine starts.
struct Bench {
    on_shard: Site,
    on_threads: Site,
    clock: Clock,
    cores: Cores,
    softirq: SoftirqClock,
    options: Options,
    /// Keeps the tasks of the database going.
    _runtime: Runtime,
}

/// An engine, and the subscribers that stay.
struct Site {
    engine: Measured,
    small: Topic,
    reader: Reader<Checker>,
    resident: Reader<Discard>,
    /// Its admissions' threads, and the database's.
    admissions: Vec<ThreadClock>,
    database: Vec<ThreadClock>,
    /// Events of the small topic so far.
    numbered: u32,
}

/// CPU time of those who work for a connect.
#[derive(Clone, Copy)]
struct Cpu {
    shard: Duration,
    admissions: Duration,
    database: Duration,
    softirq: Duration,
}

/// What one part showed.
struct Part {
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// CPU seconds a second.
    shard: f64,
    admissions: f64,
    database: f64,
    softirq: f64,
    /// The part of the time in which others had the shard's core.
    disturbed: f64,
    seconds: f64,
    connected: Option<Connected>,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Outcome<()> {
    let mut backends = machine::backends();
    backends.retain(|backend| options.backend.is_none_or(|only| only == *backend));
    machine::introduce("admissions", &backends);
    let cores = Cores::choose()?;
    println!(
        "{} subscribers of a small topic, an event every {} ms; {} and {} connects a second; a database of \
         {} ms; {} rounds of {} s each; latency from the intended time",
        options.small,
        options.every_ms,
        options.rate,
        options.low_rate,
        options.database_ms,
        options.rounds,
        options.seconds
    );
    let mut lines = Vec::new();
    for backend in backends {
        let options = options.clone();
        let measured = thread::spawn(move || measure(&options, backend, cores));
        lines.extend(measured.join().map_err(|_| "the measurement panicked")??);
    }
    println!();
    let mut unanswered = 0;
    for Reported { line, unanswered: of_part } in lines {
        println!("{line}");
        unanswered += of_part;
    }
    match unanswered {
        0 => Ok(()),
        _ => Err(format!("{unanswered} connects were refused or failed").into()),
    }
}

/// What is said of one kind of part.
struct Reported {
    /// For programs.
    line: String,
    /// Connects without a stream.
    unanswered: u64,
}

fn measure(options: &Options, backend: Backend, cores: Cores) -> Outcome<Vec<Reported>> {
    println!("\n{backend}");
    let wanted = |kind: &Kind| {
        kind.decides == Decides::NoConnects || options.part.as_deref().is_none_or(|part| part == kind.key)
    };
    let kinds: Vec<Kind> = KINDS.into_iter().filter(wanted).collect();
    let mut bench = Bench::set_up(options, backend, cores)?;
    let mut figures: Vec<Vec<Part>> = kinds.iter().map(|_| Vec::new()).collect();
    for kind in &kinds[1..] {
        bench.part(*kind, Duration::from_millis(500))?;
    }
    for round in 0..options.rounds as usize {
        for turn in 0..kinds.len() {
            let index = (turn + round) % kinds.len();
            let part = bench.part(kinds[index], Duration::from_secs(options.seconds.into()))?;
            let rate = part.connected.as_ref().map_or(0.0, |connected| connected.rate);
            let name = kinds[index].key;
            println!(
                "  round {round} {name}: small topic p99 {:.3} ms, answers a second {rate:.0}",
                part.p99_ms
            );
            figures[index].push(part);
        }
    }
    let found = bench.end()?;
    let mut lines = Vec::new();
    for (kind, parts) in kinds.iter().zip(&figures) {
        lines.push(report(kind, parts, &figures[0], backend));
    }
    println!("  small topics: {found}");
    Ok(lines)
}

/// Prints the figures of one kind of part.
fn report(kind: &Kind, parts: &[Part], alone: &[Part], backend: Backend) -> Reported {
    let of = |figure: &dyn Fn(&Part) -> f64| Spread::of(parts.iter().map(figure));
    println!("  {}", kind.name);
    println!("    small topic, p50 ms  {:.3}", of(&|part| part.p50_ms));
    println!("    small topic, p99 ms  {:.3}", of(&|part| part.p99_ms));
    println!("    small topic, max ms  {:.3}", of(&|part| part.max_ms));
    let [busy, disturbed] = [of(&|part| part.shard), of(&|part| part.disturbed)];
    println!("    shard busy {:.0} %, kept waiting by others {disturbed:.3}", busy.median * 100.0);
    let key = format!("backend={} part={}", machine::key(backend), kind.key);
    let p99 = of(&|part| part.p99_ms).median;
    if kind.decides == Decides::NoConnects {
        return Reported { line: format!("{key} small_p99_ms={p99:.3}"), unanswered: 0 };
    }
    let pairs = || parts.iter().zip(alone);
    let added = Spread::of(pairs().map(|(part, alone)| part.p99_ms - alone.p99_ms));
    println!("    small topic, added p99 ms  {added:.3}");
    let of = |figure: &dyn Fn(&Connected) -> f64| {
        Spread::of(parts.iter().filter_map(|part| part.connected.as_ref()).map(figure))
    };
    let ms = |nanos: u64| nanos as f64 / 1e6;
    let rate = of(&|connected| connected.rate);
    let answer_p50 = of(&|connected| ms(connected.took.value_at_quantile(0.5)));
    let answer_p99 = of(&|connected| ms(connected.took.value_at_quantile(0.99)));
    println!("    answers a second  {rate:.0}");
    println!("    connect to head of the answer, p50 ms  {answer_p50:.3}");
    println!("    connect to head of the answer, p99 ms  {answer_p99:.3}");
    println!(
        "    request to head of the answer, shortest ms  {:.3}",
        of(&|connected| connected.shortest.as_secs_f64() * 1e3)
    );
    let total = |figure: fn(&Connected) -> u32| -> u64 {
        parts.iter().filter_map(|part| part.connected.as_ref()).map(|one| u64::from(figure(one))).sum()
    };
    let refused = total(|connected| connected.refused);
    let failed = total(|connected| connected.failed + connected.unanswered);
    println!("    answered {}, refused {refused}, failed {failed}", total(|connected| connected.answered));
    // The small topic's own work is taken off.
    let cost = |figure: &dyn Fn(&Part) -> f64| {
        let cost = |(part, alone): (&Part, &Part)| {
            let answered = part.connected.as_ref().map_or(0, |connected| connected.answered);
            (figure(part) - figure(alone)) * part.seconds * 1e6 / f64::from(answered)
        };
        Spread::of(pairs().map(cost))
    };
    let shard = cost(&|part| part.shard);
    let admissions = cost(&|part| part.admissions);
    let database = cost(&|part| part.database);
    let softirq = cost(&|part| part.softirq);
    let engine = cost(&|part| part.shard + part.admissions + part.softirq);
    println!("    CPU us a connect: shard  {shard:.2}");
    println!("    CPU us a connect: the admissions' threads  {admissions:.2}");
    println!("    CPU us a connect: ksoftirqd of the shard's core  {softirq:.2}");
    println!("    CPU us a connect: all of these  {engine:.2}");
    println!("    CPU us a connect: the database  {database:.2}");
    let late = of(&|connected| ms(connected.late.value_at_quantile(0.99)));
    let busy = of(&|connected| connected.busy);
    let waited = of(&|connected| connected.kept_waiting);
    let is_full = busy.median + waited.median > CLIENT_FULL || late.median > CLIENT_LATE_MS;
    println!(
        "    client: busy {:.0} %, kept waiting {:.0} %, late at p99 {late:.3} ms{}",
        busy.median * 100.0,
        waited.median * 100.0,
        if is_full { "; it was the bottleneck" } else { "" }
    );
    let line = format!(
        "{key} rate={:.0} answer_p50_ms={:.3} answer_p99_ms={:.3} small_p99_ms={p99:.3} added_p99_ms={:.3} \
         shard_us={:.2} threads_us={:.2} engine_us={:.2} database_us={:.2} refused={refused} \
         failed={failed} client_limits={is_full}",
        rate.median,
        answer_p50.median,
        answer_p99.median,
        added.median,
        shard.median,
        admissions.median,
        engine.median,
        database.median,
    );
    Reported { line, unanswered: refused + failed }
}

impl Bench {
    fn set_up(options: &Options, backend: Backend, cores: Cores) -> Outcome<Bench> {
        let wait = Duration::from_millis(options.database_ms.into());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(format!("{DATABASE_THREADS}-tasks"))
            .enable_time()
            .build()?;
        let clock = Clock::start();
        let database = start_database(clock)?;
        let tasks = runtime.handle().clone();
        let admission = move |request: &Request<'_>| {
            let subscribe = match Subscribe::from_request(request, TOPICS) {
                Ok(subscribe) => subscribe,
                Err(error) => return Decision::Refuse(error.into()),
            };
            match request.path() {
                "/thread" => {
                    let (later, ticket) = Decision::later();
                    let question = Question { due: clock.now() + wait, ticket, subscribe };
                    // It ends after the engine, which gives this admission back.
                    let _ = database.send(question);
                    later
                }
                "/task" => {
                    let (later, ticket) = Decision::later();
                    tasks.spawn(async move {
                        tokio::time::sleep(wait).await;
                        ticket.decide(Decision::Subscribe(subscribe));
                    });
                    later
                }
                _ => Decision::Subscribe(subscribe),
            }
        };
        let listen = || Ok::<_, std::net::AddrParseError>(Engine::builder().listen("127.0.0.1:0".parse()?));
        let limits = engine::quiet_limits();
        let on_threads = Measured::start_with(listen()?.admission(admission), backend, limits.clone())?;
        let at_once = |request: &Request<'_>| match Subscribe::from_request(request, TOPICS) {
            Ok(subscribe) => Decision::Subscribe(subscribe),
            Err(error) => Decision::Refuse(error.into()),
        };
        // SAFETY: the admission uses no descriptor.
        let builder = unsafe { listen()?.admission_on_shards(at_once) };
        let on_shard = Measured::start_with(builder, backend, limits)?;
        affinity::pin(cores.client)?;
        Ok(Bench {
            on_shard: Site::set_up(on_shard, 0, options, clock, cores)?,
            on_threads: Site::set_up(on_threads, 2, options, clock, cores)?,
            clock,
            cores,
            softirq: SoftirqClock::of(cores.server),
            options: options.clone(),
            _runtime: runtime,
        })
    }

    fn part(&mut self, kind: Kind, length: Duration) -> Outcome<Part> {
        let site = match kind.decides {
            Decides::Shard => &mut self.on_shard,
            Decides::NoConnects | Decides::Threads | Decides::Thread | Decides::Task => &mut self.on_threads,
        };
        let path = match kind.decides {
            Decides::Thread => "thread",
            Decides::Task => "task",
            Decides::NoConnects | Decides::Shard | Decides::Threads => "now",
        };
        let rate = if kind.is_slow { self.options.low_rate } else { self.options.rate };
        let plan = ConnectPlan {
            to: site.engine.address()?,
            request: request(path, "crowd"),
            rate,
            count: (f64::from(rate) * length.as_secs_f64()) as u32,
            core: self.cores.client,
        };
        let small = Paced {
            hub: site.engine.hub.clone(),
            topic: site.small.clone(),
            clock: self.clock,
            first: site.numbered,
            count: (length.as_millis() / u128::from(self.options.every_ms)) as u32,
            every: Duration::from_millis(self.options.every_ms.into()),
            data_bytes: DATA_BYTES,
        };
        site.numbered += small.count;
        thread::sleep(Duration::from_millis(100));
        let (begun, cpu_before) = (self.clock.now(), site.cpu(&self.softirq));
        let waited_before = site.engine.cpu.kept_waiting();
        let publisher = thread::Builder::new().name("small".to_owned()).spawn(move || small.publish())?;
        let connected = match kind.decides {
            Decides::NoConnects => None,
            _ => {
                let client = thread::Builder::new().name("connects".to_owned());
                let client = client.spawn(move || connect_at_rate(plan))?;
                Some(client.join().map_err(|_| "the client has panicked")??)
            }
        };
        publisher.join().map_err(|_| "the publisher has panicked")??;
        // What the shard does when they leave is part of what they cost.
        site.engine.wait_connections(self.options.small as usize + 1)?;
        site.engine.wait_deliveries(u64::from(site.numbered) * u64::from(self.options.small))?;
        let seconds = (self.clock.now() - begun).as_secs_f64();
        let cpu = site.cpu(&self.softirq);
        let disturbed = (site.engine.cpu.kept_waiting() - waited_before).as_secs_f64() / seconds;
        thread::sleep(Duration::from_millis(100));
        let latency = site.reader.ask(Checker::take_latency)?;
        if matches!(kind.decides, Decides::Thread | Decides::Task)
            && let Some(connected) = &connected
            && connected.shortest < Duration::from_millis(self.options.database_ms.into())
        {
            return Err(format!(
                "an answer came {:?} after its request, before the database's",
                connected.shortest
            )
            .into());
        }
        let ms = |nanos: u64| nanos as f64 / 1e6;
        let share = |part: fn(&Cpu) -> Duration| (part(&cpu) - part(&cpu_before)).as_secs_f64() / seconds;
        Ok(Part {
            p50_ms: ms(latency.value_at_quantile(0.5)),
            p99_ms: ms(latency.value_at_quantile(0.99)),
            max_ms: ms(latency.max()),
            shard: share(|cpu| cpu.shard),
            admissions: share(|cpu| cpu.admissions),
            database: share(|cpu| cpu.database),
            softirq: share(|cpu| cpu.softirq),
            disturbed,
            seconds,
            connected,
        })
    }

    /// Ends everything, and says what the small topics' clients found.
    fn end(self) -> Outcome<String> {
        Ok(format!("{}; {}", self.on_shard.end()?, self.on_threads.end()?))
    }
}

impl Site {
    fn set_up(engine: Measured, group: u8, options: &Options, clock: Clock, cores: Cores) -> Outcome<Site> {
        let to = engine.address()?;
        let plan = |count: u32, group, topic| Plan {
            count: count as usize,
            to,
            group,
            core: Some(cores.client),
            hurried: true,
            request: request("now", topic),
        };
        let checker = Checker::new(clock, options.small as usize, DATA_BYTES, 1);
        checker.progress().recording.store(true, Ordering::Relaxed);
        let reader = Reader::start(plan(options.small, group, "small"), checker)?;
        // The topic of the connects has a subscriber, so that not each of them begins and ends it.
        let resident = Reader::start(plan(1, group + 1, "crowd"), Discard::default())?;
        reader.wait_connected()?;
        resident.wait_connected()?;
        engine.wait_connections(options.small as usize + 1)?;
        let clocks = |prefix| machine::threads_named(prefix).into_iter().map(ThreadClock::of).collect();
        Ok(Site {
            engine,
            small: Topic::new("small")?,
            reader,
            resident,
            admissions: clocks(ADMISSION_THREADS),
            database: clocks(DATABASE_THREADS),
            numbered: 0,
        })
    }

    fn cpu(&self, softirq: &SoftirqClock) -> Cpu {
        let sum = |clocks: &[ThreadClock]| clocks.iter().map(ThreadClock::now).sum();
        Cpu {
            shard: self.engine.cpu.now(),
            admissions: sum(&self.admissions),
            database: sum(&self.database),
            softirq: softirq.now(),
        }
    }

    fn end(self) -> Outcome<String> {
        let counts = self.engine.hub.counts();
        let found = self.reader.stop()?.found(self.numbered);
        let resident = self.resident.stop()?;
        self.engine.stop();
        Ok(format!(
            "{found:?}, the crowd's resident ended: {}, turned away: {}, refused: {}, timed out: {}",
            resident.ended, counts.turned_away, counts.refused, counts.decisions_timed_out
        ))
    }
}

fn request(path: &str, topic: &str) -> String {
    format!("GET /{path}?topic={topic} HTTP/1.1\r\nHost: bench\r\n\r\n")
}

/// What the database is asked.
struct Question {
    due: Duration,
    ticket: DecisionTicket,
    subscribe: Subscribe,
}

/// A database that answers each question at its time. Its thread ends when the last sender of questions is
/// dropped.
fn start_database(clock: Clock) -> Outcome<mpsc::Sender<Question>> {
    let (ask, asked) = mpsc::channel();
    thread::Builder::new().name(format!("{DATABASE_THREADS}-thread")).spawn(move || {
        for Question { due, ticket, subscribe } in asked {
            thread::sleep(due.saturating_sub(clock.now()));
            ticket.decide(Decision::Subscribe(subscribe));
        }
    })?;
    Ok(ask)
}
