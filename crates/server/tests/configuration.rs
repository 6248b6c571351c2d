//! The configuration of the program: `fanfare config`, and what is said of mistakes in the file, in the
//! environment, and in the flags.

mod support;

use std::process::Command;

use serde_json::Value;
use support::file::ConfigFile;
use support::server::{Ran, fanfare, run};
use support::{Backend, Server};

fn config(arguments: &[&str]) -> Ran {
    let mut command = fanfare();
    command.arg("config").args(arguments);
    run(command, "")
}

fn with(variables: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = fanfare();
    command.envs(variables.iter().copied()).args(arguments);
    command
}

#[test]
fn the_example_has_no_mistakes_and_holds_the_defaults() {
    let example = config(&["example"]);
    assert_eq!((example.code, example.stderr.as_str()), (Some(0), ""));
    let file = ConfigFile::new(&example.stdout);
    let checked = config(&["check", &file.name()]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert_eq!((checked.stdout, checked.stderr), (format!("{}: no mistakes\n", file.name()), String::new()));
    let printed = config(&["print", "--config", &file.name()]);
    let values = |text: &str| {
        text.lines().map(|line| line.split("  #").next().unwrap_or_default().to_owned()).collect()
    };
    let (own, defaults): (Vec<String>, Vec<String>) =
        (values(&printed.stdout), values(&config(&["print"]).stdout));
    assert_eq!(own, defaults);
    assert!(printed.stdout.contains(&format!("# {}:", file.name())), "{}", printed.stdout);
}

#[test]
fn the_schema_is_json() {
    let schema = config(&["schema"]);
    assert_eq!(schema.code, Some(0));
    let schema: Value = serde_json::from_str(&schema.stdout).expect("JSON");
    assert_eq!(schema["properties"]["limits"]["properties"]["max-connections"]["type"], "integer");
    assert_eq!(schema["additionalProperties"], false);
}

/// A pipe that is closed early, as with `fanfare config example | head -1`.
#[test]
fn output_that_is_not_read_is_no_mistake() {
    let mut command = Command::new("sh");
    command.args(["-c", "\"$0\" config example | head -1"]).arg(env!("CARGO_BIN_EXE_fanfare"));
    let ran = run(command, "");
    assert_eq!((ran.stdout.lines().count(), ran.stderr.as_str()), (1, ""));
}

#[test]
fn check_reports_all_mistakes_of_a_file_with_their_places() {
    let file = ConfigFile::new(
        "[limits]\nmax-conections = 5\nmax-topics = \"5\"\n[web]\nhost = [\"a\", \"http://b\"]\n[retentions]\n",
    );
    let ran = config(&["check", &file.name()]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let expected = [
        (":2:1: ", "did you mean max-connections?"),
        (":3:14: ", "without quotation marks"),
        (":5:14: ", "no scheme, no port"),
        (":6:2: ", "did you mean [retention]?"),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, (place, hint)) in lines.iter().zip(expected) {
        assert!(
            line.starts_with(&format!("fanfare: {}{place}", file.name())) && line.contains(hint),
            "{line}"
        );
    }
    // What is right by itself and wrong together has another exit code, as with flags.
    for (text, place, part) in [
        ("[publishing]\nmax-publishes = 5000", ":2:1: ", "half of --max-control-connections 4096"),
        (
            "[publishing]\nmax-body = \"1GiB\"\npublish-memory = \"1MiB\"",
            ":3:1: ",
            "too little for --max-body 1GiB",
        ),
        ("[server]\nlisten = []", ":2:1: ", "nowhere to listen"),
        ("[server]\nlisten-proxy = \"127.0.0.1:1\"", ":2:1: ", "needs --trusted-proxies"),
    ] {
        let file = ConfigFile::new(text);
        let ran = config(&["check", &file.name()]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(
            ran.stderr.contains(&format!("{}{place}", file.name())) && ran.stderr.contains(part),
            "{ran:?}"
        );
    }
    let ran = config(&["check", "/nowhere/fanfare.toml"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.starts_with("fanfare: /nowhere/fanfare.toml: cannot be read"), "{ran:?}");
}

#[test]
fn print_says_where_each_value_comes_from() {
    let file = ConfigFile::new("[limits]\nmax-topics = 7\nmax-event = \"1KiB\"\n[web]\nhost = [\"file\"]\n");
    let mut command = with(
        &[("FANFARE_MAX_EVENT", "2KiB"), ("FANFARE_HOST", "a,b"), ("FANFARE_CONFIG", &file.name())],
        &["config", "print", "--host", "flag", "--pin"],
    );
    let ran = run(command, "");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let line = |start: &str| {
        let line = ran.stdout.lines().find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("{start}: {}", ran.stdout))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(line("max-topics"), format!("max-topics = 7 # {}:2:1", file.name()));
    assert_eq!(line("max-event"), "max-event = \"2KiB\" # FANFARE_MAX_EVENT");
    assert_eq!(line("host"), "host = [\"flag\"] # --host");
    assert_eq!(line("pin"), "pin = true # --pin");
    assert_eq!(line("drain"), "drain = \"5s\" # default");
    // The flag names another file than the variable.
    let other = ConfigFile::new("[limits]\nmax-topics = 8\n");
    command = with(&[("FANFARE_CONFIG", &file.name())], &["config", "print", "--config", &other.name()]);
    assert!(run(command, "").stdout.contains("max-topics = 8 "));
}

#[test]
fn a_mistake_in_any_layer_keeps_the_server_from_starting_and_is_named() {
    let file = ConfigFile::new("[server]\nshard = 2\n");
    for (variables, arguments, place, hint) in [
        (&[][..], &["--config", &file.name()][..], ":2:1: ", "did you mean shards?"),
        (
            &[("FANFARE_MAX_CONECTIONS", "1")],
            &[],
            "FANFARE_MAX_CONECTIONS: ",
            "did you mean FANFARE_MAX_CONNECTIONS?",
        ),
        (&[("FANFARE_MAX_CONNECTIONS", "many")], &[], "FANFARE_MAX_CONNECTIONS: ", "a whole number"),
        (&[("FANFARE_LOG", "inof")], &[], "FANFARE_LOG: ", "did you mean info?"),
        (&[("FANFARE_PIN", "yes")], &[], "FANFARE_PIN: ", "neither true nor false"),
        (&[("FANFARE_SHARDS", "0")], &["--shards", "1"], "FANFARE_SHARDS: ", "1..=1024"),
        (&[], &["--max-connections", "many"], "--max-connections: ", "a whole number"),
        (&[], &["--trusted-proxies", "10.0.0.1/8"], "--trusted-proxies: ", "bits behind the prefix"),
        (&[("FANFARE_CONFIG", "/nowhere/f")], &[], "/nowhere/f: ", "cannot be read"),
    ] {
        let mut command = with(variables, arguments);
        command.args(["--listen", "127.0.0.1:0"]);
        let ran = run(command, "");
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{arguments:?}: {ran:?}");
        assert!(
            ran.stderr.contains(place) && ran.stderr.contains(hint),
            "{variables:?} {arguments:?}: {ran:?}"
        );
    }
    let ran = run(with(&[], &["--max-conections", "1"]), "");
    assert!(ran.code == Some(2) && ran.stderr.contains("--max-connections"), "{ran:?}");
}

/// A switch in the file could not be switched off by a flag otherwise.
#[test]
fn a_flag_can_take_back_what_the_file_says() {
    let file = ConfigFile::new(
        "[server]\npin = true\nshards = 3\n[streams]\nmax-age = \"1h\"\n[web]\nhost = \"a\"\n",
    );
    let name = file.name();
    let flags = ["--pin=false", "--shards", "auto", "--max-age", "never", "--host", "none"];
    let ran = run(with(&[], &[&["config", "print", "--config", &name][..], &flags].concat()), "");
    for line in ["pin = false ", "shards = \"auto\" ", "max-age = \"never\" ", "host = [] "] {
        assert!(ran.stdout.contains(line), "{line}: {ran:?}");
    }
}

#[test]
fn no_file_is_read_unless_it_is_named() {
    let folder = std::env::temp_dir().join(format!("fanfare-folder-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    for name in ["fanfare.toml", "config.toml", ".fanfare.toml"] {
        std::fs::write(folder.join(name), "[nonsense]").expect("a file");
    }
    let mut command = with(&[], &["config", "print"]);
    command.current_dir(&folder);
    let ran = run(command, "");
    let _ = std::fs::remove_dir_all(&folder);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}

/// A pod of Kubernetes beside a service of the name `fanfare` has such variables.
#[test]
fn a_server_starts_in_a_pod_beside_a_service_of_its_name() {
    let variables = [("FANFARE_SERVICE_HOST", "10.0.0.1"), ("FANFARE_PORT", "tcp://10.0.0.1:8844")];
    let ran = run(with(&variables, &["config", "print"]), "");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_server_follows_its_file() {
    let file = ConfigFile::new(
        "[web]\nhost = \"fanfare.test\"\n[limits]\nmax-topics = 2\n[logging]\nlog = \"debug\"\n",
    );
    let server = Server::start_configured(Backend::Epoll, file.path(), &[]);
    server.expect_health();
    server.get("/events?topic=a&topic=b&topic=c").problem(400);
    let _subscriber = server.subscribe("topic=a&topic=b");
}
