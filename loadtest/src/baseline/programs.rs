//! The search for programs that this tool does not contain, their versions, and the way to become one: this
//! process turns into the program, so that the process number stays.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::clock::{self, SECOND};
use crate::failure::{Failure, Outcome};

const HOW: &str = "run loadtest/install-baselines.sh";
/// How long a program may take to tell its version.
const PATIENCE: u64 = 10 * SECOND;

/// The first program of a name beside this one, on the PATH, or where Debian, cargo and go put programs. A
/// name with a slash in it is a path.
pub(super) fn find(name: &str) -> Outcome<PathBuf> {
    if name.contains('/') {
        let program = PathBuf::from(name);
        let missing = || Failure::new(format!("{name} is no file"));
        return program.is_file().then_some(program).ok_or_else(missing);
    }
    let of = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty());
    let own = std::env::current_exe().ok();
    let mut places: Vec<PathBuf> =
        own.as_deref().and_then(Path::parent).map(PathBuf::from).into_iter().collect();
    places.extend(of("PATH").iter().flat_map(|paths| std::env::split_paths(paths).collect::<Vec<_>>()));
    // Debian keeps servers where an ordinary user's PATH does not look.
    places.push(PathBuf::from("/usr/sbin"));
    places.extend(of("GOBIN").map(PathBuf::from));
    places.extend(of("GOPATH").map(|path| PathBuf::from(path).join("bin")));
    if let Some(home) = of("HOME").map(PathBuf::from) {
        places.extend([home.join("go/bin"), home.join(".cargo/bin")]);
    }
    let mut places = places.into_iter();
    let found = places.find_map(|place| Some(place.join(name)).filter(|program| program.is_file()));
    found.ok_or_else(|| Failure::new(format!("`{name}` is not on the PATH: {HOW}")))
}

/// The module of nginx.
pub(super) fn find_nchan() -> Outcome<PathBuf> {
    let places = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/nginx/modules"];
    let mut modules = places.iter().map(|place| PathBuf::from(place).join("ngx_nchan_module.so"));
    let missing = || Failure::new(format!("nginx has no nchan module (libnginx-mod-nchan): {HOW}"));
    modules.find(|module| module.is_file()).ok_or_else(missing)
}

/// Turns this process into a program; returns only if that fails.
pub(super) fn become_program(command: &mut Command) -> Failure {
    let error = command.exec();
    Failure::new(format!("{}: {error}", command.get_program().display()))
}

/// What a command prints, on either output; nothing where it cannot be run or does not end.
pub(super) fn output_of(program: &Path, arguments: &[String]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    let ends = clock::now() + PATIENCE;
    // What a program says of itself fits into a pipe, so that it need not be read before the end.
    while child.try_wait().ok()?.is_none() {
        if clock::now() > ends {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    output.status.success().then(|| String::from_utf8_lossy(&text).into_owned())
}

/// Where a baseline of a process number keeps its files.
pub(crate) fn scratch_of(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("fanfare-load-{pid}"))
}

/// The folder of this process for files, which is made if it is not there.
pub(super) fn scratch() -> Outcome<PathBuf> {
    let directory = scratch_of(std::process::id());
    std::fs::create_dir_all(&directory)
        .map_err(|error| Failure::new(format!("{}: {error}", directory.display())))?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_missing_is_named_with_the_way_to_get_it() {
        let told = find("no-such-program-of-a-baseline").unwrap_err().to_string();
        assert!(
            told.contains("no-such-program-of-a-baseline") && told.contains("install-baselines.sh"),
            "{told}"
        );
        assert!(find("/no/such/file").unwrap_err().to_string().contains("/no/such/file is no file"));
        assert!(find("sh").unwrap().is_file());
    }

    #[test]
    fn a_command_tells_on_either_output_and_a_failure_tells_nothing() {
        let shell = find("sh").unwrap();
        let told = |script: &str| output_of(&shell, &["-c".to_owned(), script.to_owned()]);
        assert_eq!(told("echo 1.2; echo 3.4 >&2").as_deref(), Some("1.2\n3.4\n"));
        assert_eq!(told("echo 1.2; exit 1"), None);
        assert_eq!(output_of(Path::new("/no/such/file"), &[]), None);
    }
}
