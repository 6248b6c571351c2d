//! What people read: the reference page and the example.

use crate::definition::{Definition, Separator, Shape, Table};
use crate::kind::Form;

/// Columns of a comment in the example.
const COLUMNS: usize = 96;

const INTRODUCTION: &str = "\
# Configuration

<!-- This page is generated: `cargo xtask config --bless` renews it. The definitions are in
     crates/config/src/settings.rs. -->

An option can be given in four ways, from weak to strong: its default, the file, its variable in the
environment, its flag. The key in the file and the flag have the same name.

```sh
fanfare config example > fanfare.toml   # a file with every key and its default
fanfare config check fanfare.toml       # all mistakes in it at once
fanfare --config fanfare.toml           # or FANFARE_CONFIG=fanfare.toml
fanfare config print --config fanfare.toml --shards 2   # what holds, and where each value comes from
```

- Without `--config` or `FANFARE_CONFIG` no file is read.
- A list of a stronger way takes the place of the weaker one; it is not added to it. As a flag or a variable,
  `none` is the empty list.
- A wrong key, a wrong value, or an unknown variable that begins with `FANFARE_` keeps the server from
  starting. The message names the place and what is allowed. Variables that Kubernetes sets for a service
  named `fanfare` are ignored.
- A size is a number of bytes, or has a unit: `500B`, `64KiB`, `1MiB`. A time has a unit: `500ms`, `20s`,
  `1h 30m`.
- [fanfare.schema.json](fanfare.schema.json) lets an editor complete and check the file; `fanfare config
  schema` prints it. With the line `#:schema ./fanfare.schema.json` at the top of the file, editors that use
  taplo find it.
- `SIGHUP` makes the server read the file again. A file with a mistake changes nothing, and the log names the
  mistake. The options that are marked with \"reload\" change at once; the log names changes of others, which
  need a restart. Subscribers and publishers keep their connections. A limit that is lower than what is in use
  holds for what comes: a newcomer finds it reached, and gets what the option says.
";

impl Table {
    /// The reference page, in Markdown.
    pub fn reference(&self) -> String {
        let mut page = INTRODUCTION.to_owned();
        for section in &self.sections {
            page.push_str(&format!("\n## `[{}]`\n\n{}.\n", section.name, section.about));
            for definition in &section.definitions {
                page.push_str(&format!(
                    "\n### `{}`\n\n{}\n\n",
                    definition.name,
                    wrapped(&sentence(definition), "", 110)
                ));
                page.push_str(&facts(definition));
            }
        }
        page
    }

    /// A file with every key and its default, each with its help.
    pub fn example(&self) -> String {
        let mut text = "#:schema ./fanfare.schema.json\n\
                        # The configuration of fanfare. Every key has its default here; delete what you do not \
                        change.\n"
            .to_owned();
        for section in &self.sections {
            text.push_str(&format!("\n# {}.\n[{}]\n", section.about, section.name));
            for definition in &section.definitions {
                let mut help = sentence(definition);
                if !matches!(definition.form, Form::Switch) {
                    help.push_str(&format!(" Allowed: {}.", definition.allowed()));
                }
                text.push_str(&format!("\n{}\n", wrapped(&help, "# ", COLUMNS)));
                match definition.is_secret && definition.default.is_empty() {
                    true => text.push_str(&format!("# {} = \"...\"\n", definition.name)),
                    false => text.push_str(&format!("{} = {}\n", definition.name, definition.default_toml())),
                }
            }
        }
        text
    }
}

fn sentence(definition: &Definition) -> String {
    let words: Vec<&str> = definition.help.split_whitespace().collect();
    words.join(" ")
}

/// The flag, the variable, the default, what is allowed, and whether it can be reloaded.
fn facts(definition: &Definition) -> String {
    let mut allowed = definition.form.allowed();
    if let Form::Choice(choices) = &definition.form {
        let named = choices.iter().map(|(name, about)| match *about {
            "" => format!("`{name}`"),
            about => format!("`{name}` ({about})"),
        });
        allowed = named.collect::<Vec<_>>().join(", ");
    }
    let (list, several) = match definition.shape {
        Shape::Many(Separator::Comma) => ("a list of: ", "; several with commas"),
        Shape::Many(Separator::Semicolon) => ("a list of: ", "; several with semicolons"),
        Shape::One | Shape::Optional(_) => ("", ""),
    };
    let none = match definition.shape {
        Shape::Optional(word) => format!(", or `{word}`"),
        Shape::One | Shape::Many(_) => String::new(),
    };
    let default = match (definition.is_secret, definition.default_means) {
        (true, _) => "none".to_owned(),
        (false, Some(means)) => format!("`{}` ({means})", definition.default_toml()),
        (false, None) => format!("`{}`", definition.default_toml()),
    };
    let effect = match definition.is_reloadable {
        true => "reload",
        false => "restart",
    };
    let secret = if definition.is_secret { "\n- A secret: it is never printed." } else { "" };
    let lines = [
        format!("Allowed: {list}{allowed}{none}"),
        format!("Default: {default}"),
        format!("Variable: `{}`{several}", definition.variable),
        format!("A change takes: {effect}"),
    ];
    let lines: Vec<String> = lines.iter().map(|line| wrapped_item(line)).collect();
    format!("{}{secret}\n", lines.join("\n"))
}

fn wrapped_item(line: &str) -> String {
    let wrapped = wrapped(line, "  ", 110);
    format!("- {}", wrapped.strip_prefix("  ").unwrap_or(&wrapped))
}

/// The text in lines that begin with the prefix.
fn wrapped(text: &str, prefix: &str, columns: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().map_or(0, |line| line.chars().count());
        if line > 0 && prefix.len() + line + 1 + word.chars().count() > columns {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.iter().map(|line| format!("{prefix}{line}")).collect::<Vec<_>>().join("\n")
}
