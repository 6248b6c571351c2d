//! Figures as people read them: three digits and a unit that suits the size.

/// Three significant digits without zeros at the end; thousands apart.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    // What rounds to a thousand is one.
    if size >= 999.5 {
        let sign = if value < 0.0 { "-" } else { "" };
        return format!("{sign}{}", super::table::group(size.round() as u64));
    }
    let places = match size {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.places$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    // What is too small for the digits is not less than nothing.
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// The largest unit in which the value is at least 1.
fn scaled(value: f64, units: &[(&str, f64)]) -> String {
    // What rounds to a thousand of a unit is one of the next.
    let fits = |unit: &&(&str, f64)| value.abs() >= unit.1 * 0.9995;
    let (name, size) = units.iter().rev().find(fits).unwrap_or(&units[0]);
    format!("{} {name}", number(value / size))
}

/// Seconds as `1.2 ms`, `350 us`, `12 s`.
pub(crate) fn time(seconds: f64) -> String {
    if seconds == 0.0 {
        return "0 s".to_owned();
    }
    scaled(seconds, &[("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0)])
}

/// Microseconds, as [`time`] writes them.
pub(crate) fn microseconds(value: f64) -> String {
    time(value * 1e-6)
}

/// Milliseconds, as [`time`] writes them.
pub(crate) fn milliseconds(value: f64) -> String {
    time(value * 1e-3)
}

/// Bytes as `60 B`, `8.4 KiB`, `1.2 MiB`.
pub(crate) fn bytes(bytes: f64) -> String {
    let kilo = 1_024.0;
    scaled(bytes, &[("B", 1.0), ("KiB", kilo), ("MiB", kilo * kilo), ("GiB", kilo * kilo * kilo)])
}

/// The digits of a number without the separators between its thousands: `1_000` and `1,000`. `None`: a comma
/// stands elsewhere, as in `1,5`, which would not be what was meant.
pub(crate) fn without_separators(text: &str) -> Option<String> {
    let text = text.replace('_', "");
    if !text.contains(',') {
        return Some(text);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut groups = whole.trim_start_matches('-').split(',');
    let first = groups.next().unwrap_or("");
    let right =
        (1..=3).contains(&first.len()) && groups.all(|group| group.len() == 3) && !fraction.contains(',');
    right.then(|| text.replace(',', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_unit_that_suits_them() {
        let times = [0.0, 4.2e-8, 3.5e-4, 1.2e-3, 0.012_34, 0.999_9, 12.0, 125.0].map(time);
        assert_eq!(times, ["0 s", "42 ns", "350 us", "1.2 ms", "12.3 ms", "1 s", "12 s", "125 s"]);
        assert_eq!([60.0, 8_344.0, 1.3e6, -2_048.0].map(bytes), ["60 B", "8.15 KiB", "1.24 MiB", "-2 KiB"]);
        assert_eq!(
            [0.0, 0.513, 12.34, 123.4, 999.6, 15_000.0, -4321.0, -0.001].map(number),
            ["0", "0.51", "12.3", "123", "1,000", "15,000", "-4,321", "0"]
        );
    }

    /// `1,5` was fifteen.
    #[test]
    fn commas_stand_between_thousands_only() {
        let read = |text: &str| without_separators(text);
        for right in ["1000", "1,000", "1_000", "1,000.0", "-1,000,000"] {
            let digits: f64 = read(right).unwrap().parse().unwrap();
            assert!(digits.abs() == 1e3 || digits == -1e6, "{right}");
        }
        for wrong in ["1,5", "0,5", "1,00", "1,0000", "1,000,5", "1.000,5", ",000", "1000,000"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
