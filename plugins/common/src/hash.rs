//! Hashes that are the same in every instance: all workers have to agree, before and after a swap.

/// FNV-1a with a finaliser, which spreads nearly equal texts.
pub fn hash(bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    spread(bytes.iter().fold(OFFSET, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME)))
}

/// The finaliser of SplitMix64.
pub const fn spread(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Which of a million equal parts a text belongs to; with another seed, another one.
pub fn share_of(seed: &str, text: &str) -> u32 {
    (spread(hash(seed.as_bytes()) ^ hash(text.as_bytes())) % 1_000_000) as u32
}

/// How much a key belongs to a member: it goes to the one for which this is highest, so that only the keys of a
/// member that leaves move.
pub const fn rendezvous(key: u64, member: u64) -> u64 {
    spread(key ^ member)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_fair_and_differ_by_seed() {
        let tenth = |seed: &str| -> Vec<bool> {
            (0..10_000).map(|i| share_of(seed, &format!("user{i}")) < 100_000).collect()
        };
        let (one, two) = (tenth(""), tenth("other"));
        for tenth in [&one, &two] {
            let count = tenth.iter().filter(|is_in| **is_in).count();
            assert!((850..1_150).contains(&count), "{count} of 10,000");
        }
        let both = one.iter().zip(&two).filter(|(one, two)| **one && **two).count();
        assert!(both < 200, "{both} are in both");
    }
}
