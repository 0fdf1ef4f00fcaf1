//! Compressed payloads of the binary profile: LZ4 blocks, Zstandard (RFC 8878), and Zstandard with a dictionary.
//!
//! A compressed payload travels with its [`Packed`]: the codec and the bytes it had, so that whoever unpacks it knows
//! what to make room for before anything is read. [`Packer`] and [`Unpacker`] keep their contexts between calls; one
//! of each serves all connections of a worker, as no message depends on another.
//!
//! *Invariant.* Unpacking holds no more than the announced bytes, which are within the caller's limit, whatever
//! the input says; what does not come to exactly that many bytes is refused.

mod dictionary;

pub use dictionary::{
    DICTIONARY_BYTES_MAX, Dictionary, DictionaryError, TrainError, digest_text, parse_digest, train,
};

use crate::wire::Reader;
use zstd_safe::{CCtx, DCtx};

/// How a payload is compressed.
#[derive(Debug, Clone, Copy)]
pub enum Method<'d> {
    Lz4,
    /// At this level, see [`waspmq_core::compression::ZSTD_LEVELS`].
    Zstd {
        level: i8,
    },
    /// With a dictionary, at its level.
    Dictionary(&'d Dictionary),
}

/// What is said about a compressed payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    pub codec: PackedCodec,
    /// Bytes of the payload when it is unpacked.
    pub plain_bytes: u32,
}

/// The codec of a compressed payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackedCodec {
    Lz4,
    Zstd,
    /// With the dictionary of this number, which the broker has sent on this connection.
    Dictionary {
        id: u32,
    },
}

impl PackedCodec {
    /// The name in `connect`, `welcome` and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Dictionary { .. } => "zstd-dict",
        }
    }
}

impl Packed {
    /// `codec u8 | plain bytes u32 | dictionary u32, with that codec alone`.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        let (number, id) = match self.codec {
            PackedCodec::Lz4 => (1, None),
            PackedCodec::Zstd => (2, None),
            PackedCodec::Dictionary { id } => (3, Some(id)),
        };
        out.push(number);
        out.extend_from_slice(&self.plain_bytes.to_le_bytes());
        if let Some(id) = id {
            out.extend_from_slice(&id.to_le_bytes());
        }
    }

    /// `None` when it ends early or the codec is not known.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (number, plain_bytes) = (reader.u8()?, reader.u32()?);
        let codec = match number {
            1 => PackedCodec::Lz4,
            2 => PackedCodec::Zstd,
            3 => PackedCodec::Dictionary { id: reader.u32()? },
            _ => return None,
        };
        Some(Self { codec, plain_bytes })
    }
}

/// Compresses payloads.
#[derive(Default)]
pub struct Packer {
    /// Made when it is used first; holds tables of some hundred kilobytes.
    zstd: Option<CCtx<'static>>,
    lz4: Option<lz4_flex::block::CompressTable>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").finish_non_exhaustive()
    }
}

/// Buffers above this size are given back after use.
const BUFFER_KEPT_BYTES: usize = 256 * 1024;

impl Packer {
    /// Appends the compressed form of `plain` to `out`. False, and nothing appended, when it would not be smaller by
    /// what it takes to say so, or the payload has 4 GiB.
    pub fn pack(&mut self, method: Method<'_>, plain: &[u8], out: &mut Vec<u8>) -> bool {
        /// Bytes of the longest [`Packed`].
        const SAID_BYTES: usize = 9;
        self.buffer.clear();
        if u32::try_from(plain.len()).is_err() || !self.compress(method, plain) {
            return false;
        }
        let is_smaller = self.buffer.len() + SAID_BYTES < plain.len();
        if is_smaller {
            out.extend_from_slice(&self.buffer);
        }
        if self.buffer.capacity() > BUFFER_KEPT_BYTES {
            self.buffer = Vec::new();
        }
        is_smaller
    }

    fn compress(&mut self, method: Method<'_>, plain: &[u8]) -> bool {
        match method {
            Method::Lz4 => {
                let most = lz4_flex::block::get_maximum_output_size(plain.len());
                self.buffer.resize(most, 0);
                let table = self.lz4.get_or_insert_with(lz4_flex::block::CompressTable::default);
                let written = lz4_flex::block::compress_into_with_table(plain, &mut self.buffer, table);
                let is_done = written.is_ok();
                self.buffer.truncate(written.unwrap_or_default());
                is_done
            }
            Method::Zstd { level } => {
                self.buffer.reserve(zstd_safe::compress_bound(plain.len()));
                let context = self.zstd.get_or_insert_with(CCtx::create);
                context.compress(&mut self.buffer, plain, i32::from(level)).is_ok()
            }
            Method::Dictionary(dictionary) => {
                self.buffer.reserve(zstd_safe::compress_bound(plain.len()));
                let context = self.zstd.get_or_insert_with(CCtx::create);
                context.compress_using_cdict(&mut self.buffer, plain, &dictionary.compressing).is_ok()
            }
        }
    }
}

/// Why a compressed payload cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    #[error("the payload has {bytes} bytes when it is unpacked, the limit is {max}")]
    TooLarge { bytes: usize, max: usize },
    #[error("the payload cannot be unpacked as {codec}")]
    Damaged { codec: &'static str },
    #[error("the payload does not unpack to the {announced} bytes that it announces")]
    OtherSize { announced: usize },
    #[error("there is no dictionary {id} on this connection")]
    NoDictionary { id: u32 },
}

/// Reads compressed payloads.
#[derive(Default)]
pub struct Unpacker {
    zstd: Option<DCtx<'static>>,
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").finish_non_exhaustive()
    }
}

impl Unpacker {
    /// The payload that `bytes` are the compressed form of, at most `max` bytes. `dictionary` is the one that `packed`
    /// names, if it is there.
    ///
    /// # Errors
    /// When it is larger, damaged, of another size than announced, or the dictionary is missing.
    pub fn unpack(
        &mut self,
        packed: Packed,
        dictionary: Option<&Dictionary>,
        (bytes, max): (&[u8], usize),
    ) -> Result<Vec<u8>, UnpackError> {
        let announced = packed.plain_bytes as usize;
        if announced > max {
            return Err(UnpackError::TooLarge { bytes: announced, max });
        }
        let codec = packed.codec.name();
        let damaged = UnpackError::Damaged { codec };
        let plain = match packed.codec {
            PackedCodec::Lz4 => {
                let mut plain = vec![0; announced];
                let written = lz4_flex::block::decompress_into(bytes, &mut plain).map_err(|_| damaged)?;
                plain.truncate(written);
                plain
            }
            PackedCodec::Zstd => {
                let mut plain = Vec::with_capacity(announced);
                let context = self.zstd.get_or_insert_with(DCtx::create);
                context.decompress(&mut plain, bytes).map_err(|_| damaged)?;
                plain
            }
            PackedCodec::Dictionary { id } => {
                let dictionary = dictionary.ok_or(UnpackError::NoDictionary { id })?;
                let mut plain = Vec::with_capacity(announced);
                let context = self.zstd.get_or_insert_with(DCtx::create);
                context
                    .decompress_using_ddict(&mut plain, bytes, &dictionary.decompressing)
                    .map_err(|_| damaged)?;
                plain
            }
        };
        if plain.len() != announced {
            return Err(UnpackError::OtherSize { announced });
        }
        Ok(plain)
    }
}

#[cfg(test)]
mod tests;
