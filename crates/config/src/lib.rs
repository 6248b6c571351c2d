//! The configuration of the push server.
//!
//! Each option has one definition, in [`Settings`]: its name, what it may be, its default, one sentence of
//! help, its section, and whether a running server can change it. Everything else is made of these
//! definitions:
//!
//! ```text
//!                          +--> flag            --max-connections 7           Table::flags
//!                          +--> variable        FANFARE_MAX_CONNECTIONS=7     Table::layer
//!   definition in Settings +--> key of the file [limits] max-connections = 7  Table::layer
//!                          +--> reference page  docs/CONFIGURATION.md         Table::reference
//!                          +--> JSON schema     docs/fanfare.schema.json      Table::schema
//!                          +--> example         fanfare config example        Table::example
//! ```
//!
//! [`Table::layer`] puts the layers over each other. From weak to strong they are the default, the file, the
//! environment, and the flags. A list of a stronger layer takes the place of the weaker one. All mistakes of
//! all layers are reported together, and each names its [`Place`], what is allowed, and the nearest right
//! name.
//!
//! A new option is one entry in `settings.rs`. A new section is one block there, and its definitions may be
//! lists, paths of files, and secrets: see [`kind`] for what values can be.

#![forbid(unsafe_code)]

mod definition;
mod documents;
mod environment;
mod file;
mod flags;
pub mod kind;
mod layers;
mod nearest;
mod print;
mod problem;
mod schema;
mod settings;
#[cfg(test)]
mod tests;
mod values;

pub use definition::{Definition, Section, Separator, Shape, Spec, Table, many, one, optional};
pub use file::{FileText, MAX_FILE_BYTES};
pub use flags::Flags;
pub use layers::{Given, Sources, Values};
pub use problem::{Place, Problem, Problems};
pub use settings::{
    LaggardEnd, LogFormat, PRESENCE_PREFIX, PRESENCE_RETAIN_AGE, Settings, WhenFull, with_presence_rule,
};
pub use values::host_name::{self, HostName};
pub use values::http_url::{HttpUrl, InvalidHttpUrl};
pub use values::key_file::{KeyContent, KeyFile};
pub use values::listen::{self, Listen};
pub use values::nats_url::{InvalidNatsUrl, NatsUrl};
pub use values::retain_rule::RetainRule;
pub use values::secret::Secret;

/// The variable that names the file, as `--config` does.
pub const CONFIG_VARIABLE: &str = "FANFARE_CONFIG";

/// What the names of the variables begin with.
pub const VARIABLE_PREFIX: &str = "FANFARE_";
