//! How much smaller a text would become, estimated from a sample of it.
//!
//! A policy is not told what compressing came to, so this does what a compressor does with a sample, as far as that is
//! cheap: it looks for what was there before, and counts how unevenly the other bytes are spread.

/// Bytes of a payload that are looked at.
pub(crate) const SAMPLE_BYTES: usize = 1_024;

/// Bytes that have to be the same as some before: shorter ones cost as much to refer to.
const MATCH_BYTES: usize = 4;
/// What referring to earlier bytes costs, in bits: about where, and how many.
const MATCH_BITS: f32 = 18.0;
/// What saying a value's code costs, in bits.
const CODE_BITS: f32 = 4.0;
/// Places by a hash of the bytes there.
const PLACES: usize = 512;

/// The part of its bytes that a payload keeps, 0 to 1, going by a sample: its beginning, and of a long one its middle, since
/// what is compressed already often begins with something that is not.
pub(crate) fn kept_part(payload: &[u8]) -> f32 {
    if payload.len() <= 2 * SAMPLE_BYTES {
        return of_sample(payload.get(..SAMPLE_BYTES).unwrap_or(payload));
    }
    let half = SAMPLE_BYTES / 2;
    let middle = payload.len() / 2;
    let [begin, inside] = [0, middle].map(|at| of_sample(payload.get(at..at + half).unwrap_or_default()));
    (begin + inside) / 2.0
}

fn of_sample(sample: &[u8]) -> f32 {
    if sample.is_empty() {
        return 1.0;
    }
    let mut seen = [u16::MAX; PLACES];
    let (mut counts, mut literals, mut matches, mut at) = ([0_u16; 256], 0_u16, 0_u16, 0);
    while let Some(&byte) = sample.get(at) {
        let next = sample.get(at..).and_then(|rest| rest.first_chunk::<MATCH_BYTES>());
        let before = next.and_then(|bytes| seen.get_mut(hash(*bytes)));
        let before = before.map(|place| std::mem::replace(place, u16::try_from(at).unwrap_or(u16::MAX)));
        let len = before.map_or(0, |before| same(sample, usize::from(before), at));
        if len >= MATCH_BYTES {
            matches += 1;
            at += len;
        } else {
            counts[usize::from(byte)] += 1;
            literals += 1;
            at += 1;
        }
    }
    let bits = entropy_bits(&counts, literals) + f32::from(matches) * MATCH_BITS;
    // A sample has at most as many bytes as there are in `SAMPLE_BYTES`.
    let all = f32::from(u16::try_from(sample.len()).unwrap_or(u16::MAX)) * 8.0;
    (bits / all).clamp(0.0, 1.0)
}

/// How many bytes from `before` on are those from `at` on.
fn same(sample: &[u8], before: usize, at: usize) -> usize {
    let (Some(old), Some(new)) = (sample.get(before..), sample.get(at..)) else { return 0 };
    old.iter().zip(new).take_while(|(old, new)| old == new).count()
}

fn hash(bytes: [u8; MATCH_BYTES]) -> usize {
    let mixed = u32::from_le_bytes(bytes).wrapping_mul(0x9E37_79B1);
    (mixed >> 23) as usize % PLACES
}

/// Bits of the literals when each value has a code as long as it is rare, with what it takes to say which code. That is
/// also why a few bytes, which look less random than they are, come out as they are.
fn entropy_bits(counts: &[u16; 256], literals: u16) -> f32 {
    if literals == 0 {
        return 0.0;
    }
    let all = f32::from(literals);
    let present = counts.iter().filter(|&&count| count > 0);
    let (sum, values) = present.fold((0.0, 0_u16), |(sum, values), &count| {
        let count = f32::from(count);
        (sum - count * (count / all).log2(), values + 1)
    });
    (sum + f32::from(values) * CODE_BITS).min(all * 8.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::noise;

    fn base64(bytes: &[u8]) -> Vec<u8> {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        bytes.iter().map(|byte| DIGITS[usize::from(byte % 64)]).collect()
    }

    #[test]
    fn what_looks_random_keeps_its_bytes() {
        for len in [64, 300, 1_024, 5_000, 100_000] {
            assert!(kept_part(&noise(len)) > 0.93, "{len}: {}", kept_part(&noise(len)));
        }
        assert!((kept_part(&[]) - 1.0).abs() < f32::EPSILON);
    }

    #[test]
    fn six_bits_in_each_byte_are_three_quarters() {
        let part = kept_part(&base64(&noise(4_000)));
        assert!((0.7..0.85).contains(&part), "{part}");
    }

    #[test]
    fn text_and_records_shrink() {
        let records: String =
            (0..40).map(|n| format!("{{\"order\":{n},\"state\":\"paid\",\"price\":{}}}\n", n * 37)).collect();
        let part = kept_part(records.as_bytes());
        assert!(part < 0.5, "{part}");
        let text = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age \
                    of foolishness, it was the epoch of belief, it was the epoch of incredulity";
        let part = kept_part(text.as_bytes());
        assert!(part < 0.75, "{part}");
        assert!(kept_part(&[0; 1_000]) < 0.05);
    }

    #[test]
    fn a_plain_beginning_does_not_hide_what_follows() {
        let mut payload = b"key: value\n".repeat(50);
        payload.extend(noise(50_000));
        let part = kept_part(&payload);
        assert!(part > 0.5, "{part}");
    }

    #[test]
    fn any_bytes_are_fine() {
        for len in 0..300 {
            for bytes in [vec![7; len], noise(len), (0_u8..=250).cycle().take(len).collect()] {
                let part = kept_part(&bytes);
                assert!((0.0..=1.0).contains(&part), "{part}");
            }
        }
    }
}
