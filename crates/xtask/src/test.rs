//! `cargo xtask test`: installs what the tests need, runs all of them, and counts.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs, thread};

use crate::failures::Failures;
use crate::{listen, must, output_of, programs, root};

const BROWSER_TESTS: &str = "crates/server/tests/browser";
/// What the names of the tests in `crates/server/tests/browser.rs` begin with.
const BROWSER_TEST_NAMES: &str = "browser_on_";

/// What the names of the tests in `crates/server/tests/behind_proxies.rs` begin with.
const PROXY_TEST_NAMES: &str = "proxied_by_";
/// The programs that those start, and the packages of Debian that have them.
const PROXIES: [(&str, &str); 4] =
    [("nginx", "nginx-light"), ("caddy", "caddy"), ("haproxy", "haproxy"), ("curl", "curl")];

const GENERATED_TESTS: &str = "crates/server/tests/openapi";
/// What the names of the tests in `crates/server/tests/openapi.rs` begin with that schemathesis makes.
const GENERATED_TEST_NAMES: &str = "generated_requests_";

const CLIENT_TESTS: &str = "crates/server/tests/clients";
/// What the names of the tests in `crates/server/tests/clients.rs` begin with, but those that need the
/// browser.
const CLIENT_TEST_NAMES: &str = "with_client_";

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave out the tests that drive a browser, and do not install one
    #[arg(long)]
    no_browser: bool,
    /// Leave out the tests that put nginx, Caddy and HAProxy before the server, and do not install these
    #[arg(long)]
    no_proxies: bool,
    /// Leave out the tests that drive the server with requests generated from its OpenAPI documents, and do
    /// not install schemathesis
    #[arg(long)]
    no_generated: bool,
    /// Leave out the tests of client libraries of other languages, and do not install these
    #[arg(long)]
    no_clients: bool,
    /// Only the tests of this package; may be given several times
    #[arg(long, value_name = "NAME")]
    package: Vec<String>,
}

impl Options {
    /// The options that were given, with the beginnings of the names of the tests that they leave out.
    fn left_out(&self) -> Vec<(&'static str, &'static str)> {
        let all = [
            (self.no_browser, "--no-browser", BROWSER_TEST_NAMES),
            (self.no_proxies, "--no-proxies", PROXY_TEST_NAMES),
            (self.no_generated, "--no-generated", GENERATED_TEST_NAMES),
            (self.no_clients, "--no-clients", CLIENT_TEST_NAMES),
        ];
        all.into_iter().filter(|(given, ..)| *given).map(|(_, option, names)| (option, names)).collect()
    }
}

/// Runs all tests and ends with one line that counts them. It is a failure, too, when a test program does not
/// build or crashes, and when there was nothing to run.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    let left_out = options.left_out();
    let mut arguments = Vec::new();
    for (option, names) in &left_out {
        println!("{option}: the tests named {names}* are left out");
        arguments.extend(["--skip", names]);
    }
    if !options.no_browser {
        provide_browser()?;
    }
    if !options.no_proxies {
        provide_proxies()?;
    }
    if !options.no_generated {
        provide_schemathesis()?;
    }
    if !options.no_clients {
        provide_clients()?;
    }

    let (mut tally, mut failures) = (Tally::default(), Failures::default());
    let mut hear = |line: &str| {
        tally.add(line);
        failures.add(line);
    };
    let all = programs::build(&options.package)?;
    let lanes = thread::available_parallelism().map_or(1, usize::from);
    // Cargo takes it for a mistake to be asked for examples where there is no library.
    let has_examples = all.iter().any(programs::Program::is_of_library);
    let mut failed = programs::run(all, lanes, &arguments, &mut hear)?;
    let mut examples = programs::of_documentation(&options.package);
    examples.arg("--").args(&arguments);
    if has_examples && !listen(&mut examples, &mut hear)?.success() {
        failed.push("examples of the documentation".to_owned());
    }
    for (option, names) in &left_out {
        println!("{option}: the tests named {names}* were left out");
    }
    for line in failures.lines() {
        println!("{line}");
    }
    for name in &failed {
        println!("failed: {name}");
    }
    if tally.passed + tally.failed == 0 {
        println!("not a single test ran");
    }
    println!("passed {}, failed {}, ignored {}", tally.passed, tally.failed, tally.ignored);
    let good = failed.is_empty() && tally.failed == 0 && tally.passed > 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The sums over all `test result:` lines.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for part in result.split(['.', ';']) {
            let Some((count, what)) = part.trim().split_once(' ') else { continue };
            let Ok(count) = count.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

/// Installs what the browser tests need and this machine lacks.
fn provide_browser() -> Result<(), String> {
    let mut packages = missing_packages_of_node();
    match env::var("CHROMIUM") {
        Ok(path) if !Path::new(&path).exists() => {
            return Err(format!("CHROMIUM names {path}, which is not there"));
        }
        Ok(_) => {}
        Err(_) if Path::new("/usr/bin/chromium").exists() => {}
        Err(_) => packages.push("chromium"),
    }
    if !packages.is_empty() {
        install_packages(
            &packages,
            "install that (CHROMIUM may name a browser elsewhere), or leave the browser's tests out: \
             cargo xtask test --no-browser",
        )?;
    }

    install_node_packages(BROWSER_TESTS)
}

fn missing_packages_of_node() -> Vec<&'static str> {
    let programs = [("node", "nodejs"), ("npm", "npm")];
    let missing = programs.into_iter().filter(|(program, _)| output_of(program, &["--version"]).is_none());
    missing.map(|(_, package)| package).collect()
}

fn install_node_packages(folder: &str) -> Result<(), String> {
    let path = root().join(folder);
    if !node_packages_are_current(&path) {
        println!("installing the node packages of {folder}");
        must(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(path))?;
    }
    Ok(())
}

/// Installs the client libraries: node packages, and Python's in an environment of their own.
fn provide_clients() -> Result<(), String> {
    let mut packages = missing_packages_of_node();
    if output_of("python3", &["-c", "import venv, ensurepip"]).is_none() {
        packages.push("python3-venv");
    }
    if output_of("curl", &["--version"]).is_none() {
        packages.push("curl");
    }
    if !packages.is_empty() {
        let instead = "install that, or leave the clients' tests out: cargo xtask test --no-clients";
        install_packages(&packages, instead)?;
    }
    install_node_packages(CLIENT_TESTS)?;

    let folder = root().join(CLIENT_TESTS).join("python");
    let wanted = fs::read_to_string(folder.join("requirements.txt")).map_err(|error| error.to_string())?;
    // A copy of what was installed, beside it.
    let followed = folder.join(".venv/requirements.txt");
    if fs::read_to_string(&followed).is_ok_and(|followed| followed == wanted) {
        return Ok(());
    }
    println!("installing the Python packages of {CLIENT_TESTS}");
    must(Command::new("python3").args(["-m", "venv", "--clear", ".venv"]).current_dir(&folder))?;
    let mut pip = Command::new(folder.join(".venv/bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"]);
    must(pip.current_dir(&folder))?;
    fs::write(followed, wanted).map_err(|error| error.to_string())
}

/// Installs the proxies that this machine lacks. On a machine with systemd, Debian starts them as services,
/// too.
fn provide_proxies() -> Result<(), String> {
    let folders = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = env::split_paths(&folders).chain([PathBuf::from("/usr/sbin")]).collect();
    let is_there = |program: &str| folders.iter().any(|folder| folder.join(program).exists());
    let missing: Vec<&str> =
        PROXIES.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    install_packages(&missing, "install that, or leave the proxies' tests out: cargo xtask test --no-proxies")
}

/// Installs schemathesis where the tests look for it, in the versions of `requirements.txt`.
fn provide_schemathesis() -> Result<(), String> {
    let folder = root().join(GENERATED_TESTS);
    let (list, venv) = (folder.join("requirements.txt"), folder.join("venv"));
    // A copy of the list is written last: what is another list, or none, was not installed whole.
    let installed = venv.join("requirements.txt");
    let wanted = fs::read(&list).map_err(|error| format!("{}: {error}", list.display()))?;
    if fs::read(&installed).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    if output_of("python3", &["-c", "import ensurepip"]).is_none() {
        install_packages(
            &["python3-venv"],
            "install that, or leave the generated requests out: cargo xtask test --no-generated",
        )?;
    }
    println!("installing schemathesis into {GENERATED_TESTS}/venv");
    must(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    must(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--requirement"]).arg(&list))?;
    fs::write(&installed, wanted).map_err(|error| format!("{}: {error}", installed.display()))
}

/// The last argument says what a person can do where this cannot be done.
fn install_packages(packages: &[&str], instead: &str) -> Result<(), String> {
    let names = packages.join(" ");
    let by_hand = format!("the tests need {names}: {instead}");
    if output_of("apt-get", &["--version"]).is_none() {
        return Err(format!("no apt-get here; {by_hand}"));
    }
    let is_root = output_of("id", &["-u"]).as_deref() == Some("0");
    if !is_root && output_of("sudo", &["--version"]).is_none() {
        return Err(format!("not root, and no sudo here; {by_hand}"));
    }

    println!("installing {names}");
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new(if is_root { "env" } else { "sudo" });
        command.args(if is_root { &[][..] } else { &["env"] });
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(arguments);
        must(&mut command).map_err(|problem| format!("{problem}; {by_hand}"))
    };
    apt_get(&["update"])?;
    apt_get(&[&["install", "--yes", "--no-install-recommends"], packages].concat())
}

/// npm leaves a copy of the lock file it followed: older than the lock file means that the lock file has
/// changed.
fn node_packages_are_current(folder: &Path) -> bool {
    let modified = |path: &str| fs::metadata(folder.join(path)).and_then(|metadata| metadata.modified()).ok();
    match (modified("node_modules/.package-lock.json"), modified("package-lock.json")) {
        (Some(followed), Some(lock)) => followed >= lock,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn result_lines_are_added_up() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 40 passed; 2 failed; 0 ignored; 7 measured; 9 filtered out; finished in 12.50s",
            "a test that prints test result: ok. 99 passed",
        ] {
            tally.add(line);
        }
        assert_eq!(tally, Tally { passed: 43, failed: 2, ignored: 1 });
    }

    #[test]
    fn colours_do_not_hide_the_counts() {
        let mut tally = Tally::default();
        tally.add(
            "test result: \u{1b}[32mok\u{1b}[m. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        assert_eq!(tally, Tally { passed: 5, failed: 0, ignored: 0 });
    }
}
