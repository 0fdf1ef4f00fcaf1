//! Finding the end of the plain part of a JSON string, eight bytes at a time.
//!
//! The same three kinds of byte end a plain run when a string is read (closing quote, escape, forbidden control
//! character) and when one is written (what must be escaped).

const LOW: u64 = u64::MAX / 255;
const HIGH: u64 = LOW * 0x80;

/// Length of the leading run without `"`, `\` and bytes below 0x20.
pub(crate) fn plain_run(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut done = 0;
    for word in words {
        let hits = specials(u64::from_le_bytes(*word));
        if hits != 0 {
            return done + (hits.trailing_zeros() / 8) as usize;
        }
        done += 8;
    }
    let short = |&byte: &u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    done + rest.iter().position(short).unwrap_or(rest.len())
}

/// The high bit of each special byte. A subtraction borrows only out of a byte that is special itself, so
/// false hits can only lie above a true one and the lowest hit is exact.
const fn specials(word: u64) -> u64 {
    let quote = word ^ (LOW * b'"' as u64);
    let backslash = word ^ (LOW * b'\\' as u64);
    let control = word.wrapping_sub(LOW * 0x20) & !word;
    let quote = quote.wrapping_sub(LOW) & !quote;
    let backslash = backslash.wrapping_sub(LOW) & !backslash;
    (control | quote | backslash) & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_the_plain_search(bytes in prop::collection::vec(prop_oneof![
            8 => 0x1fu8..0x62, 1 => any::<u8>(), 20 => Just(b'x'),
        ], 0..64)) {
            let plain = bytes.iter().position(|&b| b < 0x20 || b == b'"' || b == b'\\').unwrap_or(bytes.len());
            prop_assert_eq!(plain_run(&bytes), plain);
        }
    }
}
