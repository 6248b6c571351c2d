//! The layers over each other.

use std::ffi::OsString;

use crate::definition::{Definition, Table};
use crate::file::FileText;
use crate::flags::Flags;
use crate::problem::{Place, Problems};
use crate::{environment, file, flags};

/// What a layer says of one option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Each text with its place.
    pub texts: Vec<(String, Place)>,
    /// The place of all.
    pub place: Place,
}

/// What the layers are made of, from weak to strong.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file that was named.
    pub file: Option<FileText>,
    /// The environment, also what is not of this program.
    pub variables: Vec<(OsString, OsString)>,
    /// The flags.
    pub flags: Flags,
}

/// The effective texts of all options, each of them right by itself.
#[derive(Clone, Debug)]
pub struct Values {
    pub(crate) table: &'static Table,
    pub(crate) given: Vec<Given>,
}

impl Table {
    /// Puts the layers over each other. A wrong value is a mistake also where a stronger layer has another
    /// one.
    ///
    /// # Errors
    /// All mistakes of all layers.
    pub fn layer(&'static self, sources: &Sources) -> Result<Values, Problems> {
        let mut problems = Vec::new();
        let mut given: Vec<Given> = self.definitions().map(default).collect();
        let nothing = vec![None; given.len()];
        if let Some(text) = &sources.file {
            let mut layer = nothing.clone();
            file::read(self, text, &mut layer, &mut problems);
            put(&mut given, layer);
        }
        let mut layer = nothing.clone();
        environment::read(self, &sources.variables, &mut layer, &mut problems);
        put(&mut given, layer);
        let mut layer = nothing;
        flags::read(self, &sources.flags, &mut layer, &mut problems);
        put(&mut given, layer);
        match problems.is_empty() {
            true => Ok(Values { table: self, given }),
            false => Err(Problems(problems)),
        }
    }
}

/// Puts a layer over the weaker ones.
fn put(given: &mut [Given], layer: Vec<Option<Given>>) {
    for (below, above) in given.iter_mut().zip(layer) {
        if let Some(above) = above {
            *below = above;
        }
    }
}

fn default(definition: &Definition) -> Given {
    let texts = definition.default.iter().map(|text| (text.clone(), Place::Default)).collect();
    Given { texts, place: Place::Default }
}

impl Values {
    /// The definition and the effective texts of each option.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Definition, &Given)> {
        self.table.definitions().zip(&self.given)
    }

    /// Where the option of this name has its value from.
    pub fn place(&self, name: &str) -> Option<&Place> {
        self.table.find(name).map(|(index, ..)| &self.given[index].place)
    }

    /// The options whose texts differ from those of others, of the same table.
    pub fn changes(&self, others: &Values) -> Vec<&'static Definition> {
        let texts = |given: &Given| given.texts.iter().map(|(text, _)| text.clone()).collect::<Vec<_>>();
        let both = self.iter().zip(&others.given);
        both.filter(|((_, own), other)| texts(own) != texts(other))
            .map(|((definition, _), _)| definition)
            .collect()
    }

    /// These values where a running server can change them, and others, of the same table, elsewhere.
    pub fn over(&self, others: &Values) -> Values {
        let both = self.iter().zip(&others.given);
        let given = both.map(
            |((definition, own), other)| {
                if definition.is_reloadable { own.clone() } else { other.clone() }
            },
        );
        Values { table: self.table, given: given.collect() }
    }
}
