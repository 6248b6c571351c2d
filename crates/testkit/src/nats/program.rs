//! The program `nats-server`: where it is, and how it gets there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The version that [`nats_server`] installs.
pub const NATS_VERSION: &str = "2.15.3";

/// The environment variable that names another program.
const VARIABLE: &str = "TESTS_NATS_SERVER";

/// The path of a `nats-server`: what the environment variable `TESTS_NATS_SERVER` names, or else version
/// [`NATS_VERSION`] below the target directory of cargo. Where it is not there yet it is installed with
/// `go install`, once for all processes.
///
/// Debian's `nats-server` 2.9.10 can be used, too: `TESTS_NATS_SERVER=/usr/sbin/nats-server`.
///
/// # Errors
/// The variable names no program that tells its version, Go is missing, or the installation failed.
pub fn nats_server() -> Result<PathBuf, String> {
    if let Some(program) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        let program = PathBuf::from(program);
        version_of(&program).map_err(|error| format!("{VARIABLE} names no nats-server: {error}"))?;
        return Ok(program);
    }
    let tools = target_directory()?.join("tools");
    let directory = tools.join(format!("nats-server-{NATS_VERSION}"));
    let program = directory.join("nats-server");
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let path = tools.join("nats-server.lock");
    let lock = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    // Other processes wait here until the first one has installed the program.
    lock.lock().map_err(|error| format!("{}: {error}", path.display()))?;
    if !program.exists() {
        install(&directory)?;
    }
    version_of(&program).map(|_| program)
}

/// The version that a program prints, such as `2.15.3`.
pub(super) fn version_of(program: &Path) -> Result<String, String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let version = printed.strip_prefix("nats-server: v").map(str::to_owned);
    version.ok_or_else(|| format!("{} --version printed {printed:?}", program.display()))
}

/// Whether a version is at least `major.minor`.
pub(super) fn is_at_least(version: &str, major: u32, minor: u32) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

fn install(directory: &Path) -> Result<(), String> {
    let module = format!("github.com/nats-io/nats-server/v2@v{NATS_VERSION}");
    let advice = format!("install Go, or set {VARIABLE} to the path of a nats-server");
    let output = Command::new("go").args(["install", &module]).env("GOBIN", directory).output();
    let output = output.map_err(|error| format!("`go install {module}`: {error}; {advice}"))?;
    if output.status.success() {
        return Ok(());
    }
    let problem = String::from_utf8_lossy(&output.stderr);
    Err(format!("`go install {module}` failed ({}): {}; {advice}", output.status, problem.trim()))
}

/// The target directory of cargo, which marks it with a file. The running program lies below it.
fn target_directory() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let marked = program.ancestors().find(|directory| directory.join("CACHEDIR.TAG").exists());
    match (marked, std::env::var_os("CARGO_TARGET_DIR")) {
        (Some(directory), _) => Ok(directory.to_owned()),
        (None, Some(directory)) => Ok(PathBuf::from(directory)),
        (None, None) => Err(format!(
            "{} is not below a target directory of cargo: set {VARIABLE} to the path of a nats-server",
            program.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(
            is_at_least("2.15.3", 2, 10) && is_at_least("2.10.0-RC.1", 2, 10) && is_at_least("3.0", 2, 10)
        );
        assert!(!is_at_least("2.9.10", 2, 10) && !is_at_least("1.99.0", 2, 10) && !is_at_least("", 2, 10));
    }

    #[test]
    fn a_program_that_is_no_server_is_named() {
        let problem = version_of(Path::new("/bin/true")).unwrap_err();
        assert!(problem.contains("/bin/true"), "{problem}");
        let problem = version_of(Path::new("/nowhere/nats-server")).unwrap_err();
        assert!(problem.contains("/nowhere/nats-server"), "{problem}");
    }
}
