//! Reads the answers of ack, admission and compression policies, and the action of an overflow policy.

use super::lift::{self, Lift, Reader, behind, tag, u32_at};
use super::types::Type;
use super::world;
use crate::bindings::{AckLevel, AckPlan, Action, Admission, Decision, Exhausted, Quorum, Refusal};
use crate::codecs::{self, AnsweredCodec};
use crate::verdict::{Routed, Ruling};
use std::borrow::Cow;
use wasmtime::{Result, bail};
use waspmq_core::compression::Codec;

impl Lift<'_> for AckPlan {
    const TYPE: Type = world::ACK_PLAN;

    fn read(_: &mut Reader<'_>, bytes: &[u8]) -> Result<Self> {
        Ok(Self {
            level: level(tag(behind(bytes, const { world::ACK_PLAN.field_at("level") }))?)?,
            quorum: quorum(behind(bytes, const { world::ACK_PLAN.field_at("quorum") }))?,
            timeout_ms: u32_at(bytes, const { world::ACK_PLAN.field_at("timeout-ms") })?,
            attempts: u16_at(bytes, const { world::ACK_PLAN.field_at("attempts") })?,
            initial_ms: u32_at(bytes, const { world::ACK_PLAN.field_at("initial-ms") })?,
            max_ms: u32_at(bytes, const { world::ACK_PLAN.field_at("max-ms") })?,
            jitter_percent: tag(behind(bytes, const { world::ACK_PLAN.field_at("jitter-percent") }))?,
            exhausted: match tag(behind(bytes, const { world::ACK_PLAN.field_at("exhausted") }))? {
                0 => Exhausted::DeadLetter,
                1 => Exhausted::Drop,
                other => bail!("unexpected discriminant: {other}"),
            },
        })
    }
}

fn level(discriminant: u8) -> Result<AckLevel> {
    Ok(match discriminant {
        0 => AckLevel::None,
        1 => AckLevel::Accepted,
        2 => AckLevel::Stored,
        3 => AckLevel::Delivered,
        other => bail!("unexpected discriminant: {other}"),
    })
}

fn quorum(bytes: &[u8]) -> Result<Quorum> {
    const ANY: u8 = world::QUORUM.case("any");
    const COUNT: u8 = world::QUORUM.case("count");
    const ALL: u8 = world::QUORUM.case("all");
    Ok(match tag(bytes)? {
        ANY => Quorum::Any,
        COUNT => Quorum::Count(u32_at(bytes, const { world::QUORUM.payload_at() })?),
        ALL => Quorum::All,
        other => bail!("unexpected discriminant: {other}"),
    })
}

impl Lift<'_> for Decision {
    const TYPE: Type = world::DECISION;

    fn read(_: &mut Reader<'_>, bytes: &[u8]) -> Result<Self> {
        const CONTINUE: u8 = world::DECISION.case("continue");
        const RETRY: u8 = world::DECISION.case("retry");
        const WAIT: u8 = world::DECISION.case("wait");
        const GIVE_UP: u8 = world::DECISION.case("give-up");
        const AT: usize = world::DECISION.payload_at();
        Ok(match tag(bytes)? {
            CONTINUE => Self::Continue,
            RETRY => Self::Retry(u32_at(bytes, AT)?),
            WAIT => Self::Wait(u32_at(bytes, AT)?),
            GIVE_UP => Self::GiveUp,
            other => bail!("unexpected discriminant: {other}"),
        })
    }
}

impl<'a> Lift<'a> for Admission {
    const TYPE: Type = world::ADMISSION;

    fn read(reader: &mut Reader<'a>, bytes: &'a [u8]) -> Result<Self> {
        const CONTINUE: u8 = world::ADMISSION.case("continue");
        const ACCEPT: u8 = world::ADMISSION.case("accept");
        const REFUSE: u8 = world::ADMISSION.case("refuse");
        Ok(match tag(bytes)? {
            CONTINUE => Self::Continue,
            ACCEPT => Self::Accept,
            REFUSE => {
                let refusal = behind(bytes, const { world::ADMISSION.payload_at() });
                let reason = behind(refusal, const { world::REFUSAL.field_at("reason") });
                Self::Refuse(Refusal {
                    reason: Cow::read(reader, reason)?.into_owned(),
                    retry_ms: u32_at(refusal, const { world::REFUSAL.field_at("retry-ms") })?,
                })
            }
            other => bail!("unexpected discriminant: {other}"),
        })
    }
}

/// A verdict that an adapter read: which case, and what it holds for.
#[inline]
pub(crate) fn brief_route(case: u8, cache: u8) -> Result<Routed> {
    const CONTINUE: u8 = world::ROUTES.case("continue");
    const DELIVER: u8 = world::ROUTES.case("deliver");
    let ruling = match case {
        CONTINUE => Ruling::Continue,
        DELIVER => Ruling::Deliver,
        other => bail!("unexpected discriminant: {other}"),
    };
    Ok(Routed { ruling, cache: lift::cache(cache)? })
}

/// An answer to an offered message that an adapter read.
#[inline]
pub(crate) fn brief_admission(case: u8) -> Result<Admission> {
    const CONTINUE: u8 = world::ADMISSION.case("continue");
    const ACCEPT: u8 = world::ADMISSION.case("accept");
    Ok(match case {
        CONTINUE => Admission::Continue,
        ACCEPT => Admission::Accept,
        other => bail!("unexpected discriminant: {other}"),
    })
}

impl<'a> Lift<'a> for codecs::Answer<'a> {
    const TYPE: Type = world::CHOICE;

    fn read(reader: &mut Reader<'a>, bytes: &'a [u8]) -> Result<Self> {
        const CONTINUE: u8 = world::CODEC.case("continue");
        const NONE: u8 = world::CODEC.case("none");
        const LZ4: u8 = world::CODEC.case("lz4");
        const ZSTD: u8 = world::CODEC.case("zstd");
        const DICTIONARY: u8 = world::CODEC.case("zstd-dictionary");
        const DEFLATE: u8 = world::CODEC.case("deflate");
        let codec = behind(bytes, const { world::CHOICE.field_at("codec") });
        let value = behind(codec, const { world::CODEC.payload_at() });
        let codec = match tag(codec)? {
            CONTINUE => AnsweredCodec::Continue,
            NONE => AnsweredCodec::None,
            LZ4 => AnsweredCodec::Lz4,
            ZSTD => AnsweredCodec::Zstd(tag(value)?.cast_signed()),
            DICTIONARY => AnsweredCodec::Dictionary(Cow::read(reader, value)?),
            DEFLATE => AnsweredCodec::Deflate(tag(value)?),
            other => bail!("unexpected discriminant: {other}"),
        };
        let cache = lift::cache(tag(behind(bytes, const { world::CHOICE.field_at("cache") }))?)?;
        Ok(Self { codec, cache })
    }
}

/// A choice that an adapter read: which codec without a level, and what it holds for.
#[inline]
pub(crate) fn brief_choice(case: u8, cache: u8) -> Result<codecs::Choice> {
    const CONTINUE: u8 = world::CODEC.case("continue");
    const NONE: u8 = world::CODEC.case("none");
    const LZ4: u8 = world::CODEC.case("lz4");
    let codec = match case {
        CONTINUE => None,
        NONE => Some(Codec::Plain),
        LZ4 => Some(Codec::Lz4),
        other => bail!("unexpected discriminant: {other}"),
    };
    Ok(codecs::Choice { codec, cache: lift::cache(cache)? })
}

// The one brief answer of these hooks is their first case.
const _: () = assert!(Type::Option(&world::ACK_PLAN).first_plain_cases() == 1);
const _: () = assert!(world::DECISION.first_plain_cases() == 1 && world::DECISION.case("continue") == 0);

/// The action that a core value stands for.
pub(crate) fn action(discriminant: u32) -> Result<Action> {
    Ok(match discriminant {
        0 => Action::Continue,
        1 => Action::DropOldest,
        2 => Action::DropNewest,
        3 => Action::Conflate,
        4 => Action::Spill,
        5 => Action::Close,
        other => bail!("unexpected discriminant: {other}"),
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    match behind(bytes, at).first_chunk() {
        Some(bytes) => Ok(u16::from_le_bytes(*bytes)),
        None => bail!("pointer out of bounds of memory"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::Cache;
    use crate::fast::plan::Encoding;

    fn read<'a, T: Lift<'a>>(memory: &'a [u8]) -> Option<T> {
        Reader::new(memory, Encoding::Utf8).result(0).ok()
    }

    /// The bytes with another one at a place.
    fn with(bytes: &[u8], at: usize, value: u8) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes[at] = value;
        bytes
    }

    #[test]
    fn decisions() {
        let retry = [1, 9, 9, 9, 7, 1, 0, 0];
        assert!(matches!(read(&retry), Some(Decision::Retry(263))));
        assert!(matches!(read(&with(&retry, 0, 2)), Some(Decision::Wait(263))));
        assert!(matches!(read(&with(&retry, 0, 3)), Some(Decision::GiveUp)));
        assert!(read::<Decision>(&with(&retry, 0, 4)).is_none());
        assert!(read::<Decision>(&retry[..7]).is_none(), "it ends behind the memory");
    }

    #[test]
    fn plans() {
        // Option at 0; level, quorum with its count, timeout, attempts, initial and largest wait, jitter, exhausted.
        let plan = [
            1, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7, 1, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0,
            10, 1, 0, 0,
        ];
        let Some(Some(read_plan)) = read::<Option<AckPlan>>(&plan) else { panic!("a good plan") };
        assert!(matches!(
            read_plan,
            AckPlan {
                level: AckLevel::Delivered,
                quorum: Quorum::Count(5),
                timeout_ms: 6,
                attempts: 263,
                initial_ms: 8,
                max_ms: 9,
                jitter_percent: 10,
                exhausted: Exhausted::Drop,
            }
        ));
        assert!(matches!(read::<Option<AckPlan>>(&with(&plan, 0, 0)), Some(None)));
        for (at, value) in [(0, 2), (4, 4), (8, 3), (33, 2)] {
            assert!(read::<Option<AckPlan>>(&with(&plan, at, value)).is_none(), "{value} at {at}");
        }
    }

    #[test]
    fn refusals() {
        let mut refusal = vec![2, 0, 0, 0, 16, 0, 0, 0, 3, 0, 0, 0, 7, 0, 0, 0];
        refusal.extend("nö".bytes());
        let Some(Admission::Refuse(told)) = read(&refusal) else { panic!("a good refusal") };
        assert_eq!((told.reason.as_str(), told.retry_ms), ("nö", 7));
        assert!(read::<Admission>(&with(&refusal, 0, 3)).is_none());
        assert!(read::<Admission>(&with(&refusal, 4, 17)).is_none(), "it ends behind the memory");
        assert!(read::<Admission>(&with(&refusal, 8, 2)).is_none(), "half of a code point");
        assert!(read::<Admission>(&with(&refusal, 16, 0xff)).is_none());
    }

    #[test]
    fn choices() {
        // Case, three bytes of nothing, the value in up to eight bytes, what it holds for.
        let zstd = [3, 9, 9, 9, 0xfb, 9, 9, 9, 9, 9, 9, 9, 1, 9, 9, 9];
        fn codec(memory: &[u8]) -> Option<AnsweredCodec<'_>> {
            read::<codecs::Answer<'_>>(memory).map(|answer| answer.codec)
        }
        assert_eq!(codec(&zstd), Some(AnsweredCodec::Zstd(-5)));
        let cache = |last| read::<codecs::Answer<'_>>(&with(&zstd, 12, last)).map(|answer| answer.cache);
        assert_eq!(
            [0, 1, 2, 3].map(cache),
            [Some(Cache::Never), Some(Cache::Address), Some(Cache::Connection), None]
        );
        assert_eq!(codec(&with(&zstd, 0, 0)), Some(AnsweredCodec::Continue));
        assert_eq!(codec(&with(&zstd, 0, 1)), Some(AnsweredCodec::None));
        assert_eq!(codec(&with(&zstd, 0, 2)), Some(AnsweredCodec::Lz4));
        assert_eq!(codec(&with(&zstd, 0, 5)), Some(AnsweredCodec::Deflate(251)));
        assert_eq!(codec(&with(&zstd, 0, 6)), None);
        assert_eq!(codec(&zstd[..15]), None, "it ends behind the memory");
        let mut named = vec![4, 0, 0, 0, 16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        named.extend("nö".bytes());
        assert_eq!(codec(&named), Some(AnsweredCodec::Dictionary("nö".into())));
        assert_eq!(codec(&with(&named, 4, 17)), None);
        assert_eq!(codec(&with(&named, 8, 2)), None, "half of a code point");
    }

    #[test]
    fn brief_choices_are_those_without_a_value() {
        assert_eq!(world::CODEC.first_plain_cases(), 3);
        for (case, codec) in [None, Some(Codec::Plain), Some(Codec::Lz4)].into_iter().enumerate() {
            let case = u8::try_from(case).unwrap();
            for (number, cache) in [(0, Cache::Never), (1, Cache::Address), (2, Cache::Connection)] {
                let expected = codecs::Choice { codec: codec.clone(), cache };
                assert_eq!(brief_choice(case, number).ok(), Some(expected));
            }
        }
        assert!(brief_choice(3, 0).is_err() && brief_choice(0, 3).is_err());
    }

    #[test]
    fn actions() {
        assert!((0..6).all(|case| action(case).is_ok_and(|action| action as u32 == case)));
        assert!(action(6).is_err() && action(u32::MAX).is_err());
    }
}
