//! Scenario files: what the command line has as options, in TOML.

use std::path::Path;

use super::{Kind, Load};
use crate::failure::{Failure, Outcome};

/// Reads a scenario file: `scenario = "..."`, the options of [`Load`] under their long names with
/// underscores, and the scenario's own under a table of its name.
pub(crate) fn read(path: &Path) -> Outcome<(Kind, Load)> {
    let wrong =
        |what: String| Failure::new(format!("{}: {}", path.display(), what.trim().replace('\n', " ")));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    parse(&text).map_err(wrong)
}

fn parse(text: &str) -> Result<(Kind, Load), String> {
    let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let name = match table.remove("scenario") {
        Some(toml::Value::String(name)) => name,
        Some(_) | None => return Err("it needs a line `scenario = \"fanout\"`".to_owned()),
    };
    let own = table.remove(&name).unwrap_or(toml::Value::Table(toml::Table::new()));
    fn take<T: serde::de::DeserializeOwned>(name: &str, own: toml::Value) -> Result<T, String> {
        own.try_into().map_err(|error: toml::de::Error| format!("[{name}]: {error}"))
    }
    let nothing = || match &own {
        toml::Value::Table(table) if table.is_empty() => Ok(()),
        _ => Err(format!("[{name}]: this scenario has no options of its own")),
    };
    let kind = match name.as_str() {
        "fanout" => nothing().map(|()| Kind::Fanout)?,
        "idle" => Kind::Idle(take(&name, own)?),
        "listen" => Kind::Listen(take(&name, own)?),
        "saturate" => Kind::Saturate(take(&name, own)?),
        "storm" => Kind::Storm(take(&name, own)?),
        "slow" => Kind::Slow(take(&name, own)?),
        "churn" => Kind::Churn(take(&name, own)?),
        "topics" => Kind::Topics(take(&name, own)?),
        "mixed" => Kind::Mixed(take(&name, own)?),
        _ => {
            let all = "fanout, idle, listen, saturate, storm, slow, churn, topics, mixed";
            return Err(format!("there is no scenario `{name}`; there are {all}"));
        }
    };
    let load = toml::Value::Table(table).try_into().map_err(|error: toml::de::Error| error.to_string())?;
    Ok((kind, load))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Slow;
    use super::*;

    #[test]
    fn a_file_and_the_command_line_mean_the_same() {
        let (kind, load) =
            parse("scenario = \"slow\"\nrate = 50\nduration = \"2m\"\n[slow]\nshare = 0.2\n").unwrap();
        assert!(matches!(kind, Kind::Slow(Slow { share, .. }) if share == 0.2));
        assert_eq!(
            (load.rate, load.duration, load.size),
            (50.0, Duration::from_secs(120), Load::default().size)
        );
    }

    #[test]
    fn wrong_keys_are_named_with_the_right_ones() {
        let told = |text: &str| parse(text).unwrap_err();
        let error = told("scenario = \"fanout\"\nsubscribrs = 5\n");
        assert!(error.contains("subscribrs") && error.contains("subscribers"), "{error}");
        let error = told("scenario = \"storm\"\n[storm]\nresume = true\n");
        assert!(error.contains("[storm]") && error.contains("no_resume"), "{error}");
        assert!(told("rate = 5").contains("scenario ="));
        assert!(told("scenario = \"fanuot\"").contains("fanout"));
        assert!(told("scenario = \"fanout\"\n[fanout]\nx = 1").contains("no options of its own"));
        assert!(told("scenario = \"fanout\"\nduration = \"soon\"").contains("250ms"));
    }
}
