//! `cargo xtask package`: the release binary, its completions and man pages, what it is made of, and the
//! Debian package of all.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::{bom, cargo, must, output_of, root, target_directory};

/// Where a package's binary is built. Other flags of the compiler than usual would empty the usual folder.
const TARGET: &str = "target/package";

/// Completions, man pages, the bill of materials and licences; `crates/server/Cargo.toml` names the files in
/// it.
const DOCUMENTS: &str = "target/package-documents";

/// The shells, with the names that their completions have there.
const SHELLS: [(&str, &str); 3] = [("bash", "fanfare.bash"), ("zsh", "_fanfare"), ("fish", "fanfare.fish")];

/// What is linked statically.
const MUSL: &str = "x86_64-unknown-linux-musl";

/// What to make.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Build for this target
    #[arg(long, value_name = "TRIPLE", conflicts_with = "musl")]
    target: Option<String>,
    /// Build a static binary: for the target x86_64-unknown-linux-musl, without a Debian package
    #[arg(long)]
    musl: bool,
    /// Make no Debian package of it
    #[arg(long)]
    no_deb: bool,
    /// Build the binary twice, in folders of different names, and compare them; make nothing else
    #[arg(long, conflicts_with_all = ["target", "musl", "no_deb"])]
    verify_reproducible: bool,
}

/// Builds, and says where the results are.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    if options.verify_reproducible {
        return verify_reproducible();
    }
    if options.musl {
        check_musl()?;
    }
    let target = if options.musl { Some(MUSL) } else { options.target.as_deref() };
    let arguments: Vec<&str> = target.iter().flat_map(|target| ["--target", target]).collect();
    must(build(&root())?.args(&arguments))?;

    let release = match target {
        Some(target) => format!("{TARGET}/{target}/release"),
        None => format!("{TARGET}/release"),
    };
    let binary = root().join(&release).join("fanfare");
    write_documents(&binary, target)?;
    println!("{release}/fanfare, {DOCUMENTS}");
    if options.no_deb || options.musl {
        return Ok(ExitCode::SUCCESS);
    }
    if output_of("cargo", &["deb", "--version"]).is_none() {
        return Err("cargo-deb is missing: cargo install --locked cargo-deb, or --no-deb".to_owned());
    }
    let mut deb = cargo(["deb", "--package", "fanfare-server", "--no-build"]);
    must(reproducible(deb.args(&arguments), &root())?)?;
    Ok(ExitCode::SUCCESS)
}

/// The build of the binary from the sources in a folder.
fn build(source: &Path) -> Result<Command, String> {
    let mut build =
        cargo(["build", "--release", "--locked", "--package", "fanfare-server", "--bin", "fanfare"]);
    reproducible(build.current_dir(source), source)?;
    Ok(build)
}

/// Says what is missing for a static binary before the build fails in the middle of it.
fn check_musl() -> Result<(), String> {
    let library = output_of("rustc", &["--print", "target-libdir", "--target", MUSL]);
    if !library.is_some_and(|folder| Path::new(&folder).is_dir()) {
        return Err(format!("there is no standard library for {MUSL}: rustup target add {MUSL}"));
    }
    if output_of("musl-gcc", &["--version"]).is_none() {
        return Err("musl-gcc is missing: it is in Debian's package musl-tools".to_owned());
    }
    Ok(())
}

/// Builds what is committed twice, as two people would, each in a folder of their own, and compares the
/// bytes.
fn verify_reproducible() -> Result<ExitCode, String> {
    let folder = target_directory().join("reproducible");
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(failed)?;
    }
    let mut binaries = Vec::new();
    // Of different lengths, too, so that no offset is equal by chance.
    for name in ["one", "another/place/with/a/longer/name"] {
        let copy = folder.join(name);
        fs::create_dir_all(&copy).map_err(failed)?;
        let mut clone = Command::new("git");
        must(clone.args(["clone", "--quiet", "--no-local"]).arg(root()).arg(&copy))?;
        must(&mut build(&copy)?)?;
        let binary = copy.join(TARGET).join("release/fanfare");
        binaries.push((fs::read(&binary).map_err(|error| format!("{}: {error}", binary.display()))?, binary));
    }
    let [(one, first), (another, second)] = &binaries[..] else { return Err("there are not two".to_owned()) };
    if one == another {
        println!("two builds in different folders are equal, byte by byte: {} bytes", one.len());
        return Ok(ExitCode::SUCCESS);
    }
    Err(format!("{} and {} differ", first.display(), second.display()))
}

/// Sets what makes equal results of equal sources: paths of this machine do not get into them, and times are
/// that of the commit.
fn reproducible<'a>(command: &'a mut Command, source: &Path) -> Result<&'a mut Command, String> {
    let root = source.canonicalize().map_err(|error| format!("the repository's folder: {error}"))?;
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
    if let Some(time) = output_of("git", &["-C", &root.to_string_lossy(), "log", "-1", "--format=%ct"]) {
        command.env("SOURCE_DATE_EPOCH", time);
    }
    Ok(command.env("CARGO_TARGET_DIR", root.join(TARGET)))
}

fn write_documents(binary: &Path, target: Option<&str>) -> Result<(), String> {
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
    bom::write(target, &folder.join("sbom.cdx.json"), &folder.join("third-party-licences.txt"))
}
