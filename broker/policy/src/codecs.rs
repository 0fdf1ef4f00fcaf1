//! What compression policies are told and what they answer, between the domain and the WIT types.
//!
//! A level or a name out of bounds is the policy's failure. A codec that the audience does not take is not: what stands
//! in for it then is the same for every policy, and the broker's to say. Deliberately not here: what a codec does.

use crate::answers::BadAnswer;
use crate::bindings::{self, Cache};
use crate::verdict::Known;
use serde_json::{Value, json};
use std::borrow::Cow;
use waspmq_core::compression::{Audience, Codec, Codecs, DEFLATE_LEVELS, ZSTD_LEVELS};

/// A choice as the policy gave it, by whichever lane; text may lie in the guest's memory.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) codec: AnsweredCodec<'a>,
    pub(crate) cache: Cache,
}

/// See [`Answer`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AnsweredCodec<'a> {
    Continue,
    None,
    Lz4,
    Zstd(i8),
    /// An empty name stands for the dictionary of the address.
    Dictionary(Cow<'a, str>),
    Deflate(u8),
}

/// A checked choice, and what it holds for; no codec leaves it to the next policy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) codec: Option<Codec>,
    pub(crate) cache: Cache,
}

impl From<bindings::Choice> for Answer<'_> {
    fn from(choice: bindings::Choice) -> Self {
        let codec = match choice.codec {
            bindings::Codec::Continue => AnsweredCodec::Continue,
            bindings::Codec::None => AnsweredCodec::None,
            bindings::Codec::Lz4 => AnsweredCodec::Lz4,
            bindings::Codec::Zstd(level) => AnsweredCodec::Zstd(level),
            bindings::Codec::ZstdDictionary(name) => AnsweredCodec::Dictionary(name.into()),
            bindings::Codec::Deflate(level) => AnsweredCodec::Deflate(level),
        };
        Self { codec, cache: choice.cache }
    }
}

pub(crate) fn audience(audience: Audience) -> bindings::Audience {
    let all = [
        (Codecs::LZ4, bindings::Codecs::LZ4),
        (Codecs::ZSTD, bindings::Codecs::ZSTD),
        (Codecs::DICTIONARY, bindings::Codecs::ZSTD_DICTIONARY),
        (Codecs::DEFLATE, bindings::Codecs::DEFLATE),
    ];
    let taken = all.into_iter().filter(|(codec, _)| audience.codecs.contains(*codec));
    bindings::Audience {
        codecs: taken.fold(bindings::Codecs::empty(), |codecs, (_, codec)| codecs | codec),
        dictionary: audience.has_dictionary,
    }
}

// The fast lane passes the domain's bits as the flags of the contract.
const _: () = assert!(
    Codecs::LZ4.bits() == 1
        && Codecs::ZSTD.bits() == 2
        && Codecs::DICTIONARY.bits() == 4
        && Codecs::DEFLATE.bits() == 8
);

/// Checks a choice; `known` finds the names of dictionaries again.
pub(crate) fn check(answer: Answer<'_>, known: &mut Known) -> Result<Choice, BadAnswer> {
    let codec = match answer.codec {
        AnsweredCodec::Continue => None,
        AnsweredCodec::None => Some(Codec::Plain),
        AnsweredCodec::Lz4 => Some(Codec::Lz4),
        AnsweredCodec::Zstd(level) => Some(zstd(level)?),
        AnsweredCodec::Dictionary(name) if name.is_empty() => Some(Codec::Dictionary { name: None }),
        AnsweredCodec::Dictionary(name) => match known.name(&name) {
            Ok(name) => Some(Codec::Dictionary { name: Some(name) }),
            Err(source) => return Err(BadAnswer::Dictionary { name: shorten(&name), source }),
        },
        AnsweredCodec::Deflate(level) => Some(deflate(level)?),
    };
    Ok(Choice { codec, cache: answer.cache })
}

pub(crate) fn zstd(level: i8) -> Result<Codec, BadAnswer> {
    if !ZSTD_LEVELS.contains(&level) {
        let (least, most) = (*ZSTD_LEVELS.start(), *ZSTD_LEVELS.end());
        return Err(BadAnswer::Level { codec: "zstd", level: level.into(), least, most });
    }
    Ok(Codec::Zstd { level })
}

pub(crate) fn deflate(level: u8) -> Result<Codec, BadAnswer> {
    if !DEFLATE_LEVELS.contains(&level) {
        return Err(BadAnswer::Level { codec: "deflate", level: level.into(), least: 1, most: 9 });
    }
    Ok(Codec::Deflate { level })
}

const _: () = assert!(*DEFLATE_LEVELS.start() == 1 && *DEFLATE_LEVELS.end() == 9);

fn shorten(name: &str) -> String {
    const SHOWN_BYTES_MAX: usize = 80;
    bindings::cut(name, SHOWN_BYTES_MAX).to_owned()
}

/// A codec without the name of its dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coded {
    Plain,
    Lz4,
    Zstd(i8),
    Dictionary,
    Deflate(u8),
}

impl Coded {
    /// The codec, and the name of the dictionary where one is named.
    pub(crate) fn of(codec: &Codec) -> (Self, Option<&str>) {
        let coded = match codec {
            Codec::Plain => Self::Plain,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd { level } => Self::Zstd(*level),
            Codec::Dictionary { name } => {
                return (Self::Dictionary, name.as_ref().map(waspmq_core::address::Name::as_str));
            }
            Codec::Deflate { level } => Self::Deflate(*level),
        };
        (coded, None)
    }

    /// For people, as rules write it.
    pub(crate) fn show(self, dictionary: Option<&str>) -> Value {
        match (self, dictionary) {
            (Self::Plain, _) => json!("none"),
            (Self::Lz4, _) => json!("lz4"),
            (Self::Zstd(level), _) => json!({ "zstd": level }),
            (Self::Dictionary, None) => json!("dictionary"),
            (Self::Dictionary, Some(name)) => json!({ "dictionary": name }),
            (Self::Deflate(level), _) => json!({ "deflate": level }),
        }
    }
}

/// The codecs that an audience takes, as clients name them, and as captures do.
pub(crate) fn names(codecs: Codecs) -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().filter(move |(codec, _)| codecs.contains(*codec)).map(|(_, name)| name)
}

/// The codec of a name; none when there is no such codec.
pub(crate) fn of_name(name: &str) -> Option<Codecs> {
    NAMES.into_iter().find(|(_, known)| *known == name).map(|(codec, _)| codec)
}

/// Those that there are, for who named another one.
pub(crate) fn all_names() -> String {
    NAMES.map(|(_, name)| name).join(", ")
}

const NAMES: [(Codecs, &str); 4] = [
    (Codecs::LZ4, "lz4"),
    (Codecs::ZSTD, "zstd"),
    (Codecs::DICTIONARY, "zstd-dict"),
    (Codecs::DEFLATE, "deflate"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(codec: AnsweredCodec<'_>) -> Result<Option<Codec>, String> {
        let answer = Answer { codec, cache: Cache::Address };
        check(answer, &mut Known::default()).map(|choice| choice.codec).map_err(|bad| bad.to_string())
    }

    #[test]
    fn levels_have_their_bounds() {
        for level in i8::MIN..=i8::MAX {
            let expected = (-7..=9).contains(&level).then_some(Some(Codec::Zstd { level }));
            assert_eq!(checked(AnsweredCodec::Zstd(level)).ok(), expected, "{level}");
        }
        for level in 0..=u8::MAX {
            let expected = (1..=9).contains(&level).then_some(Some(Codec::Deflate { level }));
            assert_eq!(checked(AnsweredCodec::Deflate(level)).ok(), expected, "{level}");
        }
        let bad = checked(AnsweredCodec::Zstd(-8)).unwrap_err();
        assert_eq!(bad, "level -8 of zstd, allowed are -7 to 9");
        let bad = checked(AnsweredCodec::Deflate(0)).unwrap_err();
        assert_eq!(bad, "level 0 of deflate, allowed are 1 to 9");
    }

    #[test]
    fn dictionaries_are_named_or_that_of_the_address() {
        assert_eq!(checked(AnsweredCodec::Dictionary("".into())), Ok(Some(Codec::Dictionary { name: None })));
        let Ok(Some(Codec::Dictionary { name: Some(name) })) =
            checked(AnsweredCodec::Dictionary("orders".into()))
        else {
            panic!("a good name")
        };
        assert_eq!(name.as_str(), "orders");
        for bad in ["two words", "a/b", &"x".repeat(10_000)] {
            let reason = checked(AnsweredCodec::Dictionary(bad.into())).unwrap_err();
            assert!(reason.contains("names no dictionary") && reason.len() < 300, "{reason}");
        }
    }

    #[test]
    fn an_audience_is_told_flag_by_flag() {
        for bits in 0..16_u8 {
            let codecs = NAMES.into_iter().enumerate().fold(Codecs::NONE, |codecs, (place, (codec, _))| {
                if bits >> place & 1 == 1 { codecs.with(codec) } else { codecs }
            });
            let told = audience(Audience { codecs, has_dictionary: bits % 3 == 0 });
            let has = |codec: bindings::Codecs| told.codecs.contains(codec);
            let expected = [0, 1, 2, 3].map(|place| bits >> place & 1 == 1);
            let flags = [
                bindings::Codecs::LZ4,
                bindings::Codecs::ZSTD,
                bindings::Codecs::ZSTD_DICTIONARY,
                bindings::Codecs::DEFLATE,
            ];
            assert_eq!((flags.map(has), told.dictionary), (expected, bits % 3 == 0));
            let back = names(codecs).filter_map(of_name).fold(Codecs::NONE, Codecs::with);
            assert_eq!(back, codecs);
        }
        assert_eq!(of_name("br"), None);
    }
}
