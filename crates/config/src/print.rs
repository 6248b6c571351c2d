//! The effective values, and where each comes from.

use crate::layers::Values;

impl Values {
    /// The effective values as a file has them, each with its place. A secret is not printed: its line is a
    /// comment, and says where the secret comes from.
    pub fn print(&self) -> String {
        let mut text = String::new();
        let mut given = self.given.iter();
        for section in &self.table.sections {
            let separator = if text.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{separator}[{}]\n", section.name));
            for (definition, given) in section.definitions.iter().zip(&mut given) {
                let (name, place) = (&definition.name, &given.place);
                if definition.is_secret {
                    let what =
                        if given.texts.is_empty() { "no secret" } else { "a secret, which is not shown" };
                    text.push_str(&format!("# {name}: {what}  # {place}\n"));
                } else {
                    let value = definition.toml(given.texts.iter().map(|(text, _)| text.as_str()));
                    let line = format!("{name} = {value}");
                    text.push_str(&format!("{line:<48}  # {place}\n"));
                }
            }
        }
        text
    }
}
