//! Where a subscription begins: the text of `subscribe.from`, read.
//!
//! The decoder passes the text through, because which forms an address takes is for the broker to say. Times are
//! those of RFC 3339 section 5.6; nothing here knows a clock or a time zone's name.

use std::fmt;
use std::str::FromStr;
use waspmq_core::Position;

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum From {
    /// With the next message.
    #[default]
    Now,
    /// With the oldest message that is kept.
    Earliest,
    /// With the latest message that is kept.
    Last,
    /// With the first message published at this time or later, milliseconds since 1970.
    Time(u64),
    /// Behind this position.
    Position(Position),
}

/// The text says nothing of what `from` may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FromError {
    #[error(
        "`from` is {text:?}; it takes `now`, `earliest`, `last`, a position such as s3e1:57, or a time as RFC 3339 or \
         milliseconds since 1970"
    )]
    Unknown { text: String },
    #[error("`from` is {text:?}: {problem}")]
    Time { text: String, problem: &'static str },
}

impl From {
    /// Reads the text of a frame or a command line.
    ///
    /// # Errors
    /// When it is none of the five forms, or a time that does not exist or lies before 1970.
    pub fn parse(text: &str) -> Result<Self, FromError> {
        let quoted = || crate::error::prefix(text, TEXT_BYTES_MAX).to_owned();
        match text {
            "now" => return Ok(Self::Now),
            "earliest" => return Ok(Self::Earliest),
            "last" => return Ok(Self::Last),
            _ => {}
        }
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(position));
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 && digits == text.len() {
            let problem = "more milliseconds than a time has";
            return text.parse().map(Self::Time).map_err(|_| FromError::Time { text: quoted(), problem });
        }
        if digits == 4 && text.as_bytes().get(4) == Some(&b'-') {
            return rfc3339(text.as_bytes())
                .map(Self::Time)
                .map_err(|problem| FromError::Time { text: quoted(), problem });
        }
        Err(FromError::Unknown { text: quoted() })
    }
}

impl FromStr for From {
    type Err = FromError;

    fn from_str(text: &str) -> Result<Self, FromError> {
        Self::parse(text)
    }
}

/// The text form; a time as milliseconds.
impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.write_str("now"),
            Self::Earliest => f.write_str("earliest"),
            Self::Last => f.write_str("last"),
            Self::Time(unix_ms) => unix_ms.fmt(f),
            Self::Position(position) => position.fmt(f),
        }
    }
}

/// Bytes of the text that an error quotes.
const TEXT_BYTES_MAX: usize = 64;

const SHAPE: &str = "a time looks like 2026-11-21T09:30:00Z or 2026-11-21T09:30:00.250+01:00";

/// `YYYY-MM-DDThh:mm:ss[.fraction](Z|+hh:mm|-hh:mm)` as milliseconds since 1970. Of a fraction, milliseconds count;
/// second 60 is the second behind 59.
fn rfc3339(text: &[u8]) -> Result<u64, &'static str> {
    let mut rest = text;
    let year = digits(&mut rest, 4)?;
    let month = separated(&mut rest, b"-")?;
    let day = separated(&mut rest, b"-")?;
    let hour = separated(&mut rest, b"Tt ")?;
    let minute = separated(&mut rest, b":")?;
    let second = separated(&mut rest, b":")?;
    let millis = fraction(&mut rest)?;
    let offset_min = offset(rest)?;
    if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
        return Err("there is no such day");
    }
    if hour > 23 || minute > 59 || second > 60 {
        return Err("there is no such time of day");
    }
    let minutes = (days_since_1970(year, month, day) * 24 + hour) * 60 + minute - offset_min;
    u64::try_from((minutes * 60 + second) * 1_000 + millis).map_err(|_| "before 1970")
}

/// `count` digits off the front.
fn digits(rest: &mut &[u8], count: usize) -> Result<i64, &'static str> {
    let (taken, behind) = rest.split_at_checked(count).ok_or(SHAPE)?;
    *rest = behind;
    taken.iter().try_fold(0, |number, byte| match byte {
        b'0'..=b'9' => Ok(number * 10 + i64::from(byte - b'0')),
        _ => Err(SHAPE),
    })
}

/// One of `separators` and two digits off the front.
fn separated(rest: &mut &[u8], separators: &[u8]) -> Result<i64, &'static str> {
    match rest.split_first() {
        Some((separator, behind)) if separators.contains(separator) => *rest = behind,
        _ => return Err(SHAPE),
    }
    digits(rest, 2)
}

/// The milliseconds of a fraction, if there is one.
fn fraction(rest: &mut &[u8]) -> Result<i64, &'static str> {
    let Some(behind) = rest.strip_prefix(b".") else { return Ok(0) };
    let count = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return Err(SHAPE);
    }
    let (fraction, behind) = behind.split_at(count);
    *rest = behind;
    let milli = |at| fraction.get(at).map_or(0, |digit| i64::from(digit - b'0'));
    Ok(milli(0) * 100 + milli(1) * 10 + milli(2))
}

/// Minutes east of UTC.
fn offset(rest: &[u8]) -> Result<i64, &'static str> {
    let sign = match rest.first() {
        Some(b'Z' | b'z') if rest.len() == 1 => return Ok(0),
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => return Err(SHAPE),
    };
    let mut rest = rest;
    let hours = separated(&mut rest, b"+-")?;
    let minutes = separated(&mut rest, b":")?;
    if !rest.is_empty() {
        return Err(SHAPE);
    }
    if hours > 23 || minutes > 59 {
        return Err("there is no such offset");
    }
    Ok(sign * (hours * 60 + minutes))
}

const fn days_in_month(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of the Gregorian calendar, years counted from March so that the leap day is a year's last.
const fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before_month = (153 * month + 2) / 5;
    let before_year = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    before_year + before_month + day - 1 - DAYS_TO_1970
}

/// From the first of March of year 0 to the first of January of 1970.
const DAYS_TO_1970: i64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use waspmq_core::Stream;

    #[test]
    fn every_form() {
        let check = |text: &str, expected: From| {
            assert_eq!(From::parse(text), Ok(expected), "{text}");
            assert_eq!(expected.to_string().parse(), Ok(expected), "{text}");
        };
        check("now", From::Now);
        check("earliest", From::Earliest);
        check("last", From::Last);
        let stream = Stream { shard: 3, epoch: 1 };
        check("s3e1:57", From::Position(Position { stream, offset: 57 }));
        check("0", From::Time(0));
        check("1790000000000", From::Time(1_790_000_000_000));
        // Seconds as `date -u -d … +%s` prints them.
        check("1970-01-01T00:00:00Z", From::Time(0));
        check("2000-02-29T12:00:00Z", From::Time(951_825_600_000));
        check("2026-11-21T09:30:00Z", From::Time(1_795_253_400_000));
        check("2026-11-21t09:30:00.25z", From::Time(1_795_253_400_250));
        check("2026-11-21 10:30:00.2509999+01:00", From::Time(1_795_253_400_250));
        check("2026-11-20T23:59:60-09:30", From::Time(1_795_253_400_000));
        check("9999-12-31T23:59:59Z", From::Time(253_402_300_799_000));
    }

    #[test]
    fn faults_say_what_is_wrong() {
        let check = |text: &str, part: &str| {
            let error = From::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        };
        for text in ["", "NOW", "first", "s3e1", "-5", "1.5", "12-01-01T00:00:00Z", "yesterday"] {
            check(text, "it takes `now`");
        }
        for text in [
            "2026-11-21",
            "2026-11-21T09:30Z",
            "2026-11-21T09:30:00",
            "2026-11-21T09:30:00.Z",
            "2026-11-21T09:30:00+01",
            "2026-11-21T09:30:00Zx",
            "2026-1-21T09:30:00Z",
            "2026-11-21T09:30:00+01:00x",
        ] {
            check(text, "a time looks like");
        }
        check("2026-02-29T00:00:00Z", "no such day");
        check("1900-02-29T00:00:00Z", "no such day");
        check("2026-13-01T00:00:00Z", "no such day");
        check("2026-11-00T00:00:00Z", "no such day");
        check("2026-11-21T24:00:00Z", "no such time");
        check("2026-11-21T00:00:00+24:00", "no such offset");
        check("1969-12-31T23:59:59Z", "before 1970");
        check("99999999999999999999", "more milliseconds");
        assert!(From::parse(&"x".repeat(10_000)).unwrap_err().to_string().len() < 300);
    }

    proptest! {
        /// Days follow each other: the calendar has no holes and no repeats.
        #[test]
        fn days_follow_each_other(year in 1970_i64..9999, month in 1_i64..=12, day in 1_i64..=31) {
            prop_assume!(day <= days_in_month(year, month));
            let next = match (month, day == days_in_month(year, month)) {
                (12, true) => (year + 1, 1, 1),
                (_, true) => (year, month + 1, 1),
                (_, false) => (year, month, day + 1),
            };
            prop_assert_eq!(days_since_1970(year, month, day) + 1, days_since_1970(next.0, next.1, next.2));
        }

        #[test]
        fn any_text_is_an_answer(text in "\\PC{0,40}|[0-9TZ:.+-]{0,32}") {
            drop(From::parse(&text));
        }
    }
}
