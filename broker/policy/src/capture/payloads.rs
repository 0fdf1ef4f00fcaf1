//! The payloads in a capture, for whoever learns from messages without deciding about them.

use super::{Header, Record};
use crate::limits::CAPTURE_LINE_BYTES_MAX;
use crate::replay::{BadLine, read_header};
use waspmq_core::address::Address;

/// A captured message, as far as it is content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedMessage {
    pub address: Address,
    /// None: it was too large to be taken down.
    pub payload: Option<Vec<u8>>,
}

/// A reading of a capture's messages, line by line.
#[derive(Debug)]
pub struct CapturedMessages {
    has_payloads: bool,
    line: u64,
}

impl CapturedMessages {
    /// `header` is the first line of the capture.
    pub fn new(header: &[u8]) -> Result<Self, BadLine> {
        let Header { payload, .. } = read_header(header)?;
        Ok(Self { has_payloads: payload, line: 1 })
    }

    /// Whether payloads were taken down.
    pub const fn has_payloads(&self) -> bool {
        self.has_payloads
    }

    /// The message of the next line behind the header, as it was published; none where the line is another record, also one
    /// of its delivery, so that none is given twice.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<CapturedMessage>, BadLine> {
        self.line += 1;
        let number = self.line;
        let bad = |reason: String| BadLine { line: number, reason };
        if line.len() > CAPTURE_LINE_BYTES_MAX {
            return Err(bad(format!("has more than {CAPTURE_LINE_BYTES_MAX} bytes")));
        }
        let text = std::str::from_utf8(line).map_err(|_| bad("is not text".to_owned()))?;
        let record: Record<'_> = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
        let Record::Message(message) = record else { return Ok(None) };
        let address = Address::parse(&message.address).map_err(|error| bad(format!("address: {error}")))?;
        let payload = message.payload().map_err(|error| bad(format!("payload_b64: {error}")))?;
        Ok(Some(CapturedMessage { address, payload: payload.map(std::borrow::Cow::into_owned) }))
    }
}
