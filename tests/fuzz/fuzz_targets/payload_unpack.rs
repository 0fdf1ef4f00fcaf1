//! Compressed payloads: first byte the codec, two bytes the announced size, then the compressed bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use waspmq_protocol::codec::{self, Dictionary, Method, Packed, PackedCodec, Packer, Unpacker};

/// A dictionary for lines of numbers.
static DICTIONARY: LazyLock<Dictionary> = LazyLock::new(|| {
    let samples: Vec<Vec<u8>> = (0..500).map(|i| format!("line {i} of {}", i * i).into_bytes()).collect();
    let samples: Vec<&[u8]> = samples.iter().map(Vec::as_slice).collect();
    let bytes = codec::train(&samples, 1_024).expect("the samples have something in common");
    Dictionary::new(&bytes).expect("what was trained is a dictionary")
});

const MAX: usize = 32 * 1024;

fuzz_target!(|input: &[u8]| {
    let Some((&[codec, low, high], bytes)) = input.split_first_chunk() else { return };
    let (codec, method) = match codec % 3 {
        0 => (PackedCodec::Lz4, Method::Lz4),
        1 => (PackedCodec::Zstd, Method::Zstd { level: 1 }),
        _ => (PackedCodec::Dictionary { id: 1 }, Method::Dictionary(&DICTIONARY)),
    };
    let mut unpacker = Unpacker::default();
    let packed = Packed { codec, plain_bytes: u32::from(u16::from_le_bytes([low, high])) };
    if let Ok(plain) = unpacker.unpack(packed, Some(&DICTIONARY), (bytes, MAX)) {
        assert_eq!(plain.len(), packed.plain_bytes as usize);
        assert!(plain.len() <= MAX);
    }
    // What is compressed here is read back.
    let mut out = Vec::new();
    if Packer::default().pack(method, bytes, &mut out) {
        let packed = Packed { codec, plain_bytes: u32::try_from(bytes.len()).expect("short") };
        let back = unpacker.unpack(packed, Some(&DICTIONARY), (&out, usize::MAX));
        assert_eq!(back.as_deref(), Ok(bytes));
    }
});
