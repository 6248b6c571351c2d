//! What packages have of the server: `crates/server/packaging`, completions and man pages.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, process};

use serde_json::Value;
use support::server::{Ran, fanfare, run};

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging")
}

fn read(name: &str) -> String {
    fs::read_to_string(packaging().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A folder that is removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = env::temp_dir().join(format!("fanfare-packaging-{}-{name}", process::id()));
        fs::create_dir_all(&path).expect("the folder for temporary files takes it");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn each_command_has_a_man_page() {
    let folder = Folder::new("man");
    let mut command = fanfare();
    command.arg("man").arg(&folder.0);
    let Ran { code, stderr, .. } = run(command, "");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let names: BTreeSet<String> = fs::read_dir(&folder.0)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    for name in
        ["fanfare", "fanfare-serve", "fanfare-pub", "fanfare-sub", "fanfare-top", "fanfare-token-mint"]
    {
        assert!(names.contains(&format!("{name}.1")), "{names:?}");
    }
    assert!(!names.contains("fanfare-man.1"), "what packages alone need has no page: {names:?}");
    let page = fs::read_to_string(folder.0.join("fanfare-serve.1")).expect("it is there");
    for option in ["\\-\\-listen", "\\-\\-max\\-connections", "\\-\\-trusted\\-proxies"] {
        assert!(page.contains(option), "{option}");
    }
    // The package's name is not the program's.
    let mut version = fanfare();
    version.arg("--version");
    assert_eq!(run(version, "").stdout, format!("fanfare {}\n", env!("CARGO_PKG_VERSION")));
    let missing = folder.0.join("missing");
    let mut command = fanfare();
    command.arg("man").arg(&missing);
    let refused = run(command, "");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains(&missing.display().to_string()), "{refused:?}");
}

#[test]
fn shells_complete_commands_and_options() {
    for (shell, top) in [("bash", "fanfare,top)"), ("zsh", "(top)"), ("fish", "-a \"top\"")] {
        let mut command = fanfare();
        command.args(["completions", shell]);
        let Ran { code, stdout, stderr } = run(command, "");
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        for word in ["trusted-proxies", "mint", "heartbeat-min", top] {
            assert!(stdout.contains(word), "{shell} completes no {word}");
        }
    }
    // Bash reads them without a complaint.
    let script = r#"source <("$0" completions bash) && complete -p fanfare"#;
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", script, env!("CARGO_BIN_EXE_fanfare")]);
    let ran = run(bash, "");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.stdout.contains("_fanfare"), "{ran:?}");
}

/// The times of the unit fit to the server's, and systemd finds no mistake in it.
#[test]
fn the_unit_is_right() {
    let unit = read("systemd/fanfare.service");
    let value = |name: &str| {
        let prefix = format!("{name}=");
        unit.lines()
            .find_map(|line| line.strip_prefix(&prefix))
            .unwrap_or_else(|| panic!("no {name}="))
            .to_owned()
    };
    assert_eq!(value("Type"), "notify");
    assert_eq!(value("ExecStart"), "/usr/bin/fanfare serve --config /etc/fanfare/fanfare.toml");
    let seconds = |name| value(name).trim_end_matches('s').parse::<u64>().expect("seconds");
    let mut print = fanfare();
    print.args(["config", "print"]);
    let defaults = run(print, "").stdout;
    let drain = defaults.lines().find(|line| line.starts_with("drain = ")).expect("a drain").to_owned();
    assert!(
        drain.contains("5s"),
        "the unit's comment and TimeoutStopSec= are for a drain of 5 seconds: {drain}"
    );
    assert!(seconds("TimeoutStopSec") > 5);
    assert!(seconds("WatchdogSec") >= 4);
    // systemd wants this folder to have the mode 0755, and logs a warning at each start: the package gives it
    // 0750.
    assert!(!unit.contains("ConfigurationDirectory="));

    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: there is no systemd-analyze here");
        return;
    }
    let folder = Folder::new("unit");
    for name in ["fanfare.service", "socket/fanfare.socket"] {
        let text =
            read(&format!("systemd/{name}")).replace("/usr/bin/fanfare", env!("CARGO_BIN_EXE_fanfare"));
        let file = Path::new(name).file_name().expect("a name");
        fs::write(folder.0.join(file), text).expect("the folder takes it");
    }
    let files = ["fanfare.service", "fanfare.socket"].map(|name| folder.0.join(name));
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).args(&files);
    let ran = run(verify, "");
    let complaints: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("fanfare")).collect();
    assert_eq!((ran.code, complaints), (Some(0), Vec::new()));
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--threshold=20"]).arg(&files[0]);
    let ran = run(security, "");
    assert_eq!(ran.code, Some(0), "its exposure is above 2.0: {}", ran.stdout);
}

/// The package's own configuration is right as it is, and with its comments taken away.
#[test]
fn the_configuration_of_the_package_is_right() {
    let folder = Folder::new("config");
    let text = read("debian/fanfare.toml");
    let path = folder.0.join("fanfare.toml");
    let check = |text: &str| {
        fs::write(&path, text).expect("the folder takes it");
        let mut command = fanfare();
        command.args(["config", "check"]).arg(&path);
        run(command, "")
    };
    let ran = check(&text);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for name in ["subscribers.key", "publishers.key"] {
        fs::write(folder.0.join(name), "a secret of at least 32 bytes, for a test")
            .expect("the folder takes it");
    }
    let folder_name = folder.0.display().to_string();
    let all = text.replace("# subscriber", "subscriber").replace("# publisher", "publisher");
    let all = all.replace("# revocations", "revocations").replace("/etc/fanfare", &folder_name);
    let ran = check(&all.replace("/var/lib/fanfare", &folder_name));
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn each_line_of_the_sysctl_file_is_a_setting_or_a_reason() {
    let text = read("sysctl/50-fanfare.conf");
    let mut reasons = 0;
    for line in text.lines() {
        if line.is_empty() {
            reasons = 0;
        } else if line.starts_with('#') {
            reasons += 1;
        } else {
            let (name, value) = line.split_once(" = ").unwrap_or_else(|| panic!("no setting: {line}"));
            assert!(reasons > 0, "{name} has no reason");
            assert!(value.split(' ').all(|number| number.parse::<u64>().is_ok()), "{line}");
            // Settings of a network namespace may be missing in a container.
            let path = Path::new("/proc/sys").join(name.replace('.', "/"));
            assert!(path.exists() || !path.parent().is_some_and(Path::exists), "this kernel has no {name}");
        }
    }
}

/// Templates use only values that the schema describes, and every value is used.
#[test]
fn the_values_of_the_chart_are_those_of_its_schema() {
    let schema: Value = serde_json::from_str(&read("chart/fanfare/values.schema.json")).expect("JSON");
    let mut described = BTreeSet::new();
    describe(&schema, "", &mut described);
    let mut used = BTreeSet::new();
    for entry in fs::read_dir(packaging().join("chart/fanfare/templates")).expect("the folder is there") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a text");
        for rest in text.split(".Values.").skip(1) {
            let end =
                rest.find(|sign: char| sign != '.' && !sign.is_ascii_alphanumeric()).unwrap_or(rest.len());
            used.insert(rest[..end].to_owned());
        }
    }
    assert_eq!(used, described);
    let values = read("chart/fanfare/values.yaml");
    for name in described {
        let (depth, key) = (name.matches('.').count(), name.rsplit('.').next().expect("a name"));
        let line = format!("\n{}{key}:", "  ".repeat(depth));
        assert!(values.contains(&line), "values.yaml has no {name}");
    }
    let Ok(lint) = Command::new("helm")
        .arg("lint")
        .arg(packaging().join("chart/fanfare"))
        .args(["--strict", "--set", "image.repository=fanfare"])
        .output()
    else {
        println!("helm is not here: its own lint was left out");
        return;
    };
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
}

/// The second server of a guide could not listen, because the first one has its admin listener there; and a
/// Dockerfile named another folder than the guide.
#[test]
fn the_commands_of_the_guides_go_together() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let mut listen = 0;
    let mut guides = Vec::new();
    let mut folders = vec![docs.join("guides")];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("an entry").path());
        let (inner, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        folders.extend(inner);
        guides.extend(files);
    }
    for path in guides {
        let text = fs::read_to_string(&path).expect("a text");
        for line in text.lines().filter(|line| line.contains("--listen ")) {
            assert!(!line.contains("8845"), "{}: {line}", path.display());
            listen += 1;
        }
    }
    assert!(listen > 0);
    let folder = "target/package/x86_64-unknown-linux-musl/release";
    let guide = fs::read_to_string(docs.join("guides/deploying.md")).expect("a text");
    assert!(guide.contains(folder) && read("container/Dockerfile.static").contains(folder));
}

/// With metrics on, the port of the admin listener was in the service of the clients: a load balancer opened
/// it to the world. And the job of Prometheus had the name of the release, so that no alert about a server
/// that is down ever fired.
#[test]
fn the_admin_listener_has_a_service_of_its_own_and_its_job_is_that_of_the_alerts() {
    let template = |name: &str| read(&format!("chart/fanfare/templates/{name}"));
    assert!(!template("service.yaml").contains("admin"));
    let admin = template("service-admin.yaml");
    assert!(admin.contains("clusterIP: None") && admin.contains("port: {{ .Values.serviceMonitor.port }}"));
    let monitor = template("servicemonitor.yaml");
    let component = "app.kubernetes.io/component: admin";
    assert!(admin.contains(component) && monitor.contains(component));
    assert!(monitor.contains("\n  jobLabel: app.kubernetes.io/name\n"), "{monitor}");
    assert!(template("_helpers.tpl").contains("\napp.kubernetes.io/name: fanfare\n"));
    assert!(read("prometheus/alerts.yml").contains("up{job=\"fanfare\"}"));
}

/// The names of values without values below them that the chart knows itself.
fn describe(schema: &Value, name: &str, all: &mut BTreeSet<String>) {
    match schema["properties"].as_object() {
        Some(properties) => {
            for (key, below) in properties {
                // What helm gives to every chart.
                if key == "global" {
                    continue;
                }
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                describe(below, &name, all);
            }
        }
        None => {
            all.insert(name.to_owned());
        }
    }
}
