//! When a certificate ends, for who renews it: read out of its DER (RFC 5280, 4.1), as far as that one field.
//!
//! Nothing is decided by it: whether a certificate is good says whoever connects. What is not as it should be has no end.
//!
//! ```text
//! Certificate ::= { tbs { [0] version, serial, algorithm, issuer, validity { notBefore, notAfter }, … }, … }
//! ```

/// Tags of ASN.1.
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// `notAfter` in seconds since 1970.
pub(super) fn ends_unix_s(certificate: &[u8]) -> Option<u64> {
    let tbs = tagged(SEQUENCE, tagged(SEQUENCE, certificate)?.0)?.0;
    let behind_version = tagged(VERSION, tbs).map_or(tbs, |(_, rest)| rest);
    let (_serial, rest) = tagged(INTEGER, behind_version)?;
    let (_algorithm, rest) = tagged(SEQUENCE, rest)?;
    let (_issuer, rest) = tagged(SEQUENCE, rest)?;
    let (validity, _) = tagged(SEQUENCE, rest)?;
    let (_, _, not_after) = element(validity)?;
    let (tag, time, _) = element(not_after)?;
    unix_s(tag, time)
}

/// The content of the first element, which has this tag, and what is behind it.
fn tagged(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(bytes)?;
    (found == tag).then_some((content, rest))
}

/// Tag and content of the first element, and what is behind it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // As many bytes of length as the low bits say; no certificate has more than four of them.
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |sum: usize, &byte| (sum << 8) | usize::from(byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDhhmmssZ` of the years 1950 to 2049, or `YYYYMMDDhhmmssZ`.
fn unix_s(tag: u8, time: &[u8]) -> Option<u64> {
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits(time, 2)?;
            (year + if year < 50 { 2000 } else { 1900 }, rest)
        }
        GENERALIZED_TIME => digits(time, 4)?,
        _ => return None,
    };
    let (month, rest) = digits(rest, 2)?;
    let (day, rest) = digits(rest, 2)?;
    let (hour, rest) = digits(rest, 2)?;
    let (minute, rest) = digits(rest, 2)?;
    let (second, rest) = digits(rest, 2)?;
    if rest != b"Z" || !(1..=12).contains(&month) {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    // What ended before 1970 ended then.
    Some(u64::try_from(seconds).unwrap_or_default())
}

fn digits(text: &[u8], count: usize) -> Option<(i64, &[u8])> {
    let (digits, rest) = text.split_at_checked(count)?;
    let value = digits
        .iter()
        .try_fold(0, |sum: i64, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))?;
    Some((value, rest))
}

/// Days of the Gregorian calendar, years counted from March so that the leap day is a year's last.
const fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before_year = year * 365 + year / 4 - year / 100 + year / 400;
    before_year + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::self_signed;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    fn certificate(now_unix_s: u64) -> (Vec<u8>, u64) {
        let made = self_signed(&["localhost".to_owned()], now_unix_s).unwrap();
        let der = CertificateDer::from_pem_slice(made.certificate_pem.as_bytes()).unwrap();
        (der.to_vec(), made.expires_unix_s)
    }

    #[test]
    fn the_end_of_a_certificate_is_read() {
        // Until 2049 certificates say a year with two digits, from 2050 on with four.
        for now in [86_400, 951_696_000, 1_709_164_800, 1_800_000_000, 2_523_000_000, 4_107_456_000] {
            let (der, expires) = certificate(now);
            assert_eq!(ends_unix_s(&der), Some(expires), "{now}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        let (der, _) = certificate(1_800_000_000);
        for length in 0..der.len() {
            assert_eq!(ends_unix_s(&der[..length]), None, "cut at {length}");
        }
        for index in 0..der.len() {
            let mut changed = der.clone();
            changed[index] ^= 0x80;
            // It may say another time, of the year 9999 at the latest.
            assert!(ends_unix_s(&changed).is_none_or(|end| end < 1 << 38), "changed at {index}");
        }
        assert_eq!(ends_unix_s(&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for (tag, text, expected) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "490101000000Z", Some(2_493_072_000)),
            (UTC_TIME, "500101000000Z", Some(0)),
            (GENERALIZED_TIME, "20240229235959Z", Some(1_709_251_199)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (UTC_TIME, "7001010000Z", None),
            (UTC_TIME, "701301000000Z", None),
            (UTC_TIME, "7001010000001", None),
            (INTEGER, "700101000000Z", None),
            (UTC_TIME, "", None),
        ] {
            assert_eq!(unix_s(tag, text.as_bytes()), expected, "{text}");
        }
    }
}
