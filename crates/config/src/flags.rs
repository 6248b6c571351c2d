//! The layer of the flags, for clap.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::CONFIG_VARIABLE;
use crate::definition::{Definition, Separator, Shape, Table};
use crate::kind::Form;
use crate::layers::Given;
use crate::problem::{Place, Problem};
use crate::settings::TABLE;

/// The flags of the server as they were given, not checked yet, and the file that they name.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// What `--config` or its variable names.
    pub config: Option<PathBuf>,
    given: Vec<(String, Vec<String>)>,
}

/// Reads the flags into the places of their options. Mistakes are added to the problems.
pub(crate) fn read(table: &Table, flags: &Flags, given: &mut [Option<Given>], problems: &mut Vec<Problem>) {
    for (name, values) in &flags.given {
        let Some((index, _, definition)) = table.find(name) else { continue };
        let place = Place::Flag(name.clone());
        let mut texts = Vec::new();
        for text in values.iter().flat_map(|value| definition.split(value, false)) {
            match definition.check(&text) {
                Ok(()) => texts.push((text, place.clone())),
                Err(text) => problems.push(Problem { place: place.clone(), text }),
            }
        }
        given[index] = Some(Given { texts, place });
    }
}

impl Flags {
    /// These flags: names and values. A name may come several times.
    pub fn of<'f>(flags: impl IntoIterator<Item = (&'f str, &'f str)>) -> Flags {
        let mut given: Vec<(String, Vec<String>)> = Vec::new();
        for (name, value) in flags {
            match given.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) => values.push(value.to_owned()),
                None => given.push((name.to_owned(), vec![value.to_owned()])),
            }
        }
        Flags { config: None, given }
    }

    /// The flags of the table, as arguments of a command.
    fn arguments(table: &'static Table, command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .env(CONFIG_VARIABLE)
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("File with the options; `fanfare config example` prints one. Without it, no file is read");
        table.sections.iter().fold(command.arg(config), |command, section| {
            section.definitions.iter().fold(command, |command, definition| {
                command.arg(argument(definition).help_heading(section.about))
            })
        })
    }
}

fn argument(definition: &'static Definition) -> Arg {
    let argument = Arg::new(definition.name.as_str())
        .long(definition.name.as_str())
        .value_name(definition.value_name.as_str())
        .help(help(definition));
    match (definition.shape, &definition.form) {
        (Shape::Many(_), _) => argument.action(ArgAction::Append),
        (_, Form::Switch) => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        (Shape::One | Shape::Optional(_), _) => argument,
    }
}

/// One sentence, what is allowed where that is a choice, the default, and the variable.
fn help(definition: &Definition) -> String {
    let mut help = definition.help.trim_end_matches('.').to_owned();
    if let Form::Choice(choices) = &definition.form {
        let described = choices.iter().map(|(name, about)| match *about {
            "" => (*name).to_owned(),
            about => format!("{name} ({about})"),
        });
        help.push_str(&format!(". One of: {}", described.collect::<Vec<_>>().join(", ")));
    }
    if let Shape::Many(separator) = definition.shape {
        help.push_str(match separator {
            Separator::Comma => "; may be given several times, or with commas",
            Separator::Semicolon => "; may be given several times",
        });
    }
    match definition.default_means {
        Some(means) => help.push_str(&format!(" [default: {means}]")),
        None if definition.default.is_empty() => {}
        None => help.push_str(&format!(" [default: {}]", definition.default.join(","))),
    }
    help.push_str(&format!(" [env: {}]", definition.variable));
    help
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Flags, clap::Error> {
        let mut flags = Flags::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.config = matches.get_one::<PathBuf>("config").cloned();
        for definition in TABLE.definitions() {
            if let Some(values) = matches.get_many::<String>(&definition.name) {
                self.given.push((definition.name.clone(), values.cloned().collect()));
            }
        }
        Ok(())
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        Flags::arguments(&TABLE, command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::arguments(&TABLE, command)
    }
}
