//! The name that was probably meant.

/// The name that is nearest to a wrong one, if it is near: less than a third of it differs, or two
/// characters.
pub(crate) fn nearest<'n>(wrong: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    /// A longer text is no name, and a comparison costs the product of both lengths.
    const LONGEST: usize = 64;
    if wrong.len() > LONGEST {
        return None;
    }
    let wrong = wrong.to_ascii_lowercase().replace('_', "-");
    let distances = names.into_iter().map(|name| {
        let normal = name.to_ascii_lowercase().replace('_', "-");
        (strsim::damerau_levenshtein(&wrong, &normal), name)
    });
    let near = (wrong.chars().count() / 3).max(2);
    let least = distances.min_by_key(|(distance, _)| *distance);
    least.filter(|(distance, name)| *distance <= near && *distance < name.len()).map(|(_, name)| name)
}

/// "; did you mean ...?", or nothing.
pub(crate) fn hint(name: Option<&str>) -> String {
    name.map(|name| format!("; did you mean {name}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["max-connections", "host", "retain-events", "pin"];
        for (wrong, right) in [
            ("max-conections", Some("max-connections")),
            ("max_connections", Some("max-connections")),
            ("MAX-CONNECTIONS", Some("max-connections")),
            ("hsot", Some("host")),
            ("hosts", Some("host")),
            ("retain-event", Some("retain-events")),
            ("whatever", None),
            ("", None),
        ] {
            assert_eq!(nearest(wrong, names), right, "{wrong}");
        }
        assert_eq!(nearest(&"h".repeat(1 << 20), names), None);
    }
}
