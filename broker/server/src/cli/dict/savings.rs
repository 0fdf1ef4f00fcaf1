//! What a dictionary saves on messages that it was not trained from: bytes and time, plain, with a codec, with the dictionary.

use super::super::output;
use crate::clock::Clock;
use anyhow::{bail, ensure};
use serde_json::{Value, json};
use waspmq_protocol::codec::{Dictionary, Method, Packed, PackedCodec, Packer, Unpacker};

/// How long each codec is measured at least, in whole rounds over all messages.
const MEASURED_US: u64 = 50_000;

/// What one codec makes of the messages held out, each by itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outcome {
    codec: &'static str,
    /// Of a message on average. What does not become smaller is sent as it is.
    mean_bytes: f64,
    /// Of a message on average; none for plain ones.
    pack_us: Option<f64>,
    unpack_us: Option<f64>,
}

/// What all three make of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Savings {
    pub(super) outcomes: [Outcome; 3],
}

impl Savings {
    /// Measures on `messages`, of which there is at least one.
    pub(super) fn measure(dictionary: &Dictionary, messages: &[&[u8]]) -> anyhow::Result<Self> {
        ensure!(!messages.is_empty(), "no message is held out to measure on");
        let bytes: usize = messages.iter().map(|message| message.len()).sum();
        let plain = Outcome {
            codec: "plain",
            mean_bytes: mean(bytes as u64, messages),
            pack_us: None,
            unpack_us: None,
        };
        let zstd = run((Method::Zstd { level: 1 }, PackedCodec::Zstd), dictionary, messages)?;
        let with = (Method::Dictionary(dictionary), PackedCodec::Dictionary { id: 1 });
        Ok(Self { outcomes: [plain, zstd, run(with, dictionary, messages)?] })
    }

    /// The part of the bytes that the dictionary saves beyond the codec without one.
    pub(super) fn beyond_zstd(&self) -> f64 {
        let [_, zstd, with] = &self.outcomes;
        saved(with.mean_bytes, zstd.mean_bytes)
    }

    pub(super) fn document(&self) -> Value {
        let of = |outcome: &Outcome| {
            json!({
                "codec": outcome.codec, "mean_bytes": outcome.mean_bytes,
                "pack_us": outcome.pack_us, "unpack_us": outcome.unpack_us,
            })
        };
        self.outcomes.iter().map(of).collect()
    }

    pub(super) fn table(&self) -> String {
        let plain = self.outcomes[0].mean_bytes;
        let us = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{us:.1}"));
        let row = |outcome: &Outcome| {
            vec![
                outcome.codec.to_owned(),
                format!("{:.1}", outcome.mean_bytes),
                format!("{:.1}%", saved(outcome.mean_bytes, plain) * 100.0),
                us(outcome.pack_us),
                us(outcome.unpack_us),
            ]
        };
        let rows: Vec<_> = self.outcomes.iter().map(row).collect();
        output::table(&["CODEC", "BYTES", "SAVED", "PACK US", "UNPACK US"], &rows)
    }
}

/// Packs and unpacks all messages, round after round. What does not come back as it was is an error.
fn run(
    (method, codec): (Method<'_>, PackedCodec),
    dictionary: &Dictionary,
    messages: &[&[u8]],
) -> anyhow::Result<Outcome> {
    let (mut packer, mut unpacker, clock) = (Packer::default(), Unpacker::default(), Clock::new());
    let mut packed = Vec::with_capacity(messages.len());
    let (mut pack_us, mut rounds, mut out) = (0, 0, Vec::new());
    while pack_us < MEASURED_US {
        packed.clear();
        let began_us = clock.now_us();
        for message in messages {
            out.clear();
            packed.push(packer.pack(method, message, &mut out).then(|| out.clone()));
        }
        pack_us += clock.now_us() - began_us;
        rounds += 1;
    }
    let (mut unpack_us, mut back) = (0, 0_usize);
    for _ in 0..rounds {
        let began_us = clock.now_us();
        for (message, packed) in messages.iter().zip(&packed) {
            let Some(packed) = packed else { continue };
            let said = Packed { codec, plain_bytes: u32::try_from(message.len())? };
            let plain = unpacker.unpack(said, Some(dictionary), (packed, message.len()))?;
            back += usize::from(plain == *message);
        }
        unpack_us += clock.now_us() - began_us;
    }
    let unpacked = packed.iter().flatten().count();
    if back != unpacked * rounds {
        bail!("a message packed with {} did not come back as it was", codec.name());
    }
    let sizes =
        messages.iter().zip(&packed).map(|(plain, packed)| packed.as_ref().map_or(plain.len(), Vec::len));
    let rounds = rounds as u64;
    Ok(Outcome {
        codec: codec.name(),
        mean_bytes: mean(sizes.sum::<usize>() as u64, messages),
        pack_us: Some(mean(pack_us, messages) / as_float(rounds)),
        unpack_us: Some(mean(unpack_us, messages) / as_float(rounds)),
    })
}

fn mean(sum: u64, messages: &[&[u8]]) -> f64 {
    as_float(sum) / as_float(messages.len() as u64)
}

#[expect(clippy::cast_precision_loss, reason = "sums of bytes and microseconds stay far below 53 bits")]
const fn as_float(number: u64) -> f64 {
    number as f64
}

/// The part of `whole` that is saved; less than nothing when it is more.
fn saved(bytes: f64, whole: f64) -> f64 {
    1.0 - bytes / whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_protocol::codec;

    #[test]
    fn a_dictionary_is_measured_beside_what_there_is_without() {
        let orders: Vec<_> = (0..400_u32)
            .map(|i| {
                format!(
                    r#"{{"order":{i},"customer":{{"id":{},"tier":"gold"}},"currency":"EUR"}}"#,
                    i * 7_919 % 10_007
                )
            })
            .collect();
        let orders: Vec<&[u8]> = orders.iter().map(String::as_bytes).collect();
        let (learned, held_out) = orders.split_at(360);
        let dictionary = Dictionary::new(&codec::train(learned, 2_048).unwrap()).unwrap();
        let savings = Savings::measure(&dictionary, held_out).unwrap();
        let [plain, zstd, with] = &savings.outcomes;
        assert!((plain.mean_bytes - 66.0).abs() < 2.0, "{savings:?}");
        assert!(
            with.mean_bytes * 2.0 < zstd.mean_bytes && zstd.mean_bytes <= plain.mean_bytes,
            "{savings:?}"
        );
        assert!(savings.beyond_zstd() > 0.5, "{savings:?}");
        assert!(with.pack_us.is_some_and(|us| us > 0.0), "{savings:?}");
        assert!(Savings::measure(&dictionary, &[]).is_err());
    }

    #[test]
    fn the_table_says_what_is_saved() {
        let outcome = |codec, mean_bytes, us| Outcome { codec, mean_bytes, pack_us: us, unpack_us: us };
        let savings = Savings {
            outcomes: [
                outcome("plain", 200.0, None),
                outcome("zstd", 150.0, Some(2.25)),
                outcome("zstd-dict", 50.0, Some(1.0)),
            ],
        };
        let expected = "CODEC      BYTES  SAVED  PACK US  UNPACK US\n\
            plain      200.0  0.0%   -        -\n\
            zstd       150.0  25.0%  2.2      2.2\n\
            zstd-dict  50.0   75.0%  1.0      1.0";
        assert_eq!(savings.table(), expected);
    }
}
