//! Other servers under the same load. `fanfare-load baseline NAME` runs one in the foreground, either written
//! here or by becoming the program that is installed; the comparison starts and stops them that way.

mod axum_sse;
mod bare;
mod origin;
mod programs;
mod request;
mod settings;
mod threads;
mod token;

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser};

pub(crate) use self::programs::scratch_of;
pub(crate) use self::settings::{BASELINES, InFull, Names, Settings, of_contender};
use crate::failure::{Failure, Outcome};
use crate::sys;

/// Runs a baseline in the foreground.
#[derive(Args)]
pub(crate) struct Serve {
    /// Which one
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(BASELINES))]
    baseline: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// IPv4 address to listen on, for threads, bare and axum-sse. The others listen on 127.0.0.1, or where
    /// their settings say
    #[arg(long, value_name = "ADDRESS", default_value_t = Ipv4Addr::LOCALHOST)]
    host: Ipv4Addr,
    /// Port to publish at, for pushpin
    #[arg(long, default_value_t = 5561)]
    control_port: u16,
    /// Change a setting: program=FILE, arguments='...', arguments+='...', environment.NAME=VALUE,
    /// files.NAME=FILE
    #[arg(long, value_name = "KEY=VALUE", allow_hyphen_values = true)]
    set: Vec<String>,
    /// Print its settings and its configuration files, and start nothing
    #[arg(long)]
    show: bool,
    /// End when the process that started this one does: its id
    #[arg(long, hide = true)]
    with_parent: Option<u32>,
    /// Be what stands behind pushpin
    #[arg(long, hide = true)]
    origin: bool,
}

/// The arguments that the settings of the built-in baselines may have.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true, args_override_self = true)]
struct BuiltIn {
    /// Events that a slow subscriber may be behind.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    queue: u32,
    /// Sending threads of `bare`.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
}

impl BuiltIn {
    fn of(settings: &Settings) -> Outcome<BuiltIn> {
        BuiltIn::try_parse_from(&settings.arguments).map_err(|error| Failure::new(error.to_string()))
    }
}

/// The version of a built-in baseline, with those of the libraries that it is made of.
fn own_version(name: &str) -> String {
    let own = format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    match name {
        "axum-sse" => {
            let (axum, hyper) = (env!("VERSION_OF_AXUM"), env!("VERSION_OF_HYPER"));
            format!("{own}, axum {axum}, hyper {hyper}, tokio {}", env!("VERSION_OF_TOKIO"))
        }
        _ => own,
    }
}

/// A port that is free now.
pub(crate) fn free_port() -> Outcome<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| Failure::new(format!("no free port: {error}")))
}

/// Serves until ended; returns only on a failure, or where there was something to print.
pub(crate) fn serve(serve: &Serve) -> Outcome<()> {
    let mut settings = Settings::shipped(&serve.baseline)?;
    for assignment in &serve.set {
        settings.set(assignment)?;
    }
    if serve.show {
        println!("{}", settings.shown()?);
        return Ok(());
    }
    if let Some(parent) = serve.with_parent
        && !sys::end_with_parent(parent)
    {
        return Err(Failure::new(format!("the process {parent}, which started this one, has ended")));
    }
    sys::raise_descriptor_limit();
    if serve.origin {
        sys::default_interrupts();
        return origin::serve(serve.port);
    }
    match settings.find()? {
        Some(_) if serve.host != Ipv4Addr::LOCALHOST => {
            Err(Failure::new(format!("--host: {} is a program of its own; use --set", serve.baseline)))
        }
        Some(program) => Err(run(serve, &settings, Command::new(program))),
        None => built_in(serve, &settings),
    }
}

/// Becomes the program of a baseline.
fn run(serve: &Serve, settings: &Settings, mut command: Command) -> Failure {
    let mut prepared = || -> Outcome<()> {
        let port = if serve.port == 0 { free_port()? } else { serve.port };
        // A program that keeps no files leaves no folder behind.
        let scratch = if settings.keeps_files() { programs::scratch()? } else { PathBuf::new() };
        let origin_port = if settings.origin { free_port()? } else { 0 };
        let scratch = scratch.to_string_lossy();
        let names = Names { port, control_port: serve.control_port, origin_port, scratch: &scratch };
        settings.write_files(&names)?;
        for argument in &settings.arguments {
            command.arg(names.fill(argument)?);
        }
        for (name, value) in &settings.environment {
            command.env(name, names.fill(value)?);
        }
        if settings.origin {
            start_origin(serve, origin_port)?;
        }
        announce(serve, settings, port)
    };
    if let Err(failure) = prepared() {
        return failure;
    }
    sys::default_interrupts();
    programs::become_program(&mut command)
}

/// The origin is a child of this process, as the program's own parts will be.
fn start_origin(serve: &Serve, port: u16) -> Outcome<()> {
    let own = std::env::current_exe().map_err(|error| Failure::new(format!("this program: {error}")))?;
    let mut origin = Command::new(own);
    origin.args(["baseline", &serve.baseline, "--origin", "--with-parent", &std::process::id().to_string()]);
    origin.args(["--port", &port.to_string()]).stdin(Stdio::null());
    origin.spawn().map(drop).map_err(|error| Failure::new(format!("the origin: {error}")))
}

fn built_in(serve: &Serve, settings: &Settings) -> Outcome<()> {
    let differs = |(name, value): (&String, &String)| std::env::var(name).as_deref() != Ok(value);
    if settings.environment.iter().any(differs) {
        // A library may have read its environment already, so that this process starts again with it.
        let own = std::env::current_exe().map_err(|error| Failure::new(format!("this program: {error}")))?;
        let mut command = Command::new(own);
        command.args(std::env::args_os().skip(1)).envs(&settings.environment);
        return Err(programs::become_program(&mut command));
    }
    let options = BuiltIn::of(settings)?;
    let (queue, threads) = (options.queue as usize, usize::from(options.threads));
    let address = SocketAddrV4::new(serve.host, serve.port);
    let failed = |error| Failure::new(format!("{address}: {error}"));
    let listener = sys::listen(address, threads > 1).map_err(failed)?;
    announce(serve, settings, listener.local_addr().map_err(failed)?.port())?;
    sys::default_interrupts();
    match serve.baseline.as_str() {
        "threads" => threads::serve(&listener, queue),
        "bare" => bare::serve(listener, threads),
        "axum-sse" => axum_sse::serve(listener, queue),
        name => Err(Failure::new(format!("`{name}` has no program and is not built in"))),
    }
}

fn announce(serve: &Serve, settings: &Settings, port: u16) -> Outcome<()> {
    println!("{} at http://{}:{port} ({})", serve.baseline, serve.host, settings.sentence());
    let names = Names { port, control_port: serve.control_port, ..Names::default() };
    if let Some(url) = settings.publish_url(&names)? {
        println!("publish with --publish-url '{url}'");
    }
    for header in settings.publish_headers()? {
        println!("publish with --publish-header '{header}'");
    }
    Ok(())
}
