//! Numbers with units, as people type and read them.

/// Parses a number with an optional `k`, `M` or `G`: `10M` is ten million.
pub(super) fn number(text: &str) -> Result<f64, String> {
    scaled(text, &[("k", 1e3), ("M", 1e6), ("G", 1e9), ("", 1.0)], "a number such as 250, 10k or 1.5M")
}

/// Parses bytes: `200`, `64KiB`, `64GiB`.
pub(super) fn bytes(text: &str) -> Result<f64, String> {
    let units = [
        ("KiB", f64::from(1 << 10)),
        ("MiB", f64::from(1 << 20)),
        ("GiB", f64::from(1 << 30)),
        ("B", 1.0),
        ("", 1.0),
    ];
    scaled(text, &units, "bytes such as 200, 4KiB or 64GiB")
}

/// Parses bits per second: `10Gbps`.
pub(super) fn bandwidth(text: &str) -> Result<f64, String> {
    scaled(text, &[("Gbps", 1e9), ("Mbps", 1e6)], "a bandwidth such as 10Gbps")
}

/// Parses a time: `30s`, `500ms`, `2m`. In seconds.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    scaled(text, &[("ms", 1e-3), ("s", 1.0), ("m", 60.0)], "a time such as 500ms, 30s or 2m")
}

/// Parses a share: `60%`. As a part of one.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = scaled(text, &[("%", 0.01)], "a share such as 60%")?;
    if share <= 1.0 { Ok(share) } else { Err("a share is at most 100%".to_owned()) }
}

fn scaled(text: &str, units: &[(&str, f64)], wanted: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is not {wanted}");
    let (digits, factor) = units
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|digits| (digits, *factor)))
        .ok_or_else(wrong)?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = digits.parse().ok().filter(|_| is_number).ok_or_else(wrong)?;
    if number > 0.0 { Ok(number * factor) } else { Err(format!("{text:?} is not more than 0")) }
}

/// A count with a thousands separator, rounded.
pub(super) fn show_count(count: f64) -> String {
    let digits = format!("{count:.0}");
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

pub(super) fn show_bytes(bytes: f64) -> String {
    show_scaled(bytes, &[(f64::from(1 << 30), "GiB"), (f64::from(1 << 20), "MiB"), (1024.0, "KiB")], "B")
}

pub(super) fn show_bandwidth(bits_per_second: f64) -> String {
    show_scaled(bits_per_second, &[(1e9, "Gbps"), (1e6, "Mbps"), (1e3, "kbps")], "bps")
}

pub(super) fn show_time(seconds: f64) -> String {
    if seconds >= 1.0 { format!("{seconds:.1} s") } else { format!("{:.0} ms", seconds * 1e3) }
}

pub(super) fn show_share(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn show_scaled(value: f64, units: &[(f64, &str)], smallest: &str) -> String {
    match units.iter().find(|(factor, _)| value >= *factor) {
        Some((factor, unit)) => format!("{:.2} {unit}", value / factor),
        None => format!("{value:.0} {smallest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        assert_eq!([number("250"), number("10k"), number("1.5M")], [Ok(250.0), Ok(1e4), Ok(1.5e6)]);
        assert_eq!(
            [bytes("200"), bytes("4KiB"), bytes("1GiB")],
            [Ok(200.0), Ok(4096.0), Ok(1_073_741_824.0)]
        );
        assert_eq!([bandwidth("10Gbps"), bandwidth("100Mbps")], [Ok(1e10), Ok(1e8)]);
        assert_eq!([seconds("500ms"), seconds("30s"), seconds("2m")], [Ok(0.5), Ok(30.0), Ok(120.0)]);
        assert_eq!(share("60%"), Ok(0.6));
        for wrong in ["", "k", "-1", "1e3", "10 k", "0"] {
            assert!(number(wrong).is_err(), "{wrong:?}");
        }
        assert!(bandwidth("10").is_err() && share("101%").is_err() && share("0.5").is_err());
    }

    #[test]
    fn numbers_are_shown_as_they_are_read() {
        assert_eq!([show_count(0.4), show_count(999.0), show_count(1_234_567.0)], ["0", "999", "1,234,567"]);
        assert_eq!([show_bytes(100.0), show_bytes(1536.0)], ["100 B", "1.50 KiB"]);
        assert_eq!((show_bandwidth(2.5e9), show_time(0.25)), ("2.50 Gbps".to_owned(), "250 ms".to_owned()));
    }
}
