//! The layers over each other, and what is said of mistakes in each of them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;

use crate::kind::{path, secret};
use crate::*;

fn sources(file: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Sources {
    let os = |text: &str| OsString::from(text);
    Sources {
        file: Some(FileText::new("f.toml", file)),
        variables: variables.iter().map(|(name, value)| (os(name), os(value))).collect(),
        flags: Flags::of(flags.iter().copied()),
    }
}

fn layered(sources: &Sources) -> Values {
    Settings::table().layer(sources).unwrap_or_else(|problems| panic!("{problems}"))
}

/// All mistakes, one a line.
fn mistakes(sources: &Sources) -> Vec<String> {
    match Settings::table().layer(sources) {
        Ok(_) => Vec::new(),
        Err(Problems(problems)) => problems.iter().map(Problem::to_string).collect(),
    }
}

fn mistakes_of_file(text: &str) -> Vec<String> {
    mistakes(&sources(text, &[], &[]))
}

#[test]
fn a_stronger_layer_takes_the_place_of_a_weaker_one() {
    let file = "[limits]\nmax-connections = 1\nmax-topics = 1\nmax-event = 1\n[web]\nhost = ['a', 'b']";
    let variables =
        [("FANFARE_MAX_TOPICS", "2"), ("FANFARE_MAX_EVENT", "2B"), ("FANFARE_HOST", "c, d"), ("PATH", "x")];
    let values = layered(&sources(file, &variables, &[("max-event", "3B")]));
    let settings = Settings::of(&values).unwrap();
    assert_eq!((settings.max_connections, settings.max_topics, settings.max_event), (1, 2, 3));
    assert_eq!(settings.host, ["c", "d"].map(|name| HostName::Name(name.to_owned())));
    assert_eq!(settings.heartbeat, Settings::default().heartbeat);
    let place = |name: &str| values.place(name).unwrap().to_string();
    assert_eq!(place("max-connections"), "f.toml:2:1");
    assert_eq!(place("max-topics"), "FANFARE_MAX_TOPICS");
    assert_eq!(place("max-event"), "--max-event");
    assert_eq!(place("heartbeat"), "default");
    assert_eq!(values.place("nothing"), None);
}

#[test]
fn each_way_writes_the_same_value() {
    // Name, section, in the file, in a variable, as a flag, and the same option with another option's default
    // aside.
    for (name, section, toml, variable, flag) in [
        ("shards", "server", "3", "3", "3"),
        ("shards", "server", "'auto'", "auto", "auto"),
        ("pin", "server", "true", "true", "true"),
        ("max-event", "limits", "'64KiB'", "64KiB", "64KiB"),
        ("max-event", "limits", "65536", "64KiB", "65536"),
        ("max-event", "limits", "0x10000", "64KiB", "65536B"),
        ("max-connections", "limits", "1_000", "1000", "1000"),
        ("heartbeat", "streams", "'90s'", "1m 30s", "90000ms"),
        ("max-age", "streams", "'never'", "never", "never"),
        ("when-full", "limits", "'drop'", "drop", "drop"),
        ("unix-mode", "server", "'660'", "660", "660"),
        ("host", "web", "[]", "none", "none"),
        ("host", "web", "'a'", "a", "a"),
        ("host", "web", "['a', 'b']", "a,b", "a,b"),
        ("retain", "retention", "['a=1,,', 'b*=,,1h']", "a=1,,;b*=,,1h", "a=1,,"),
        ("trusted-proxies", "proxies", "['10.0.0.0/8', 'unix']", "10.0.0.0/8,unix", "10.0.0.0/8, unix"),
        ("listen", "server", "'unix:@x'", "unix:@x", "unix:@x"),
    ] {
        let of = |sources: &Sources| Settings::of(&layered(sources)).unwrap();
        let upper = format!("FANFARE_{}", name.to_uppercase().replace('-', "_"));
        let text = format!("{:?}", of(&sources(&format!("[{section}]\n{name} = {toml}"), &[], &[])));
        assert_eq!(format!("{:?}", of(&sources("", &[(&upper, variable)], &[]))), text, "{upper}");
        let mut flags = vec![(name, flag)];
        if name == "retain" {
            // A flag has one entry, because entries have commas of their own.
            flags.push((name, "b*=,,1h"));
        }
        assert_eq!(format!("{:?}", of(&sources("", &[], &flags))), text, "--{name}");
    }
}

#[test]
fn all_mistakes_of_all_layers_are_reported_with_their_places() {
    let file =
        "[limits]\n  max-conections = 1\nmax-topics = 'many'\n\n[web]\nhost = ['a', 'b/']\n[limit]\nx = 1\n";
    let variables = [("FANFARE_HEARTBEATS", "1s"), ("FANFARE_RETRY", "1ms")];
    let flags = [("max-event", "some"), ("drain", "0s")];
    let said = mistakes(&sources(file, &variables, &flags));
    let expected = [
        ("f.toml:2:3: ", "max-conections", "did you mean max-connections?"),
        ("f.toml:3:14: ", "max-topics", "a whole number, without quotation marks"),
        ("f.toml:6:14: ", "host: \"b/\"", "no scheme, no port"),
        ("f.toml:7:2: ", "no section \"limit\"", "did you mean [limits]?"),
        ("FANFARE_HEARTBEATS: ", "no such variable", "did you mean FANFARE_HEARTBEAT?"),
        ("FANFARE_RETRY: ", "", "from 100ms to 1h"),
        ("--max-event: ", "\"some\"", "a size such as"),
        ("--drain: ", "", "longer than nothing"),
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, (place, wrong, hint)) in said.iter().zip(expected) {
        assert!(said.starts_with(place) && said.contains(wrong) && said.contains(hint), "{said}");
    }
}

#[test]
fn mistakes_of_a_file_say_what_is_allowed() {
    for (text, part) in [
        ("max-topics = 1", "max-topics belongs into the section [limits]"),
        ("[server]\nmax-topics = 1", "belongs into the section [limits], not into [server]"),
        ("[server]\nmax_topic = 1", "did you mean max-topics, in [limits]?"),
        ("[server]\nqwertyuiop = 1", "its keys are listen, listen-proxy"),
        ("[qwertyuiop]", "the sections are [server], [admin], [web]"),
        ("server = 1", "write [server] and its keys below it"),
        ("[[server]]\npin = true", "server is a section"),
        ("[server]\npin = 'true'", "without quotation marks"),
        ("[server]\npin = 1", "write true or false"),
        ("[server]\nshards = 1.5", "write a whole number from 1 to 1024, or auto"),
        ("[server]\nshards = 'none'", "write a whole number from 1 to 1024, or auto"),
        ("[server]\nshards = 1025", "1025 is not in 1..=1024"),
        ("[server]\nshards = -1", "-1"),
        ("[server]\nshards = [1]", "this is a list"),
        ("[server]\nunix-mode = 660", "in quotation marks"),
        ("[server]\nbackend = 'epol'", "did you mean epoll?"),
        ("[server]\nlisten = [['a']]", "this is a list"),
        ("[server]\nlisten.a = 1", "this is a table"),
        ("[streams]\nheartbeat = 20", "a time needs its unit"),
        ("[streams]\nheartbeat = 2026-01-01", "in quotation marks"),
        ("[limits]\nmax-event = -1", "is no size"),
        ("[limits]\nmax-connections = 99999999999999999999999", "number"),
        ("[web]\ncors-origin = 'https://app.example/'", "without a path"),
        ("[proxies]\ntrusted-proxies = ['10.0.0.1/8']", "bits behind the prefix"),
        ("[logging]\nlog = 'inof'", "did you mean info?"),
        ("[server]\npin = true\npin = false", "duplicate"),
    ] {
        let said = mistakes_of_file(text);
        assert!(said.len() == 1 && said[0].contains(part), "{text}: {said:#?}");
        assert!(said[0].starts_with("f.toml:"), "{said:?}");
    }
}

#[test]
fn what_is_not_toml_is_one_mistake_and_the_rest_is_still_checked() {
    let said = mistakes_of_file("[server]\npin = \nshards = 0\n[web\nhost = 'b/'");
    let starts = ["f.toml:2:", "f.toml:3:10: shards: 0 is not", "f.toml:4:"];
    for start in starts {
        assert!(said.iter().any(|line| line.starts_with(start)), "{start}: {said:#?}");
    }
    assert!(said.iter().filter(|line| line.starts_with("f.toml:2:")).count() == 1, "{said:#?}");
}

#[test]
fn columns_are_characters() {
    let said = mistakes_of_file("[web]\nhost = [\"\u{e4}\u{e4}\", 'b']");
    assert!(said.len() == 1 && said[0].starts_with("f.toml:2:9: "), "{said:#?}");
    let said = mistakes_of_file("[web]\r\nhost = ['a', # \u{1f600}\r\n 'b/']");
    assert!(said.len() == 1 && said[0].starts_with("f.toml:3:2: "), "{said:#?}");
}

#[test]
fn a_variable_that_is_not_utf_8_is_named() {
    use std::os::unix::ffi::OsStringExt;
    let variables = vec![("FANFARE_HOST".into(), OsString::from_vec(vec![0xff]))];
    let said = mistakes(&Sources { variables, ..Sources::default() });
    assert_eq!(said, ["FANFARE_HOST: is not UTF-8"]);
}

#[test]
fn a_file_that_cannot_be_one_is_named() {
    let read = |path: &str| FileText::read(std::path::Path::new(path)).unwrap_err().to_string();
    assert!(read("/nowhere/f.toml").starts_with("/nowhere/f.toml: cannot be read: "));
    assert!(read("/").starts_with("/: cannot be read: "));
    assert!(read("/dev/zero").contains("larger than 1048576 bytes"));
}

#[test]
fn a_mistake_repeats_a_bounded_part_of_the_text() {
    let long = "x".repeat(1 << 16);
    let said = mistakes(&sources(&format!("{long} = 1\n[web]\nhost='{long}/'"), &[], &[("backend", &long)]));
    assert_eq!(said.len(), 3);
    assert!(said.iter().all(|line| line.len() < 1000), "{said:?}");
}

#[test]
fn the_printed_values_are_a_file_with_the_same_values() {
    let file = "[server]\nshards = 2\nlisten = ['127.0.0.1:1', 'unix:/a\"b']\n[streams]\nmax-age = '1h'";
    let values = layered(&sources(file, &[("FANFARE_PIN", "true")], &[("retain", "a\\b=1,2B,3s")]));
    let printed = values.print();
    for (line, place) in [
        ("shards = 2 ", "# f.toml:2:1"),
        ("pin = true ", "# FANFARE_PIN"),
        ("retain = ", "# --retain"),
        ("drain = ", "# default"),
    ] {
        let found =
            printed.lines().find(|printed| printed.starts_with(line)).unwrap_or_else(|| panic!("{line}"));
        assert!(found.ends_with(place), "{found}");
    }
    let again = layered(&sources(&printed, &[], &[]));
    assert!(values.changes(&again).is_empty(), "{printed}");
}

#[test]
fn changes_are_named_and_only_what_can_be_reloaded_is_taken_over() {
    let before = layered(&sources("[server]\nshards = 2\n[web]\nhost = ['a']", &[], &[]));
    let same = layered(&sources("# moved\n[web]\nhost = 'a'", &[("FANFARE_SHARDS", "2")], &[]));
    assert!(before.changes(&same).is_empty());
    let wanted = layered(&sources("[server]\nshards = 3\n[web]\nhost = ['b']", &[], &[]));
    let changed: Vec<&str> =
        wanted.changes(&before).iter().map(|definition| definition.name.as_str()).collect();
    assert_eq!(changed, ["shards", "host"]);
    let held = Settings::of(&wanted.over(&before)).unwrap();
    assert_eq!((held.shards, held.host), (Some(2), vec![HostName::Name("b".to_owned())]));
}

/// Options that the server may have: what a section with secrets, files and lists needs is here already.
static OTHER: LazyLock<Table> = LazyLock::new(|| Table {
    sections: vec![Section {
        name: "access",
        about: "Who may do what",
        definitions: vec![
            many(secret(), Separator::Comma).definition("access_secret", "A secret."),
            optional(path(), "none", "no file").definition("access_file", "A file."),
        ],
    }],
});

#[test]
fn a_secret_is_never_printed() {
    let layer = |sources: &Sources| OTHER.layer(sources);
    let file = "[access]\naccess-secret = ['hush1', 'hush2']\naccess-file = '/run/key'";
    for sources in [
        sources(file, &[], &[]),
        sources("", &[("FANFARE_ACCESS_SECRET", "hush1,hush2")], &[]),
        sources("", &[], &[("access-secret", "hush1,hush2")]),
    ] {
        let values = layer(&sources).unwrap();
        let printed = format!("{} {values:?}", values.print());
        let expected = format!(
            "# access-secret: a secret, which is not shown  # {}",
            values.place("access-secret").unwrap()
        );
        assert!(printed.contains(&expected) && !values.print().contains("hush"), "{printed}");
    }
    let values = layer(&sources(file, &[], &[])).unwrap();
    let secrets = many(secret(), Separator::Comma).value(&values.given[0]).unwrap();
    assert_eq!(secrets.iter().map(Secret::reveal).collect::<Vec<_>>(), ["hush1", "hush2"]);
    assert_eq!(format!("{secrets:?}"), "[(secret), (secret)]");
    let file = optional(path(), "none", "no file").value(&values.given[1]).unwrap();
    assert_eq!(file, Some(PathBuf::from("/run/key")));
    for page in [OTHER.reference(), OTHER.example(), OTHER.schema().to_string()] {
        assert!(page.contains("access-secret"), "{page}");
    }
    // Nor does a mistake show it.
    let wrong =
        sources("[access]\naccess-secret = ['hush', '']\n", &[("FANFARE_ACCESS_SECRET", "hush,")], &[]);
    let said = layer(&wrong).unwrap_err().to_string();
    assert!(
        said.contains("f.toml:2:26: access-secret: this is not a list") && !said.contains("hush"),
        "{said}"
    );
    let wrong = sources("[access]\naccess-secret = 98765\n", &[], &[]);
    let said = layer(&wrong).unwrap_err().to_string();
    assert!(said.contains("in quotation marks") && !said.contains("98765"), "{said}");
}

/// A definition is right when its default is: it is checked as a value of the file would be.
#[test]
fn every_default_is_a_value_of_its_option() {
    for definition in Settings::table().definitions() {
        for text in &definition.default {
            assert_eq!(definition.check(text), Ok(()), "{}", definition.name);
        }
        assert!(
            definition.help.ends_with('.') && definition.help.len() > 10,
            "{}: {}",
            definition.name,
            definition.help
        );
    }
    let mut names: Vec<&str> =
        Settings::table().definitions().map(|definition| definition.name.as_str()).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "a name is there twice");
}
