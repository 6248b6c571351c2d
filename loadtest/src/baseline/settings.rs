//! The settings of every contender: a folder each in `baselines/`, which this binary carries. What a folder
//! says can be overridden with `--set`.
//!
//! A folder has a `settings.toml`, and the program's own configuration files beside it. In arguments, the
//! environment and files `{port}` and the other names in [`Names`] are filled in when the server is started.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{programs, token};
use crate::failure::{Failure, Outcome};
use crate::target::Dialect;

macro_rules! shipped {
    ($($path:literal),* $(,)?) => {
        /// Every file of settings by its path in `baselines/`.
        const SHIPPED: &[(&str, &str)] = &[$(($path, include_str!(concat!("../../baselines/", $path)))),*];
    };
}

shipped![
    "threads/settings.toml",
    "bare/settings.toml",
    "axum-sse/settings.toml",
    "hyper/settings.toml",
    "node/settings.toml",
    "node/server.js",
    "nchan/settings.toml",
    "nchan/nginx.conf",
    "durable-streams/settings.toml",
    "go/settings.toml",
    "mercure/settings.toml",
    "mercure/Caddyfile",
    "centrifugo/settings.toml",
    "centrifugo/centrifugo.json",
    "pushpin/settings.toml",
    "pushpin/pushpin.conf",
    "pushpin/routes",
    "fanfare/settings.toml",
    "fanfare-axum/settings.toml",
];

/// Those that `fanfare-load baseline` runs, in the order of every table.
pub(crate) const BASELINES: [&str; 11] = [
    "threads",
    "bare",
    "axum-sse",
    "hyper",
    "node",
    "nchan",
    "durable-streams",
    "go",
    "mercure",
    "centrifugo",
    "pushpin",
];

/// For a server that lives as long as a measurement, on loopback.
const KEY: &str = "a-key-for-measurements-that-protects-nothing";

/// What a contender is started with, and what is to be known of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    #[serde(skip)]
    name: String,
    /// The settings in a sentence.
    summary: String,
    pub(crate) dialect: Dialect,
    /// Whether it keeps topics apart; the others have one channel for everybody.
    #[serde(default = "yes")]
    pub(crate) topics: bool,
    /// The name or the path of its program. Built-in baselines have none.
    pub(super) program: Option<String>,
    /// Other programs that it starts itself.
    #[serde(default)]
    also_needs: Vec<String>,
    #[serde(default)]
    pub(crate) arguments: Vec<String>,
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
    /// Names of the files that are written into its folder `{scratch}` before it starts.
    #[serde(default)]
    files: Vec<String>,
    /// Whether an origin of this tool stands behind it.
    #[serde(default)]
    pub(super) origin: bool,
    /// Where it is published to, if that is not the port that it is subscribed at.
    publish_url: Option<String>,
    /// What the publisher has to show.
    #[serde(default)]
    publish_headers: Vec<String>,
    /// How many streams may be under way at a time while they open, where more is too much for it.
    pub(crate) connect_burst: Option<usize>,
    /// Whether publishes may follow each other on a connection without waiting for the answers.
    #[serde(default = "yes")]
    pub(crate) pipelines: bool,
    /// A part of the version that these settings were written for.
    version_expected: Option<String>,
    /// What prints the version.
    #[serde(default)]
    version_commands: Vec<VersionCommand>,
    /// What it cannot do that the others can.
    pub(crate) cannot: String,
    /// What an expert on it would object to in its settings, or in the comparison.
    pub(crate) objections: Vec<String>,
    /// The files by name.
    #[serde(skip)]
    texts: BTreeMap<String, String>,
    /// What `--set` has changed, as it was written.
    #[serde(skip)]
    overridden: Vec<String>,
}

/// A command that prints a version.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionCommand {
    /// The program and its arguments.
    run: Vec<String>,
    /// A part of the line that has the version, where there are more lines with digits.
    #[serde(default)]
    line: String,
}

fn yes() -> bool {
    true
}

/// Everything that a server is started with, for the report.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct InFull {
    pub(crate) program: Option<String>,
    pub(crate) version_expected: Option<String>,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    /// Text of the configuration files by name, before anything is filled in.
    pub(crate) files: BTreeMap<String, String>,
    /// What of this was overridden, as it was written: `KEY=VALUE`.
    pub(crate) overridden: Vec<String>,
}

/// What the names in braces stand for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Names<'a> {
    /// Port to subscribe at.
    pub(crate) port: u16,
    /// Port to publish at, where it is another one.
    pub(crate) control_port: u16,
    /// Port of the origin.
    pub(crate) origin_port: u16,
    /// The folder of its files.
    pub(crate) scratch: &'a str,
}

impl Names<'_> {
    /// Fills in the names; other braces are plain text.
    pub(crate) fn fill(&self, text: &str) -> Outcome<String> {
        let mut text = text
            .replace("{port}", &self.port.to_string())
            .replace("{control_port}", &self.control_port.to_string())
            .replace("{origin_port}", &self.origin_port.to_string())
            .replace("{scratch}", self.scratch)
            .replace("{key}", KEY);
        if text.contains("{publisher_token}") {
            text = text.replace("{publisher_token}", &token::publisher(KEY));
        }
        if text.contains("{cores}") {
            text = text.replace("{cores}", &crate::sys::allowed_cores().len().to_string());
        }
        if text.contains("{descriptors}") {
            text = text.replace("{descriptors}", &crate::sys::descriptor_limit().0.to_string());
        }
        if text.contains("{nchan_module}") {
            text = text.replace("{nchan_module}", &programs::find_nchan()?.to_string_lossy());
        }
        Ok(text)
    }
}

impl Settings {
    /// The settings in the folder of a name.
    pub(crate) fn shipped(name: &str) -> Outcome<Settings> {
        let text = |file: &str| {
            let path = format!("{name}/{file}");
            let found = SHIPPED.iter().find(|(of, _)| *of == path);
            found.map(|(_, text)| *text).ok_or_else(|| Failure::new(format!("there is no file `{path}`")))
        };
        let mut settings: Settings = toml::from_str(text("settings.toml")?)
            .map_err(|error| Failure::new(format!("{name}/settings.toml: {error}")))?;
        settings.name = name.to_owned();
        for file in &settings.files {
            settings.texts.insert(file.clone(), text(file)?.to_owned());
        }
        Ok(settings)
    }

    /// Changes a setting, written `KEY=VALUE`.
    pub(crate) fn set(&mut self, assignment: &str) -> Outcome<()> {
        let wrong = |what: String| Failure::new(format!("--set {}: {what}", self.name));
        let Some((key, value)) = assignment.split_once('=') else {
            return Err(wrong(format!("`{assignment}` has no `=`: write KEY=VALUE")));
        };
        let list = || words(value).map_err(|what| wrong(format!("`{value}`: {what}")));
        let variable = key.strip_prefix("environment.").filter(|name| !name.is_empty());
        let file = key.strip_prefix("files.").filter(|name| self.texts.contains_key(*name));
        match (key, variable, file) {
            ("program", ..) if self.program.is_some() => self.program = Some(value.to_owned()),
            ("arguments", ..) => self.arguments = list()?,
            ("arguments+", ..) => self.arguments.extend(list()?),
            (_, Some(variable), _) => drop(self.environment.insert(variable.to_owned(), value.to_owned())),
            (_, _, Some(file)) => {
                let text =
                    std::fs::read_to_string(value).map_err(|error| wrong(format!("{value}: {error}")))?;
                self.texts.insert(file.to_owned(), text);
            }
            _ => {
                let keys = self.keys().join(", ");
                return Err(wrong(format!("there is no setting `{key}`; there are {keys}")));
            }
        }
        self.overridden.push(assignment.to_owned());
        Ok(())
    }

    /// The keys that `set` takes.
    fn keys(&self) -> Vec<String> {
        let program = self.program.iter().map(|_| "program".to_owned());
        let fixed = ["arguments", "arguments+", "environment.NAME"].map(str::to_owned);
        program.chain(fixed).chain(self.texts.keys().map(|file| format!("files.{file}"))).collect()
    }

    /// Fills in a name of the contender's own, such as the backend of Fanfare.
    pub(crate) fn replace(&mut self, name: &str, value: &str) {
        for argument in &mut self.arguments {
            *argument = argument.replace(name, value);
        }
    }

    pub(crate) fn in_full(&self) -> InFull {
        InFull {
            program: self.program.clone(),
            version_expected: self.version_expected.clone(),
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            files: self.texts.clone(),
            overridden: self.overridden.clone(),
        }
    }

    /// The settings in a sentence, with what was overridden.
    pub(crate) fn sentence(&self) -> String {
        match self.overridden.join(", ") {
            none if none.is_empty() => self.summary.clone(),
            overridden => format!("{}; overridden: {overridden}", self.summary),
        }
    }

    /// What was overridden, as it was written.
    pub(crate) fn overridden(&self) -> &[String] {
        &self.overridden
    }

    /// Its program; none is built in. An error says what is not installed.
    pub(crate) fn find(&self) -> Outcome<Option<PathBuf>> {
        for name in &self.also_needs {
            programs::find(name)?;
        }
        if self.texts.values().any(|text| text.contains("{nchan_module}")) {
            programs::find_nchan()?;
        }
        self.program.as_deref().map(programs::find).transpose()
    }

    /// The version that a program tells; nothing where it tells none. Without a program it is that of this
    /// tool and of what the built-in server is made of.
    pub(crate) fn version(&self, program: Option<&std::path::Path>) -> Option<String> {
        let Some(program) = program else {
            return Some(super::own_version(&self.name));
        };
        let mut told = Vec::new();
        for command in &self.version_commands {
            let fill = |word: &String| word.replace("{program}", &program.to_string_lossy());
            let mut words = command.run.iter().map(fill);
            let asked = words.next().and_then(|name| programs::find(&name).ok());
            let output = asked.and_then(|asked| programs::output_of(&asked, &words.collect::<Vec<_>>()));
            let wanted = |line: &&str| {
                line.contains(&command.line) && line.contains(|letter: char| letter.is_ascii_digit())
            };
            let line =
                output.as_deref().and_then(|text| text.lines().map(str::trim).find(wanted)).map(one_line);
            told.extend(line.filter(|line| !told.contains(line)));
        }
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// Says that these settings were written for another version than the program's.
    pub(crate) fn version_differs(&self, told: Option<&str>) -> Option<String> {
        let expected = self.version_expected.as_deref()?;
        let told = told.unwrap_or("unknown");
        let differs = format!("the version of {} is {told}, its settings are for {expected}", self.name);
        (!told.contains(expected)).then_some(differs)
    }

    /// Where it is published to, if that is not the port that it is subscribed at.
    pub(crate) fn publish_url(&self, names: &Names<'_>) -> Outcome<Option<String>> {
        self.publish_url.as_deref().map(|url| names.fill(url)).transpose()
    }

    /// What the publisher has to show.
    pub(crate) fn publish_headers(&self) -> Outcome<Vec<String>> {
        self.publish_headers.iter().map(|header| Names::default().fill(header)).collect()
    }

    /// Whether it needs the folder `{scratch}`.
    pub(super) fn keeps_files(&self) -> bool {
        let mut texts = self.arguments.iter().chain(self.environment.values());
        !self.files.is_empty() || texts.any(|text| text.contains("{scratch}"))
    }

    /// Writes its files into a folder.
    pub(super) fn write_files(&self, names: &Names<'_>) -> Outcome<()> {
        for (name, text) in &self.texts {
            let path = PathBuf::from(names.scratch).join(name);
            std::fs::write(&path, names.fill(text)?)
                .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        }
        Ok(())
    }

    /// Everything as text, to read and to write own files after.
    pub(super) fn shown(&self) -> Outcome<String> {
        let path = format!("{}/settings.toml", self.name);
        let shipped = SHIPPED.iter().find(|(of, _)| *of == path).map_or("", |(_, text)| text);
        let mut text = format!("=== {path}\n{shipped}");
        for line in &self.overridden {
            text.push_str(&format!("=== overridden: {line}\n"));
        }
        for (file, content) in &self.texts {
            text.push_str(&format!("=== {}/{file}\n{content}", self.name));
        }
        Ok(text)
    }
}

/// Arguments with blanks between them, or a list of TOML for those that have blanks in them.
fn words(value: &str) -> Result<Vec<String>, String> {
    if !value.starts_with('[') {
        return Ok(value.split_whitespace().map(str::to_owned).collect());
    }
    #[derive(Deserialize)]
    struct List {
        list: Vec<String>,
    }
    let list: Result<List, _> = toml::from_str(&format!("list = {value}"));
    list.map(|list| list.list).map_err(|error| format!("this is no list: {}", error.message()))
}

/// Tabs and several blanks as one blank, without the checksum that Go writes behind a module.
fn one_line(line: &str) -> String {
    let words = line.split_whitespace().filter(|word| !word.starts_with("h1:"));
    words.collect::<Vec<_>>().join(" ").trim_end_matches(':').to_owned()
}

/// Takes `NAME.KEY=VALUE` apart into the name of a contender and its assignment. The names that there are
/// come with the error.
pub(crate) fn of_contender<'a>(text: &'a str, names: &[String]) -> Outcome<(&'a str, &'a str)> {
    let wrong = |what: String| Failure::new(format!("--set {text}: {what}"));
    let Some((name, assignment)) = text.split_once('.') else {
        return Err(wrong("write NAME.KEY=VALUE, e.g. go.environment.GOGC=400".to_owned()));
    };
    match names.iter().any(|known| known == name) {
        true => Ok((name, assignment)),
        false => Err(wrong(format!("there is no contender `{name}`; there are {}", names.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders() -> Vec<&'static str> {
        let settings = SHIPPED.iter().filter_map(|(path, _)| path.strip_suffix("/settings.toml"));
        settings.collect()
    }

    #[test]
    fn every_shipped_folder_says_what_it_is_what_it_cannot_do_and_what_its_expert_objects_to() {
        assert!(BASELINES.iter().all(|name| folders().contains(name)));
        for name in folders() {
            let settings = Settings::shipped(name).unwrap();
            assert!(settings.summary.len() > 20, "{name}");
            assert!(!settings.objections.is_empty(), "{name}");
            assert!(settings.objections.iter().all(|objection| objection.ends_with('.')), "{name}");
            assert!(name.starts_with("fanfare") || !settings.cannot.is_empty(), "{name}");
            assert!(settings.program.is_none() || !settings.version_commands.is_empty(), "{name}");
            assert!(settings.program.is_some() || settings.files.is_empty(), "{name}");
            let keeps =
                ["node", "nchan", "durable-streams", "mercure", "centrifugo", "pushpin"].contains(&name);
            assert_eq!(settings.keeps_files(), keeps, "{name}");
        }
        // A file that no folder names would never be written.
        for (path, _) in SHIPPED {
            let (name, file) = path.split_once('/').unwrap();
            let settings = Settings::shipped(name).unwrap();
            assert!(file == "settings.toml" || settings.files.iter().any(|known| known == file), "{path}");
        }
    }

    /// A name that is not filled in would reach the program in braces.
    #[test]
    fn every_name_in_braces_is_one_that_is_filled_in() {
        let names = Names { port: 4_001, control_port: 4_002, origin_port: 4_003, scratch: "/scratch" };
        // Pushpin has variables of its own in the same form.
        let foreign = ["{libdir}", "{rundir}", "{ipc_prefix}", "{nchan_module}"];
        for name in BASELINES {
            let settings = Settings::shipped(name).unwrap();
            let texts =
                settings.arguments.iter().chain(settings.environment.values()).chain(settings.texts.values());
            for text in texts.filter(|text| !text.contains("createServer")) {
                let text = foreign.iter().fold(text.clone(), |text, name| text.replace(name, ""));
                let filled = names.fill(&text).unwrap();
                let left = filled.match_indices('{').find(|(at, _)| {
                    let inner = &filled[at + 1..];
                    inner.split_once('}').is_some_and(|(word, _)| {
                        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
                    })
                });
                assert!(left.is_none(), "{name}: {filled}");
            }
        }
        let centrifugo = Settings::shipped("centrifugo").unwrap();
        let filled = names.fill(&centrifugo.texts["centrifugo.json"]).unwrap();
        let json: serde_json::Value = serde_json::from_str(&filled).unwrap();
        assert_eq!(json["http_server"]["port"], 4_001);
        assert_eq!(json["http_api"]["key"], KEY);
    }

    #[test]
    fn arguments_environment_program_and_files_can_be_overridden_and_the_report_says_so() {
        let file = std::env::temp_dir().join(format!("fanfare-load-settings-{}.conf", std::process::id()));
        std::fs::write(&file, "mine {port}").unwrap();
        let mut settings = Settings::shipped("nchan").unwrap();
        let own_file = format!("files.nginx.conf={}", file.display());
        let all = [
            "program=/opt/nginx",
            "arguments=-c mine",
            "arguments+=-e stderr",
            r#"arguments+=["-g", "daemon off;"]"#,
            "environment.TZ=UTC=0",
            &own_file,
        ];
        for assignment in all {
            settings.set(assignment).unwrap();
        }
        std::fs::remove_file(&file).unwrap();
        let full = settings.in_full();
        assert_eq!(full.program.as_deref(), Some("/opt/nginx"));
        assert_eq!(full.arguments, ["-c", "mine", "-e", "stderr", "-g", "daemon off;"]);
        assert_eq!(full.environment["TZ"], "UTC=0");
        assert_eq!(full.files["nginx.conf"], "mine {port}");
        assert_eq!(full.overridden, all);
        assert!(settings.sentence().ends_with(&format!("; overridden: {}", all.join(", "))));
    }

    #[test]
    fn a_wrong_setting_or_contender_is_an_error_with_the_right_ones() {
        let mut settings = Settings::shipped("pushpin").unwrap();
        for wrong in ["argument=x", "files.nginx.conf=x", "environment.=x", "x=y"] {
            let told = settings.set(wrong).unwrap_err().to_string();
            let right = "program, arguments, arguments+, environment.NAME, files.pushpin.conf, files.routes";
            assert!(told.contains(right), "{told}");
        }
        assert!(settings.set("arguments=[1").unwrap_err().to_string().contains("no list"));
        assert!(settings.set("arguments").unwrap_err().to_string().contains("KEY=VALUE"));
        let told = settings.set("files.routes=/no/such/file").unwrap_err().to_string();
        assert!(told.contains("/no/such/file"), "{told}");
        assert!(settings.in_full().overridden.is_empty());
        // What is built in has no program to put in its place.
        let told = Settings::shipped("bare").unwrap().set("program=x").unwrap_err().to_string();
        assert!(told.ends_with("there are arguments, arguments+, environment.NAME"), "{told}");

        let names = ["go".to_owned(), "node".to_owned()];
        assert_eq!(of_contender("go.environment.GOGC=9", &names).unwrap(), ("go", "environment.GOGC=9"));
        let told = of_contender("gone.arguments=x", &names).unwrap_err().to_string();
        assert!(told.contains("`gone`") && told.contains("go, node"), "{told}");
        assert!(of_contender("go", &names).unwrap_err().to_string().contains("NAME.KEY=VALUE"));
    }

    #[test]
    fn the_version_of_what_is_built_in_is_that_of_this_tool_and_of_its_libraries() {
        let version = |name: &str| Settings::shipped(name).unwrap().version(None).unwrap();
        let own = format!("fanfare-load {}", env!("CARGO_PKG_VERSION"));
        assert_eq!((version("threads"), version("bare")), (own.clone(), own.clone()));
        let axum = version("axum-sse");
        assert!(axum.starts_with(&format!("{own}, axum 0.")) && axum.contains(", tokio 1."), "{axum}");
    }

    #[test]
    fn the_version_of_a_program_is_the_line_that_has_it() {
        let mut settings = Settings::shipped("go").unwrap();
        let shell = programs::find("sh").unwrap();
        let told = |settings: &mut Settings, script: &str, line: Option<&str>| {
            let run = ["{program}", "-c", script].map(str::to_owned).into();
            settings.version_commands = vec![VersionCommand { run, line: line.unwrap_or("").to_owned() }];
            settings.version(Some(&shell))
        };
        assert_eq!(
            told(&mut settings, "echo hello; echo ' v1.2\t(x) h1:JyY='", None).as_deref(),
            Some("v1.2 (x)")
        );
        assert_eq!(told(&mut settings, "echo a 1; echo b 2", Some("b ")).as_deref(), Some("b 2"));
        assert_eq!(told(&mut settings, "echo none", None), None);
        assert_eq!(told(&mut settings, "echo 1; exit 1", None), None);
        settings.version_expected = Some("1.2".to_owned());
        assert_eq!(settings.version_differs(Some("go 1.2.3")), None);
        assert!(settings.version_differs(None).unwrap().contains("unknown"));
        // The version of Go in the same line is not that of the program.
        let centrifugo = Settings::shipped("centrifugo").unwrap();
        assert!(centrifugo.version_differs(Some("Centrifugo v5.4.9 (Go version: go1.26.8)")).is_some());
        assert_eq!(centrifugo.version_differs(Some("Centrifugo v6.9.1 (Go version: go1.26.8)")), None);
    }
}
