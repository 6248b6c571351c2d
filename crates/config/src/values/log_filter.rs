//! What is logged.

use tracing_subscriber::EnvFilter;

use crate::nearest::nearest;

/// The levels, as the filter knows them.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Reads a filter of the log, as `tracing-subscriber` has it, and gives its text.
///
/// # Errors
/// It is no filter, or a part of it is nearly a level: the filter would take it for the name of a module, and
/// would log nothing else.
pub(crate) fn parse(text: &str) -> Result<String, String> {
    let form = "write a level such as info or debug, or levels by module, such as warn,fanfare=debug";
    for part in text.split(',').map(str::trim) {
        let is_level = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part));
        if let Some(near) = nearest(part, LEVELS).filter(|_| !is_level) {
            return Err(format!("{part:?} is no level; did you mean {near}? {form}"));
        }
    }
    match EnvFilter::try_new(text) {
        Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
        _ => Err(form.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    /// With `FANFARE_LOG=inof` the server logged nothing, not even errors.
    #[test]
    fn what_is_nearly_a_level_is_refused() {
        for right in ["info", "INFO", "off", "warn,fanfare=debug", "fanfare", "fanfare::control=trace,info"] {
            assert_eq!(parse(right).as_deref(), Ok(right));
        }
        for (wrong, part) in [
            ("inof", "info"),
            ("warm,fanfare=debug", "warn"),
            ("debugg", "debug"),
            ("", "write"),
            ("a=b=c", "write"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }
}
