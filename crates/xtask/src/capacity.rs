//! `cargo xtask capacity`: how many nodes a load needs, what saturates first, and how long it takes until all
//! are back when a node is lost.
//!
//! [`figures`] are the measured values with their sources, [`plan`] is the arithmetic, and [`storm`]
//! simulates the loss of a node. docs/SCALING.md explains the results.

mod figures;
mod plan;
mod storm;
mod units;

use std::fmt::Write;
use std::process::ExitCode;

use figures::Figures;
use plan::{Bounds, Load, Node, Plan};
use storm::{Settings, Storm};
use units::{show_bandwidth, show_bytes, show_count, show_share, show_time};

/// What is to be served, and by what.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Subscribers that are connected at the same time
    #[arg(long, value_name = "COUNT", default_value = "1M", value_parser = units::number)]
    subscribers: f64,
    /// Topics; each subscriber reads one of them, unless --audience is given
    #[arg(long, value_name = "COUNT", default_value = "1k", value_parser = units::number)]
    topics: f64,
    /// Events that are published in a second, over all topics
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = units::number)]
    events: f64,
    /// Bytes of the data of one event
    #[arg(long, value_name = "BYTES", default_value = "200", value_parser = units::bytes)]
    event_bytes: f64,
    /// Subscribers that one event reaches: a count, or a share of all such as 1% [default: those of a topic]
    #[arg(long, value_name = "COUNT")]
    audience: Option<String>,
    /// Cores of a node
    #[arg(long, value_name = "COUNT", default_value = "16", value_parser = units::number)]
    cores: f64,
    /// Memory of a node
    #[arg(long, value_name = "BYTES", default_value = "64GiB", value_parser = units::bytes)]
    memory: f64,
    /// Network of a node, and of a NATS server, in each direction
    #[arg(long, value_name = "BANDWIDTH", default_value = "10Gbps", value_parser = units::bandwidth)]
    network: f64,
    /// At least so many nodes in each cluster
    #[arg(long, value_name = "COUNT", default_value = "2", value_parser = units::number)]
    nodes: f64,
    /// How much of a node is used in normal times
    #[arg(long, value_name = "SHARE", default_value = "60%", value_parser = units::share)]
    normal_use: f64,
    /// How much of a node is used at most when another node is lost
    #[arg(long, value_name = "SHARE", default_value = "90%", value_parser = units::share)]
    use_after_loss: f64,
    /// The server's --retry
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = units::seconds)]
    retry: f64,
    /// Until clients see that a node is lost; a process that ends is seen at once, a machine without power is
    /// not
    #[arg(long, value_name = "TIME", value_parser = units::seconds)]
    detection: Option<f64>,
    /// Connects that wait to be accepted, for each core
    #[arg(long, value_name = "COUNT", default_value = "4096", value_parser = units::number)]
    accept_queue: f64,
    /// Take another value for a figure, as in connect_us=30; can be given several times
    #[arg(long = "figure", value_name = "NAME=NUMBER")]
    figures: Vec<String>,
    /// Print the figures with their sources, and nothing else
    #[arg(long)]
    sources: bool,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    let figures = Figures::with(&options.figures)?;
    if options.sources {
        print!("{}", figures::describe(&figures));
    } else {
        print!("{}", report(options, &figures)?);
    }
    Ok(ExitCode::SUCCESS)
}

fn report(options: &Options, figures: &Figures) -> Result<String, String> {
    let (load, node) = (options.load()?, options.node());
    let (normal, after_loss) = (options.normal_use, options.use_after_loss);
    let bounds = Bounds { normal, after_loss, nodes: options.nodes.round() };
    let plan = Plan::new(&load, &node, &bounds, figures)?;
    let settings = Settings {
        retry_s: options.retry,
        detection_s: options.detection.unwrap_or_default(),
        accept_queue: options.accept_queue * options.cores,
    };
    let storm = storm::lose_a_node(&plan.load, plan.nodes, &node, &settings, figures);
    let mut text = String::new();
    describe_plan(&mut text, &load, &plan);
    describe_storm(&mut text, &plan, &storm);
    text.push_str("\nFigures and their sources: cargo xtask capacity --sources\n");
    Ok(text)
}

impl Options {
    fn load(&self) -> Result<Load, String> {
        let audience = match &self.audience {
            None => self.subscribers / self.topics,
            Some(text) if text.ends_with('%') => self.subscribers * units::share(text)?,
            Some(text) => units::number(text)?,
        };
        if audience > self.subscribers {
            return Err("an event cannot reach more subscribers than there are".to_owned());
        }
        let (subscribers, events, event_bytes) = (self.subscribers, self.events, self.event_bytes);
        Ok(Load { subscribers, events, event_bytes, audience })
    }

    fn node(&self) -> Node {
        Node { cores: self.cores, memory_bytes: self.memory, bits_per_second: self.network }
    }
}

/// `writeln!` into a text cannot fail.
fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{name:<34}{value}");
}

fn describe_plan(text: &mut String, load: &Load, plan: &Plan) {
    let deliveries = load.events * load.audience;
    line(text, "subscribers", &show_count(load.subscribers));
    line(text, "deliveries a second", &show_count(deliveries));
    line(text, "clusters, each with one stream", &show_count(plan.clusters));
    line(text, "nodes", &show_count(plan.nodes * plan.clusters));
    if plan.clusters > 1.0 {
        line(text, "nodes of each cluster", &show_count(plan.nodes));
    }
    text.push_str("\nEach node\n");
    let node = &plan.per_node;
    line(text, "  subscribers", &show_count(node.subscribers));
    line(text, "  deliveries a second", &show_count(node.deliveries));
    line(text, "  busy cores", &format!("{:.2}", node.cores));
    line(text, "  memory", &show_bytes(node.memory_bytes));
    line(text, "  network out", &show_bandwidth(node.bits_per_second));
    text.push_str("\nWhat is used, the scarcest first\n");
    for (resource, share) in &plan.used {
        line(text, &format!("  {}", resource.name()), &show_share(*share));
    }
}

fn describe_storm(text: &mut String, plan: &Plan, storm: &Storm) {
    let time = |at: Option<f64>| at.map_or("not within an hour".to_owned(), show_time);
    let _ = writeln!(text, "\nWhen one of the {} nodes of a cluster is lost", show_count(plan.nodes));
    line(text, "  subscribers that come back", &show_count(storm.lost));
    line(text, "  of them to each other node", &show_count(storm.per_node));
    line(text, "  50 % are back after", &time(storm.half_s));
    line(text, "  99 % are back after", &time(storm.nearly_all_s));
    line(text, "  100 % are back after", &time(storm.all_s));
    line(text, "  connects a second, each node", &show_count(storm.connects_per_second));
    line(text, "  connects that are sent again", &show_count(storm.dropped));
    line(text, "  live events wait at most", &show_time(storm.latency_s));
    line(text, "  used of the others afterwards", &show_share(storm.used_after));
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn report_of(arguments: &str) -> Result<String, String> {
        let words = std::iter::once("capacity").chain(arguments.split_whitespace());
        let Command { options } = Command::try_parse_from(words).map_err(|error| error.to_string())?;
        report(&options, &Figures::with(&options.figures)?)
    }

    /// The example of docs/SCALING.md.
    #[test]
    fn a_report_says_what_the_parts_calculate() {
        let text = report_of("--subscribers 1M --topics 100 --events 100").unwrap();
        for wanted in [
            "deliveries a second               1,000,000\n",
            "nodes                             2\n",
            "  subscribers                     500,000\n",
            "  busy cores                      2.22\n",
            "  subscribers that come back      500,000\n",
        ] {
            assert!(text.contains(wanted), "{wanted:?} in {text}");
        }
        assert_eq!(text, report_of("--subscribers 1M --audience 1% --events 100").unwrap());
        assert_eq!(text, report_of("--subscribers 1M --audience 10k --events 100").unwrap());
    }

    /// The cells of a row of docs/SCALING.md.
    fn row(arguments: &str) -> Vec<String> {
        let text = report_of(arguments).unwrap();
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).expect("a line");
            line[name.len()..].trim().to_owned()
        };
        let scarcest = text.lines().skip_while(|line| !line.starts_with("What is used")).nth(1).unwrap();
        vec![
            value("nodes "),
            value("  subscribers "),
            value("  busy cores "),
            value("  memory "),
            value("  network out "),
            scarcest[..34].trim().to_owned(),
            value("  99 % are back after "),
        ]
    }

    /// The tables of the document are what the command prints.
    #[test]
    fn the_tables_of_the_document_are_not_stale() {
        let text = std::fs::read_to_string(crate::root().join("docs/SCALING.md")).unwrap();
        let rows: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("| `--")).collect();
        assert!(rows.len() > 5, "{} rows", rows.len());
        for line in rows {
            let (arguments, cells) = line.split_once("` | ").expect("options and cells");
            let cells: Vec<&str> = cells.trim_end_matches(" |").split(" | ").collect();
            assert_eq!(cells, row(&format!("--{arguments}")), "--{arguments}");
        }
    }

    #[test]
    fn wrong_options_are_refused() {
        for wrong in
            ["--subscribers many", "--audience 2M", "--audience 101%", "--figure x=1", "--network 10"]
        {
            assert!(report_of(wrong).is_err(), "{wrong}");
        }
    }
}
