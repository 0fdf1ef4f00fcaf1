//! Dictionaries of Zstandard (RFC 8878, section 5): what messages of an address have in common, told beforehand.

use zstd_safe::{CDict, DDict};

/// Bytes of a dictionary. Larger: refused. Trained ones have 16 KiB by default.
pub const DICTIONARY_BYTES_MAX: usize = 128 * 1024;

/// What every dictionary begins with, little-endian.
const MAGIC: [u8; 4] = 0xec30_a437_u32.to_le_bytes();

/// The level messages are compressed at with a dictionary: above it a message of 1 KiB costs twice the time for a tenth
/// of the bytes.
const LEVEL: i32 = 1;

/// A dictionary, ready for both directions. Its tables take about ten times its bytes.
pub struct Dictionary {
    bytes: Box<[u8]>,
    digest: [u8; 32],
    pub(super) compressing: CDict<'static>,
    pub(super) decompressing: DDict<'static>,
}

impl std::fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dictionary").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// Why bytes are not a dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DictionaryError {
    #[error("the dictionary has {bytes} bytes, the limit is {max}", max = DICTIONARY_BYTES_MAX)]
    TooLarge { bytes: usize },
    #[error("these are not the bytes of a Zstandard dictionary: they do not begin with 37 a4 30 ec")]
    NotOne,
    #[error("the dictionary is damaged: its tables cannot be read")]
    Damaged,
}

impl Dictionary {
    /// Checks the bytes of a trained dictionary and prepares it. Content without tables (a "raw" dictionary) is
    /// refused: nothing tells it from a file that was taken by mistake.
    ///
    /// # Errors
    /// When they are not a dictionary, or too many.
    pub fn new(bytes: &[u8]) -> Result<Self, DictionaryError> {
        if bytes.len() > DICTIONARY_BYTES_MAX {
            return Err(DictionaryError::TooLarge { bytes: bytes.len() });
        }
        if !bytes.starts_with(&MAGIC) || zstd_safe::get_dict_id(bytes).is_none() {
            return Err(DictionaryError::NotOne);
        }
        let compressing = CDict::try_create(bytes, LEVEL).ok_or(DictionaryError::Damaged)?;
        let decompressing = DDict::try_create(bytes).ok_or(DictionaryError::Damaged)?;
        let digest = *blake3::hash(bytes).as_bytes();
        Ok(Self { bytes: bytes.into(), digest, compressing, decompressing })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// BLAKE3 of the bytes.
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

/// A digest from its 64 hexadecimal digits.
pub fn parse_digest(text: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(text).ok().map(|hash| *hash.as_bytes())
}

/// A digest as 64 hexadecimal digits.
pub fn digest_text(digest: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*digest).to_hex().to_string()
}

/// Why no dictionary can be made of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrainError {
    #[error("{there} samples are too few to learn from; at least {least} are needed")]
    TooFew { there: usize, least: usize },
    #[error("the samples have nothing in common that a dictionary could hold, or are too short")]
    NothingInCommon,
}

/// Samples below which nothing is trained.
const SAMPLES_MIN: usize = 10;

/// A dictionary that is shorter has tables and next to no content.
const WORTH_BYTES: usize = 256;

/// A dictionary of at most `max_bytes` for messages like these. Takes about a second for 10 MB of samples.
///
/// # Errors
/// When there are too few samples, or they are too short or have nothing in common.
pub fn train(samples: &[&[u8]], max_bytes: usize) -> Result<Vec<u8>, TrainError> {
    if samples.len() < SAMPLES_MIN {
        return Err(TrainError::TooFew { there: samples.len(), least: SAMPLES_MIN });
    }
    let lengths: Vec<usize> = samples.iter().map(|sample| sample.len()).collect();
    let joined = samples.concat();
    let mut dictionary = Vec::with_capacity(max_bytes.min(DICTIONARY_BYTES_MAX));
    zstd_safe::train_from_buffer(&mut dictionary, &joined, &lengths)
        .map_err(|_| TrainError::NothingInCommon)?;
    if dictionary.len() < WORTH_BYTES || Dictionary::new(&dictionary).is_err() {
        return Err(TrainError::NothingInCommon);
    }
    Ok(dictionary)
}
