//! The codecs there and back, and everything that they refuse.

use super::*;
use proptest::prelude::*;
use std::sync::OnceLock;

fn order(number: u32) -> Vec<u8> {
    format!(
        r#"{{"order":{number},"customer":{{"id":{},"tier":"gold","country":"DE"}},"items":[{{"sku":"A-{}","qty":{},"price":"{}.99"}}],"status":"created","currency":"EUR"}}"#,
        number * 7919 % 10_007,
        number * 31 % 997,
        number % 5 + 1,
        number % 90,
    )
    .into_bytes()
}

fn orders(count: u32) -> Vec<Vec<u8>> {
    (0..count).map(order).collect()
}

fn trained() -> Dictionary {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let train = || {
        let samples = orders(2_000);
        let samples: Vec<&[u8]> = samples.iter().map(Vec::as_slice).collect();
        train(&samples, 4 * 1024).unwrap()
    };
    Dictionary::new(BYTES.get_or_init(train)).unwrap()
}

fn packed(codec: PackedCodec, plain: &[u8]) -> Packed {
    Packed { codec, plain_bytes: u32::try_from(plain.len()).unwrap() }
}

#[test]
fn every_method_comes_back() {
    let (mut packer, mut unpacker, dictionary) = (Packer::default(), Unpacker::default(), trained());
    let plain = orders(6).concat();
    let methods = [
        (Method::Lz4, PackedCodec::Lz4),
        (Method::Zstd { level: -7 }, PackedCodec::Zstd),
        (Method::Zstd { level: 9 }, PackedCodec::Zstd),
        (Method::Dictionary(&dictionary), PackedCodec::Dictionary { id: 1 }),
    ];
    for (method, codec) in methods {
        let mut out = b"before".to_vec();
        assert!(packer.pack(method, &plain, &mut out), "{method:?}");
        let (before, bytes) = out.split_at(6);
        assert_eq!(before, b"before");
        assert!(bytes.len() < plain.len() / 2, "{method:?}: {}", bytes.len());
        let back = unpacker.unpack(packed(codec, &plain), Some(&dictionary), (bytes, plain.len()));
        assert_eq!(back.as_deref(), Ok(&*plain), "{method:?}");
    }
}

#[test]
fn a_dictionary_makes_a_small_message_smaller() {
    let (mut packer, dictionary) = (Packer::default(), trained());
    let (plain, mut with, mut without) = (order(123_456), Vec::new(), Vec::new());
    assert!(packer.pack(Method::Dictionary(&dictionary), &plain, &mut with));
    packer.pack(Method::Zstd { level: 1 }, &plain, &mut without);
    let without = if without.is_empty() { plain.len() } else { without.len() };
    assert!(with.len() * 2 < without, "{} of {without} of {}", with.len(), plain.len());
}

#[test]
fn what_does_not_shrink_is_left_alone() {
    let mut packer = Packer::default();
    let mut plain = vec![0; 4_096];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut plain);
    for method in [Method::Lz4, Method::Zstd { level: 3 }] {
        let mut out = Vec::new();
        assert!(!packer.pack(method, &plain, &mut out));
        assert!(!packer.pack(method, b"", &mut out));
        assert!(out.is_empty());
    }
}

#[test]
fn bombs_are_refused_before_anything_is_held() {
    let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
    let plain = vec![0_u8; 64 * 1024 * 1024];
    for (method, codec) in [(Method::Lz4, PackedCodec::Lz4), (Method::Zstd { level: 1 }, PackedCodec::Zstd)] {
        let mut bomb = Vec::new();
        assert!(packer.pack(method, &plain, &mut bomb));
        let max = 1024 * 1024;
        let honest = unpacker.unpack(packed(codec, &plain), None, (&bomb, max));
        assert_eq!(honest, Err(UnpackError::TooLarge { bytes: plain.len(), max }));
        // One that says it is small is cut where it passes what it said.
        let liar = unpacker.unpack(Packed { codec, plain_bytes: 1_000 }, None, (&bomb, max));
        assert!(matches!(liar, Err(UnpackError::Damaged { .. })), "{codec:?}");
    }
}

#[test]
fn a_size_that_is_not_reached_is_refused() {
    let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
    let plain = orders(4).concat();
    for (method, codec) in [(Method::Lz4, PackedCodec::Lz4), (Method::Zstd { level: 1 }, PackedCodec::Zstd)] {
        let mut bytes = Vec::new();
        assert!(packer.pack(method, &plain, &mut bytes));
        let announced = plain.len() + 1;
        let said = Packed { codec, plain_bytes: u32::try_from(announced).unwrap() };
        assert_eq!(
            unpacker.unpack(said, None, (&bytes, usize::MAX)),
            Err(UnpackError::OtherSize { announced })
        );
    }
}

#[test]
fn a_dictionary_that_is_missing_or_another_is_told() {
    let (mut packer, mut unpacker, dictionary) = (Packer::default(), Unpacker::default(), trained());
    let (plain, mut bytes) = (order(9), Vec::new());
    assert!(packer.pack(Method::Dictionary(&dictionary), &plain, &mut bytes));
    let said = packed(PackedCodec::Dictionary { id: 5 }, &plain);
    let unpack = |unpacker: &mut Unpacker, with| unpacker.unpack(said, with, (&bytes, 1_000));
    assert_eq!(unpack(&mut unpacker, None), Err(UnpackError::NoDictionary { id: 5 }));
    let others: Vec<Vec<u8>> = (0..500).map(|i| format!("line {i} of {}", i * i).into_bytes()).collect();
    let others: Vec<&[u8]> = others.iter().map(Vec::as_slice).collect();
    let other = Dictionary::new(&train(&others, 1_024).unwrap()).unwrap();
    assert!(unpack(&mut unpacker, Some(&other)).is_err());
    assert_eq!(unpack(&mut unpacker, Some(&dictionary)).as_deref(), Ok(&*plain));
}

#[test]
fn the_peer_is_told_in_these_words() {
    use crate::error::Problem;
    use waspmq_core::Code;
    let check = |error: UnpackError, code: Code| {
        let reject = Problem::from(error).reject();
        assert_eq!((reject.code, &*reject.message), (code, &*error.to_string()));
    };
    check(UnpackError::TooLarge { bytes: u32::MAX as usize, max: 1_024 }, Code::MessageTooLarge);
    check(UnpackError::Damaged { codec: "lz4" }, Code::InvalidPayload);
    check(UnpackError::NoDictionary { id: 7 }, Code::InvalidPayload);
}

#[test]
fn what_is_no_dictionary_is_refused() {
    let good = trained();
    let refused = |bytes: &[u8]| Dictionary::new(bytes).unwrap_err();
    assert_eq!(refused(b""), DictionaryError::NotOne);
    assert_eq!(refused(b"{\"order\":1}"), DictionaryError::NotOne);
    assert_eq!(refused(&vec![0; DICTIONARY_BYTES_MAX + 1]), DictionaryError::TooLarge { bytes: 131_073 });
    assert_eq!(refused(good.bytes().get(..8).unwrap()), DictionaryError::Damaged);
    assert_eq!(refused(good.bytes().get(..60).unwrap()), DictionaryError::Damaged);
}

#[test]
fn training_says_what_it_lacks() {
    let few: Vec<&[u8]> = vec![b"one"; 9];
    assert_eq!(train(&few, 1_024), Err(TrainError::TooFew { there: 9, least: 10 }));
    let tiny: Vec<&[u8]> = vec![b"1"; 50];
    assert_eq!(train(&tiny, 1_024), Err(TrainError::NothingInCommon));
}

proptest! {
    #[test]
    fn any_payload_comes_back(plain in prop::collection::vec(any::<u8>(), 0..3_000), repeat in 1_usize..5) {
        let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
        let plain = plain.repeat(repeat);
        for (method, codec) in
            [(Method::Lz4, PackedCodec::Lz4), (Method::Zstd { level: 1 }, PackedCodec::Zstd)]
        {
            let mut bytes = Vec::new();
            if packer.pack(method, &plain, &mut bytes) {
                prop_assert!(bytes.len() < plain.len());
                let back = unpacker.unpack(packed(codec, &plain), None, (&bytes, plain.len()));
                prop_assert_eq!(back.as_deref(), Ok(&*plain));
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read(
        bytes in prop::collection::vec(any::<u8>(), 0..500),
        plain_bytes in 0_u32..5_000,
    ) {
        let mut unpacker = Unpacker::default();
        for codec in [PackedCodec::Lz4, PackedCodec::Zstd] {
            if let Ok(plain) = unpacker.unpack(Packed { codec, plain_bytes }, None, (&bytes, 4_096)) {
                prop_assert_eq!(plain.len(), plain_bytes as usize);
            }
        }
    }

    /// A dictionary whose bytes were changed is refused, or serves both directions.
    #[test]
    fn a_changed_dictionary_does_no_harm(at in 0_usize..4_096, bit in 0_u8..8) {
        let mut bytes = trained().bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(dictionary) = Dictionary::new(&bytes) {
            let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
            let (plain, mut packed_bytes) = (order(77), Vec::new());
            if packer.pack(Method::Dictionary(&dictionary), &plain, &mut packed_bytes) {
                let said = packed(PackedCodec::Dictionary { id: 1 }, &plain);
                let back = unpacker.unpack(said, Some(&dictionary), (&packed_bytes, 4_096));
                prop_assert_eq!(back.as_deref(), Ok(&*plain));
            }
        }
    }
}
