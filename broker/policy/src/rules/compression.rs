//! What a rule says about how a message is sent.

use super::reader::{At, BadRule};
use crate::codecs;
use serde::Deserialize;
use serde_json::Value;
use waspmq_core::address::Name;
use waspmq_core::compression::Codec;

/// The answer of a rule; none leaves the matter to the next policy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Compressed(pub(crate) Option<Codec>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    codec: Value,
}

/// A codec with what it needs to be told, of which there is one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum WithValue {
    Zstd(i8),
    Dictionary(String),
    Deflate(u8),
}

/// What the broker compresses with where nothing says otherwise.
const LEVEL: u8 = 1;

impl Compressed {
    pub(crate) fn parse(at: At<'_>, then: &Value) -> Result<Self, BadRule> {
        if let Value::String(word) = then {
            return at.word(word, &[("continue", ())]).map(|()| Self(None));
        }
        let Document { codec } = at.read(then)?;
        let here = format!("{}.codec", at.0);
        read(At(&here), &codec).map(|codec| Self(Some(codec)))
    }
}

fn read(at: At<'_>, codec: &Value) -> Result<Codec, BadRule> {
    let Value::String(word) = codec else {
        return match at.read_any(codec)? {
            WithValue::Zstd(level) => codecs::zstd(level).map_err(|bad| at.bad_key("zstd", bad.to_string())),
            WithValue::Deflate(level) => {
                codecs::deflate(level).map_err(|bad| at.bad_key("deflate", bad.to_string()))
            }
            WithValue::Dictionary(name) => {
                let name = Name::parse(&name).map_err(|bad| at.bad_key("dictionary", bad.to_string()))?;
                Ok(Codec::Dictionary { name: Some(name) })
            }
        };
    };
    #[derive(Clone, Copy)]
    enum Word {
        None,
        Lz4,
        Zstd,
        Dictionary,
        Deflate,
    }
    let words = [
        ("none", Word::None),
        ("lz4", Word::Lz4),
        ("zstd", Word::Zstd),
        ("dictionary", Word::Dictionary),
        ("deflate", Word::Deflate),
    ];
    Ok(match at.word(word, &words)? {
        Word::None => Codec::Plain,
        Word::Lz4 => Codec::Lz4,
        Word::Zstd => Codec::Zstd { level: LEVEL.cast_signed() },
        Word::Dictionary => Codec::Dictionary { name: None },
        Word::Deflate => Codec::Deflate { level: LEVEL },
    })
}
