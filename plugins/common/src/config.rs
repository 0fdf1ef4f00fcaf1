//! Reading a configuration, and the values it is made of. A refusal names the key, as in `rules[2].to: …`.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::ops::Deref;

/// Reads a configuration, one JSON object.
pub fn read<T: DeserializeOwned>(config: &str) -> Result<T, String> {
    let mut reader = serde_json::Deserializer::from_str(config);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner().to_string();
        // The document is written by another program, so places in its text mean nothing to whoever wrote it.
        let fault = inner.split(" at line ").next().unwrap_or_default();
        if path == "." { fault.to_owned() } else { format!("{path}: {fault}") }
    })?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// A list of 1 to `MAX` values.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Vec<T>", bound = "T: Deserialize<'de>")]
pub struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> TryFrom<Vec<T>> for List<T, MAX> {
    type Error = String;

    fn try_from(values: Vec<T>) -> Result<Self, String> {
        match values.len() {
            count if (1..=MAX).contains(&count) => Ok(Self(values)),
            count => Err(format!("a list of 1 to {MAX} is expected, this one has {count}")),
        }
    }
}

impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct Within<const MIN: u32, const MAX: u32>(pub u32);

impl<const MIN: u32, const MAX: u32> TryFrom<u32> for Within<MIN, MAX> {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        if (MIN..=MAX).contains(&number) {
            return Ok(Self(number));
        }
        Err(format!("a number from {MIN} to {MAX} is expected, not {number}"))
    }
}

/// A text of 1 to `MAX` bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> TryFrom<String> for Text<MAX> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.len() {
            len if (1..=MAX).contains(&len) => Ok(Self(text)),
            len => Err(format!("a text of 1 to {MAX} bytes is expected, this one has {len}")),
        }
    }
}

impl<const MAX: usize> Deref for Text<MAX> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// A percentage, kept in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Share(u32);

impl Share {
    pub const ALL: Self = Self(1_000_000);

    /// Whether one of a million equal parts, numbered from 0, belongs to the share. A larger share has all parts
    /// of a smaller one.
    pub const fn has(self, part: u32) -> bool {
        part < self.0
    }
}

impl TryFrom<f64> for Share {
    type Error = String;

    fn try_from(percent: f64) -> Result<Self, String> {
        if (0.0..=100.0).contains(&percent) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share is 0 to a million"
            )]
            return Ok(Self((percent * 10_000.0).round() as u32));
        }
        Err(format!("a percentage from 0 to 100 is expected, not {percent}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "read for what is refused")]
    struct Config {
        name: Option<Text<3>>,
        percent: Option<Share>,
        rules: Option<List<Rule, 2>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "read for what is refused")]
    struct Rule {
        times: Within<1, 9>,
    }

    #[test]
    fn a_refusal_names_the_key() {
        let check = |config: &str, expected: &str| {
            assert_eq!(read::<Config>(config).unwrap_err(), expected, "{config}");
        };
        check(r#"{"name":""}"#, "name: a text of 1 to 3 bytes is expected, this one has 0");
        check(r#"{"name":5}"#, "name: invalid type: integer `5`, expected a string");
        check(r#"{"percent":101}"#, "percent: a percentage from 0 to 100 is expected, not 101");
        check(r#"{"percent":-0.5}"#, "percent: a percentage from 0 to 100 is expected, not -0.5");
        check(r#"{"rules":[]}"#, "rules: a list of 1 to 2 is expected, this one has 0");
        check(
            r#"{"rules":[{"times":1},{"times":0}]}"#,
            "rules[1].times: a number from 1 to 9 is expected, not 0",
        );
        check(r#"{"rules":[{}]}"#, "rules[0]: missing field `times`");
        check(r#"{"rules":[{"times":-1}]}"#, "rules[0].times: invalid value: integer `-1`, expected u32");
        let unknown = read::<Config>(r#"{"nmae":"x"}"#).unwrap_err();
        assert!(unknown.contains("unknown field `nmae`"), "{unknown}");
        assert!(read::<Config>("{} x").is_err());
        assert!(read::<Config>("{}").is_ok());
    }

    #[test]
    fn a_larger_share_has_all_of_a_smaller_one() {
        let share = |percent| Share::try_from(percent).unwrap();
        assert_eq!(share(100.0), Share::ALL);
        for part in [0, 1, 4_999, 5_000, 500_000, 999_999] {
            assert!(!share(0.0).has(part) && Share::ALL.has(part));
            assert_eq!(share(0.5).has(part), part < 5_000);
        }
    }
}
