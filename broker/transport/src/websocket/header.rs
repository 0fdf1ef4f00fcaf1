//! A client's frame header: parsed from whatever part has arrived, with the checks that need nothing else.

use super::{Opcode, Violation};
use crate::limits::CONTROL_BYTES_MAX;

/// The first reserved bit: the message is compressed (RFC 7692, 6).
pub(super) const COMPRESSED_BIT: u8 = 0x40;

/// A whole header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) is_final: bool,
    /// On the first frame of a compressed message alone.
    pub(super) is_compressed: bool,
    pub(super) opcode: Opcode,
    pub(super) key: [u8; 4],
    /// Bytes of the header itself, 6 to 14.
    pub(super) header_bytes: usize,
    pub(super) payload_bytes: usize,
}

pub(super) enum Parsed {
    Whole(Header),
    /// The header cannot be whole below this many bytes.
    Short(usize),
}

/// Reads the header at the start of `bytes`. The verdict on a header is the same however its bytes arrive: checks
/// run in the order of the bytes they look at. `may_compress` says that permessage-deflate was negotiated.
pub(super) fn parse(bytes: &[u8], may_compress: bool) -> Result<Parsed, Violation> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(Parsed::Short(2 + 4)) };
    let (is_final, opcode) = check_start(first, second, may_compress)?;
    let is_compressed = first & COMPRESSED_BIT != 0;
    let length_bytes = match second & 0x7f {
        127 => 8,
        126 => 2,
        _ => 0,
    };
    let header_bytes = 2 + length_bytes + 4;
    let Some((length, rest)) = rest.split_at_checked(length_bytes) else {
        return Ok(Parsed::Short(header_bytes));
    };
    let length = extended_length(length)?.unwrap_or_else(|| u64::from(second & 0x7f));
    let Some(&key) = rest.first_chunk::<4>() else { return Ok(Parsed::Short(header_bytes)) };
    // A length that does not fit the address space is beyond any limit.
    let payload_bytes = usize::try_from(length).map_err(|_| Violation::MessageTooLong)?;
    Ok(Parsed::Whole(Header { is_final, is_compressed, opcode, key, header_bytes, payload_bytes }))
}

fn check_start(first: u8, second: u8, may_compress: bool) -> Result<(bool, Opcode), Violation> {
    let opcode = Opcode::from_bits(first & 0x0f);
    let may_compress = may_compress && matches!(opcode, Some(Opcode::Text | Opcode::Binary));
    let allowed = if may_compress { COMPRESSED_BIT } else { 0 };
    if first & 0x70 & !allowed != 0 {
        return Err(Violation::ReservedBits);
    }
    let opcode = opcode.ok_or(Violation::ReservedOpcode)?;
    let is_final = first & 0x80 != 0;
    if opcode.is_control() && !is_final {
        return Err(Violation::ControlFragmented);
    }
    if second & 0x80 == 0 {
        return Err(Violation::Unmasked);
    }
    if opcode.is_control() && usize::from(second & 0x7f) > CONTROL_BYTES_MAX {
        return Err(Violation::ControlTooLong);
    }
    Ok((is_final, opcode))
}

/// The length in its extended form; `None` when the header has no such form.
fn extended_length(bytes: &[u8]) -> Result<Option<u64>, Violation> {
    let (length, least) = if let Some(&long) = bytes.first_chunk::<8>() {
        (u64::from_be_bytes(long), 1 << 16)
    } else if let Some(&short) = bytes.first_chunk::<2>() {
        (u64::from(u16::from_be_bytes(short)), 126)
    } else {
        return Ok(None);
    };
    if length >> 63 != 0 {
        return Err(Violation::LengthTopBit);
    }
    if length < least {
        return Err(Violation::LengthNotMinimal);
    }
    Ok(Some(length))
}
