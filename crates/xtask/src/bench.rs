//! `cargo xtask bench`: runs the benchmarks one after the other, and can keep what they said together with
//! the machine they ran on.

use std::env::consts::ARCH;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread;

use clap::builder::PossibleValuesParser;

use crate::{cargo, listen, must, output_of, root};

const RESULTS: &str = "bench/results";
const NAMES: [&str; 6] = ["fanout_limit", "saturate", "head_of_line", "idle_memory", "micro", "many_topics"];

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The benchmarks to run, in this order
    #[arg(value_parser = PossibleValuesParser::new(NAMES), default_values = NAMES)]
    names: Vec<String>,
    /// Keep the output in bench/results/DATE-MACHINE/NAME.txt, with a machine.txt beside it
    #[arg(long)]
    save: bool,
    /// What to call this machine in the folder's name [default: its processor and number of cores]
    #[arg(long, value_name = "NAME", requires = "save")]
    machine: Option<String>,
}

/// Builds all benchmarks first, so that no compiler runs beside a measurement.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    must(&mut cargo(["build", "--release", "--package", "fanfare-bench", "--bins"]))?;
    let folder = if options.save { Some(results_folder(options.machine.as_deref())?) } else { None };

    for name in &options.names {
        println!("== {name}");
        let mut said = String::new();
        let mut bench = cargo(["run", "--quiet", "--release", "--package", "fanfare-bench", "--bin", name]);
        let status = listen(&mut bench, |line| {
            said.push_str(line);
            said.push('\n');
        })?;
        if !status.success() {
            return Err(format!("{name} ended with {status}; its output is not kept"));
        }
        if let Some(folder) = &folder {
            write(&root().join(folder).join(format!("{name}.txt")), &said)?;
        }
    }
    if let Some(folder) = folder {
        println!("kept in {folder}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes today's folder for this machine, with its machine.txt. Its path is relative to the workspace's root.
fn results_folder(name: Option<&str>) -> Result<String, String> {
    let machine = Machine::observe();
    let name = name.map_or_else(|| machine.short_name(), str::to_owned);
    let date = output_of("date", &["+%F"]).ok_or("`date +%F` fails")?;
    let folder = format!("{RESULTS}/{date}-{name}");
    let path = root().join(&folder);
    fs::create_dir_all(&path).map_err(|error| format!("{folder}: {error}"))?;
    write(&path.join("machine.txt"), &machine.describe())?;
    Ok(folder)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// What a reader must know to compare a figure with their own.
struct Machine {
    processor: String,
    cores: usize,
    memory: String,
    kernel: String,
    rustc: String,
}

impl Machine {
    fn observe() -> Machine {
        Machine {
            processor: proc_field("/proc/cpuinfo", "model name").unwrap_or_else(|| ARCH.to_owned()),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory: proc_field("/proc/meminfo", "MemTotal").unwrap_or_else(|| "unknown".to_owned()),
            kernel: output_of("uname", &["-sr"]).unwrap_or_else(|| "unknown".to_owned()),
            rustc: output_of("rustc", &["--version"]).unwrap_or_else(|| "unknown".to_owned()),
        }
    }

    fn describe(&self) -> String {
        let Machine { processor, cores, memory, kernel, rustc } = self;
        format!(
            "processor  {processor}\ncores      {cores}\nmemory     {memory}\nkernel     {kernel}\nrustc      {rustc}\n"
        )
    }

    /// Fit for a folder's name: lower-case words of letters and digits.
    fn short_name(&self) -> String {
        let plain = self.processor.replace("(R)", " ").replace("(TM)", " ").to_lowercase();
        let words = plain.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let processor = words.collect::<Vec<_>>().join("-");
        format!("{processor}-{}-cores", self.cores)
    }
}

/// The value of the first `name : value` line of a file under /proc.
fn proc_field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::Machine;

    #[test]
    fn a_machine_s_short_name_fits_a_folder() {
        let machine = Machine {
            processor: "Intel(R) Xeon(R) CPU @ 2.20GHz".to_owned(),
            cores: 2,
            memory: String::new(),
            kernel: String::new(),
            rustc: String::new(),
        };
        assert_eq!(machine.short_name(), "intel-xeon-cpu-2-20ghz-2-cores");
    }
}
