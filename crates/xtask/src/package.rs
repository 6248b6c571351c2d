//! `cargo xtask package`: the release binary, its completions and man pages, and the Debian package of all.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::{cargo, must, output_of, root};

/// Where a package's binary is built. Other flags of the compiler than usual would empty the usual folder.
const TARGET: &str = "target/package";

/// Completions and man pages; `crates/server/Cargo.toml` names the files in it.
const DOCUMENTS: &str = "target/package-documents";

/// The shells, with the names that their completions have there.
const SHELLS: [(&str, &str); 3] = [("bash", "fanfare.bash"), ("zsh", "_fanfare"), ("fish", "fanfare.fish")];

/// What to make.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Build for this target, such as x86_64-unknown-linux-musl for a static binary
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Make no Debian package of it
    #[arg(long)]
    no_deb: bool,
}

/// Builds, and says where the results are.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    let target: Vec<&str> = options.target.iter().flat_map(|target| ["--target", target]).collect();
    let mut build =
        cargo(["build", "--release", "--locked", "--package", "fanfare-server", "--bin", "fanfare"]);
    must(reproducible(build.args(&target))?)?;

    let release = match &options.target {
        Some(target) => format!("{TARGET}/{target}/release"),
        None => format!("{TARGET}/release"),
    };
    let binary = root().join(&release).join("fanfare");
    write_documents(&binary)?;
    println!("{release}/fanfare, {DOCUMENTS}");
    if options.no_deb {
        return Ok(ExitCode::SUCCESS);
    }
    if output_of("cargo", &["deb", "--version"]).is_none() {
        return Err("cargo-deb is missing: cargo install --locked cargo-deb, or --no-deb".to_owned());
    }
    let mut deb = cargo(["deb", "--package", "fanfare-server", "--no-build"]);
    must(reproducible(deb.args(&target))?)?;
    Ok(ExitCode::SUCCESS)
}

/// Sets what makes equal results of equal sources: paths of this machine do not get into them, and times are that of
/// the commit.
fn reproducible(command: &mut Command) -> Result<&mut Command, String> {
    let root = root().canonicalize().map_err(|error| format!("the repository's folder: {error}"))?;
    let home = output_of("sh", &["-c", "echo ${CARGO_HOME:-$HOME/.cargo}"]).unwrap_or_default();
    let prefixes = [(root.display().to_string(), "/source"), (home, "/cargo")];
    let flags = |option: &str| {
        let each = prefixes.iter().filter(|(path, _)| !path.is_empty());
        each.map(|(path, name)| format!("{option}={path}={name}")).collect::<Vec<_>>()
    };
    // Separated by a sign that is in no path.
    command.env("CARGO_ENCODED_RUSTFLAGS", flags("--remap-path-prefix").join("\u{1f}"));
    for name in ["CFLAGS", "CXXFLAGS"] {
        command.env(name, flags("-ffile-prefix-map").join(" "));
    }
    if let Some(time) = output_of("git", &["log", "-1", "--format=%ct"]) {
        command.env("SOURCE_DATE_EPOCH", time);
    }
    Ok(command.env("CARGO_TARGET_DIR", root.join(TARGET)))
}

fn write_documents(binary: &Path) -> Result<(), String> {
    let folder = root().join(DOCUMENTS);
    let man = folder.join("man");
    let failed = |error: std::io::Error| format!("cannot write to {}: {error}", folder.display());
    // What an older version had is not for this package.
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(failed)?;
    }
    fs::create_dir_all(&man).map_err(failed)?;
    must(Command::new(binary).arg("man").arg(&man))?;
    for (shell, name) in SHELLS {
        let file = fs::File::create(folder.join(name)).map_err(failed)?;
        must(Command::new(binary).args(["completions", shell]).stdout(Stdio::from(file)))?;
    }
    Ok(())
}
