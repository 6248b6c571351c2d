//! The one definition of an option, and the table of all of them.

use std::fmt;
use std::sync::Arc;

use crate::kind::{Form, Kind};
use crate::{VARIABLE_PREFIX, layers::Given};

/// Says what is wrong with one text.
type Check = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Makes the option's value of texts that were checked one by one.
type Read<T> = Arc<dyn Fn(&[&str]) -> Result<T, String> + Send + Sync>;

/// The text of a list without entries, in a variable and with a flag. An empty text is a mistake there: it is
/// mostly a variable of a script that is not set.
pub(crate) const EMPTY_LIST: &str = "none";

/// How a list is written in one text: in a variable, and with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Separator {
    /// Commas, in both.
    Comma,
    /// Semicolons in a variable; a flag has one entry, because entries have commas of their own.
    Semicolon,
}

/// How many texts an option has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One.
    One,
    /// One, or this word, which stands for what the server decides by itself.
    Optional(&'static str),
    /// Any number.
    Many(Separator),
}

/// An option that is being defined, whose value has the type `T`.
#[derive(Clone)]
pub struct Spec<T> {
    form: Form,
    shape: Shape,
    default: Vec<String>,
    default_means: Option<&'static str>,
    value_name: Option<&'static str>,
    is_reloadable: bool,
    is_secret: bool,
    check: Check,
    read: Read<T>,
}

/// An option, without its type.
#[derive(Clone)]
pub struct Definition {
    /// Its name: that of the flag and of the key, such as `max-connections`.
    pub name: String,
    /// Its variable, such as `FANFARE_MAX_CONNECTIONS`.
    pub variable: String,
    /// One sentence or a few.
    pub help: &'static str,
    /// What its texts may be.
    pub form: Form,
    /// How many texts it has.
    pub shape: Shape,
    /// The texts of its default.
    pub default: Vec<String>,
    /// What the default is, where its text does not say so.
    pub default_means: Option<&'static str>,
    /// What stands for the value in the help of the flag.
    pub value_name: String,
    /// Whether a running server can change it.
    pub is_reloadable: bool,
    /// Whether its value is never printed.
    pub is_secret: bool,
    check: Check,
}

/// A table of the file, and the options in it.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its name, as it stands in brackets.
    pub name: &'static str,
    /// One sentence about it.
    pub about: &'static str,
    /// Its options.
    pub definitions: Vec<Definition>,
}

/// All options.
#[derive(Clone, Debug)]
pub struct Table {
    /// Their sections, in the order of the documentation.
    pub sections: Vec<Section>,
}

fn spec<T, V: 'static>(kind: Kind<V>, shape: Shape, read: Read<T>) -> Spec<T> {
    let parse = kind.parse;
    Spec {
        form: kind.form,
        shape,
        default: Vec::new(),
        default_means: None,
        value_name: None,
        is_reloadable: false,
        is_secret: kind.is_secret,
        check: Arc::new(move |text| match shape {
            Shape::Optional(word) if text == word => Ok(()),
            Shape::Optional(word) => parse(text).map(drop).map_err(|error| format!("{error}, or {word}")),
            Shape::One | Shape::Many(_) => parse(text).map(drop),
        }),
        read,
    }
}

/// An option with one value.
pub fn one<V: 'static>(kind: Kind<V>) -> Spec<V> {
    let parse = Arc::clone(&kind.parse);
    spec(kind, Shape::One, Arc::new(move |texts| parse(texts.first().copied().unwrap_or_default())))
}

/// An option with one value or none. This word is written for none, which is the default.
pub fn optional<V: 'static>(kind: Kind<V>, word: &'static str, means: &'static str) -> Spec<Option<V>> {
    let parse = Arc::clone(&kind.parse);
    let read = move |texts: &[&str]| match texts.first() {
        Some(text) if *text != word => parse(text).map(Some),
        _ => Ok(None),
    };
    let spec = spec(kind, Shape::Optional(word), Arc::new(read));
    Spec { default: vec![word.to_owned()], default_means: Some(means), ..spec }
}

/// An option with any number of values.
pub fn many<V: 'static>(kind: Kind<V>, separator: Separator) -> Spec<Vec<V>> {
    let parse = Arc::clone(&kind.parse);
    let read = move |texts: &[&str]| texts.iter().map(|text| parse(text)).collect();
    spec(kind, Shape::Many(separator), Arc::new(read))
}

impl<T> Spec<T> {
    /// The text of its default. An option without one is an empty list.
    pub fn default(mut self, text: impl Into<String>) -> Spec<T> {
        self.default = vec![text.into()];
        self.default_means = None;
        self
    }

    /// The texts of the default of a list.
    pub fn defaults<const COUNT: usize>(mut self, texts: [&str; COUNT]) -> Spec<T> {
        self.default = texts.map(str::to_owned).into();
        self
    }

    /// What stands for the value in the help of the flag.
    pub fn value_name(mut self, name: &'static str) -> Spec<T> {
        self.value_name = Some(name);
        self
    }

    /// A running server can change it.
    pub fn reloadable(mut self) -> Spec<T> {
        self.is_reloadable = true;
        self
    }

    /// The definition of the option whose field has this name.
    pub(crate) fn definition(self, field: &str, help: &'static str) -> Definition {
        let name = field.replace('_', "-");
        let variable = format!("{VARIABLE_PREFIX}{}", field.to_ascii_uppercase());
        let value_name = self.value_name.map(str::to_owned).unwrap_or_else(|| match &self.form {
            Form::Count(_) => "COUNT".to_owned(),
            Form::Size => "SIZE".to_owned(),
            Form::Time(_) => "TIME".to_owned(),
            Form::Switch => "true|false".to_owned(),
            Form::Choice(_) | Form::Text(_) => field.to_ascii_uppercase(),
        });
        Definition {
            name,
            variable,
            help: help.trim(),
            form: self.form,
            shape: self.shape,
            default: self.default,
            default_means: self.default_means,
            value_name,
            is_reloadable: self.is_reloadable,
            is_secret: self.is_secret,
            check: self.check,
        }
    }

    /// The value of texts that the definition has checked.
    ///
    /// # Errors
    /// The texts are not right after all.
    pub(crate) fn value(&self, given: &Given) -> Result<T, String> {
        let texts: Vec<&str> = given.texts.iter().map(|(text, _)| text.as_str()).collect();
        (self.read)(&texts)
    }
}

impl Definition {
    /// Checks one text. An error of a secret does not repeat it.
    ///
    /// # Errors
    /// What is wrong, and what is allowed.
    pub fn check(&self, text: &str) -> Result<(), String> {
        let checked = (self.check)(text);
        if self.is_secret {
            return checked.map_err(|_| format!("this is not {}", self.allowed()));
        }
        checked
    }

    /// What is allowed, in words that continue "write".
    pub fn allowed(&self) -> String {
        let allowed = self.form.allowed();
        match self.shape {
            Shape::Optional(word) => format!("{allowed}, or {word}"),
            Shape::Many(_) => format!("a list; each entry is {allowed}"),
            Shape::One => allowed,
        }
    }

    /// The texts of a list that was written as one text, in a variable or with a flag.
    pub(crate) fn split(&self, text: &str, is_variable: bool) -> Vec<String> {
        let separator = match self.shape {
            Shape::Many(_) if text == EMPTY_LIST => return Vec::new(),
            Shape::Many(Separator::Comma) => ',',
            Shape::Many(Separator::Semicolon) if is_variable => ';',
            Shape::Many(Separator::Semicolon) | Shape::One | Shape::Optional(_) => {
                return vec![text.to_owned()];
            }
        };
        text.split(separator).map(|entry| entry.trim().to_owned()).collect()
    }

    /// The option's value as a file has it.
    pub(crate) fn toml<'t>(&self, texts: impl IntoIterator<Item = &'t str>) -> String {
        let literal = |text: &str| match self.shape {
            Shape::Optional(word) if word == text => quoted(text),
            _ if self.form.is_bare() => text.to_owned(),
            _ => quoted(text),
        };
        let literals: Vec<String> = texts.into_iter().map(literal).collect();
        match self.shape {
            Shape::Many(_) => format!("[{}]", literals.join(", ")),
            Shape::One | Shape::Optional(_) => literals.concat(),
        }
    }

    /// Its default as a file has it.
    pub(crate) fn default_toml(&self) -> String {
        self.toml(self.default.iter().map(String::as_str))
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Definition")
            .field("name", &self.name)
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

impl Table {
    /// All options, in their order.
    pub fn definitions(&self) -> impl Iterator<Item = &Definition> {
        self.sections.iter().flat_map(|section| &section.definitions)
    }

    /// The option of this name, with its section and its place among all.
    pub(crate) fn find(&self, name: &str) -> Option<(usize, &Section, &Definition)> {
        let all = self
            .sections
            .iter()
            .flat_map(|section| section.definitions.iter().map(move |definition| (section, definition)));
        let found = all.enumerate().find(|(_, (_, definition))| definition.name == name);
        found.map(|(index, (section, definition))| (index, section, definition))
    }
}
