//! Numbers in a few characters, for people: at most six, and seven for bytes.

use super::delta::Quantile;

/// A rate or a count: `0`, `1.5`, `123`, `12.3k`, `4.5M`.
pub(super) fn amount(value: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    if !value.is_finite() {
        return "-".to_owned();
    }
    // As rounded, so that nothing becomes `1000k`.
    match UNITS.into_iter().find(|(unit, _)| value >= unit * 0.9995) {
        Some((unit, name)) => format!("{}{name}", short(value / unit)),
        None if value == 0.0 => "0".to_owned(),
        None if value < 0.05 => "<0.1".to_owned(),
        None => short(value),
    }
}

/// Three digits: one behind the point below 100.
fn short(value: f64) -> String {
    if value < 99.95 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn count(value: u64) -> String {
    if value < 10_000 { value.to_string() } else { amount(value as f64) }
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn bytes(value: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if value < 1_024 {
        return format!("{value}B");
    }
    let mut left = value as f64 / 1_024.0;
    for unit in UNITS {
        if left < 1_023.5 || unit == "TiB" {
            return format!("{}{unit}", short(left));
        }
        left /= 1_024.0;
    }
    String::new()
}

/// A latency: `85us`, `1.2ms`, `3.0s`; `>5.0s` where it is more than what is told apart.
pub(super) fn latency(quantile: Option<Quantile>) -> String {
    let Some(Quantile { seconds, is_above }) = quantile else { return "-".to_owned() };
    let above = if is_above { ">" } else { "" };
    let (value, unit) = if seconds < 0.999_5e-6 {
        (seconds * 1e9, "ns")
    } else if seconds < 0.999_5e-3 {
        (seconds * 1e6, "us")
    } else if seconds < 0.999_5 {
        (seconds * 1e3, "ms")
    } else {
        (seconds, "s")
    };
    format!("{above}{}{unit}", short(value))
}

/// How long something has been there: `5s`, `2m10s`, `3h20m`, `4d3h`.
pub(super) fn age(ms: u64) -> String {
    let seconds = ms / 1_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, ..) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_three_digits() {
        for (value, expected) in [
            (0.0, "0"),
            (0.01, "<0.1"),
            (0.05, "0.1"),
            (1.0, "1.0"),
            (99.94, "99.9"),
            (99.96, "100"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (12_345.0, "12.3k"),
            (999_600.0, "1.0M"),
            (1.5e9, "1.5G"),
            (7e15, "7000T"),
            (f64::NAN, "-"),
            (f64::INFINITY, "-"),
        ] {
            assert_eq!(amount(value), expected, "{value}");
        }
        assert_eq!([0, 9_999, 10_000, 1_048_576].map(count), ["0", "9999", "10.0k", "1.0M"]);
    }

    #[test]
    fn bytes_are_of_powers_of_two() {
        let shown = [0, 1_023, 1_024, 1_536, 1_048_575, 1_048_576, 5 << 30, u64::MAX].map(bytes);
        let expected = ["0B", "1023B", "1.0KiB", "1.5KiB", "1.0MiB", "1.0MiB", "5.0GiB", "16777216TiB"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn latencies_have_their_unit() {
        let check = |seconds: f64, is_above: bool, expected: &str| {
            assert_eq!(latency(Some(Quantile { seconds, is_above })), expected);
        };
        check(0.0, false, "0.0ns");
        check(250e-9, false, "250ns");
        check(85.4e-6, false, "85.4us");
        check(999.9e-6, false, "1.0ms");
        check(0.25, false, "250ms");
        check(5.0, true, ">5.0s");
        assert_eq!(latency(None), "-");
    }

    #[test]
    fn ages_have_two_units() {
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (130, "2m10s"), (12_000, "3h20m"), (356_400, "4d3h")]
        {
            assert_eq!(age(seconds * 1_000), expected);
        }
    }
}
