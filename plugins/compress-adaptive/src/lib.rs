//! Compresses messages that are worth it: by their size, their content type, and how much smaller messages like them
//! are likely to become.
//!
//! A policy is not told what compressing came to, so a sample of one message in some is looked into, and what it says is
//! remembered for those with the same address and content type. Memory is a cache here: forgetting costs a sample.

mod config;
mod estimate;

use config::{Config, Treatment};
use std::collections::HashMap;
use waspmq_plugin_sdk::{Audience, Choice, Codec, Codecs, Compression, Message, Policy, export_policy, host};

/// Kinds of messages that are remembered. More: all are forgotten.
const KINDS_MAX: usize = 1_024;

/// Bytes of a content type that are looked at to tell kinds apart.
const TYPE_BYTES_MAX: usize = 128;

/// See `README.md` for the configuration.
#[derive(Debug)]
pub struct Adaptive {
    config: Config,
    kinds: HashMap<String, Kind>,
    /// Room for the name of a kind.
    name: String,
}

/// What is known of messages that are alike.
#[derive(Debug, Clone, Copy)]
struct Kind {
    /// The part of their bytes that they keep, a mean over those looked into.
    kept_part: f32,
    /// Messages since the last one that was.
    passed: u32,
}

impl Policy for Adaptive {
    fn configure(config: &str) -> Result<Self, String> {
        Ok(Self { config: Config::parse(config)?, kinds: HashMap::new(), name: String::new() })
    }
}

impl Compression for Adaptive {
    fn choose(&mut self, message: &Message, audience: &Audience) -> Choice {
        let Some(codec) = self.best(message.size, audience) else { return Choice::none() };
        let content_type = host::header(&self.config.header).unwrap_or_default();
        if self.is_worth_it(&message.address, &content_type, host::payload) {
            Choice::of(codec)
        } else {
            Choice::none()
        }
    }
}

export_policy!(Adaptive: compression);

impl Adaptive {
    /// What a message of this size is compressed with, if it is; nothing when it is too small, or nobody takes anything.
    fn best(&self, size: u32, audience: &Audience) -> Option<Codec> {
        let Config { min_bytes, fast_bytes, dictionary_bytes, levels, .. } = &self.config;
        if size < *min_bytes || size == 0 {
            return None;
        }
        let is_large = size >= *fast_bytes;
        if audience.dictionary && size <= *dictionary_bytes && audience.takes(Codecs::ZSTD_DICTIONARY) {
            Some(Codec::ZstdDictionary(String::new()))
        } else if is_large && audience.takes(Codecs::LZ4) {
            Some(Codec::Lz4)
        } else if audience.takes(Codecs::ZSTD) {
            Some(Codec::Zstd(if is_large { levels.zstd.min(1) } else { levels.zstd }))
        } else if audience.takes(Codecs::LZ4) {
            Some(Codec::Lz4)
        } else if audience.takes(Codecs::DEFLATE) {
            Some(Codec::Deflate(if is_large { 1 } else { levels.deflate }))
        } else {
            None
        }
    }

    /// Whether messages like this one are likely to lose enough of their bytes.
    fn is_worth_it(&mut self, address: &str, content_type: &str, payload: impl FnOnce() -> Vec<u8>) -> bool {
        match self.config.treatment(content_type) {
            Treatment::None => return false,
            Treatment::Always => return true,
            Treatment::Auto => {}
        }
        self.name.clear();
        self.name.push_str(address);
        if !content_type.is_empty() {
            self.name.push(' ');
            // Whoever publishes writes the type; a long one shares its place with those that begin alike.
            let end = content_type.floor_char_boundary(TYPE_BYTES_MAX);
            self.name.push_str(content_type.get(..end).unwrap_or_default());
        }
        let known = self.kinds.get_mut(&self.name);
        let before = known.map(|kind| {
            kind.passed += 1;
            *kind
        });
        let kept_part = match before {
            Some(kind) if kind.passed < self.config.rate => kind.kept_part,
            _ => self.look_into(before, &payload()),
        };
        kept_part <= self.config.worth
    }

    fn look_into(&mut self, before: Option<Kind>, payload: &[u8]) -> f32 {
        let now = estimate::kept_part(payload);
        host::histogram("kept_percent", percent(now));
        let kept_part = before.map_or(now, |kind| kind.kept_part * 0.75 + now * 0.25);
        if before.is_none() && self.kinds.len() >= KINDS_MAX {
            self.kinds.clear();
            host::counter("forgotten", 1);
        }
        self.kinds.insert(self.name.clone(), Kind { kept_part, passed: 0 });
        kept_part
    }
}

fn percent(part: f32) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
    let percent = (part.clamp(0.0, 1.0) * 100.0) as u64;
    percent
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that look random and are the same in every run.
    pub(crate) fn noise(len: usize) -> Vec<u8> {
        let mut state = 4_711_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let [.., byte, _, _, _] = state.to_le_bytes();
            byte
        };
        (0..len).map(|_| next()).collect()
    }

    fn adaptive(config: &str) -> Adaptive {
        Adaptive::configure(config).unwrap()
    }

    fn codec(policy: &Adaptive, size: u32, codecs: Codecs, dictionary: bool) -> String {
        format!("{:?}", policy.best(size, &Audience { codecs, dictionary }))
    }

    #[test]
    fn size_and_audience_say_with_what() {
        let policy = adaptive(r#"{"min_bytes":100,"fast_bytes":10000,"levels":{"zstd":5,"deflate":4}}"#);
        let all = Codecs::LZ4 | Codecs::ZSTD | Codecs::ZSTD_DICTIONARY | Codecs::DEFLATE;
        let shown = |codec: Option<Codec>| format!("{codec:?}");
        assert_eq!(codec(&policy, 99, all, true), shown(None));
        assert_eq!(codec(&policy, 0, all, true), shown(None));
        assert_eq!(codec(&policy, 100, all, true), shown(Some(Codec::ZstdDictionary(String::new()))));
        assert_eq!(codec(&policy, 100, all, false), shown(Some(Codec::Zstd(5))));
        assert_eq!(
            codec(&policy, 9_000, all, true),
            shown(Some(Codec::Zstd(5))),
            "too large for a dictionary"
        );
        assert_eq!(codec(&policy, 10_000, all, true), shown(Some(Codec::Lz4)));
        assert_eq!(codec(&policy, 10_000, Codecs::ZSTD, false), shown(Some(Codec::Zstd(1))));
        assert_eq!(codec(&policy, 100, Codecs::LZ4 | Codecs::DEFLATE, false), shown(Some(Codec::Lz4)));
        assert_eq!(codec(&policy, 100, Codecs::DEFLATE, false), shown(Some(Codec::Deflate(4))));
        assert_eq!(codec(&policy, 10_000, Codecs::DEFLATE, false), shown(Some(Codec::Deflate(1))));
        assert_eq!(codec(&policy, 100, Codecs::empty(), true), shown(None));
        let quick = adaptive(r#"{"levels":{"zstd":-5}}"#);
        assert_eq!(codec(&quick, 1 << 20, Codecs::ZSTD, false), shown(Some(Codec::Zstd(-5))));
    }

    #[test]
    fn one_in_some_is_looked_into() {
        let mut policy = adaptive(r#"{"rate":3}"#);
        let mut looked = 0;
        let mut worth = |payload: &[u8]| {
            policy.is_worth_it("topic/a", "", || {
                looked += 1;
                payload.to_vec()
            })
        };
        let (text, noise) = (b"key: value\n".repeat(90), noise(1_000));
        assert!((0..9).all(|_| worth(&text)));
        // A mean does not follow one message, but does many.
        assert!((0..3).all(|_| worth(&noise)));
        let last = (0..60).map(|_| worth(&noise)).last();
        assert_eq!(last, Some(false));
        assert_eq!(looked, 72 / 3);
    }

    #[test]
    fn kinds_are_told_apart_by_address_and_type() {
        let mut policy = adaptive(r#"{"types":{"image/*":"none","x/*":"always"}}"#);
        let (text, noise) = (b"key: value\n".repeat(90), noise(1_000));
        assert!(policy.is_worth_it("topic/a", "", || text.clone()));
        assert!(!policy.is_worth_it("topic/a", "application/x", || noise.clone()));
        assert!(!policy.is_worth_it("topic/b", "", || noise.clone()));
        assert!(policy.is_worth_it("topic/a", "", || panic!("it is known")));
        assert!(!policy.is_worth_it("topic/a", "image/png", || panic!("its type says enough")));
        assert!(policy.is_worth_it("topic/a", "x/y", || panic!("its type says enough")));
        assert_eq!(policy.kinds.len(), 3);
    }

    #[test]
    fn there_is_a_bound_for_what_is_remembered() {
        let mut policy = adaptive("{}");
        for n in 0..=KINDS_MAX {
            assert!(!policy.is_worth_it(&format!("topic/{n}"), "", || noise(500)));
            assert!(policy.kinds.len() <= KINDS_MAX);
        }
        assert_eq!(policy.kinds.len(), 1, "forgotten all at once");
        let long = "ß".repeat(4_000);
        assert!(!policy.is_worth_it("topic/a", &long, || noise(500)));
        assert!(policy.kinds.keys().all(|name| name.len() < 300));
    }
}
