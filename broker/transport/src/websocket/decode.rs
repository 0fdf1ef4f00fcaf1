//! A connection's incoming bytes to messages and control frames.
//!
//! Invariants:
//! - Frames are unmasked where they lie. A message of one frame is a slice of the caller's buffer and costs no
//!   copy; fragments are copied once, into a buffer that exists only while their message is open. A compressed
//!   message is inflated when it is whole, into the [`Inflater`]'s buffer.
//! - The events of a byte stream do not depend on how it is cut into reads.
//! - Memory grows with bytes that have arrived, never with a length that was announced.
//!
//! Reading, keeping unconsumed bytes, answering pings and closing belong to the caller.

use std::borrow::Cow;

use waspmq_core::limits::{HANDSHAKE_FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};

use super::header::{self, Header, Parsed};
use super::utf8::Utf8;
use super::{Inflater, Opcode, Violation, close_code, mask};
use crate::limits::{CONTROL_FRAMES_MAX, DEFLATE_OVERHEAD_BYTES, FRAGMENTS_MAX};

/// The reading half of one connection.
///
/// ```text
/// state     input                                next
/// idle      text or binary, final                idle       -> Message
/// idle      text or binary, not final            open
/// open      continuation, not final              open
/// open      continuation, final                  idle       -> Message
/// idle/open ping, pong                           unchanged  -> Ping, Pong
/// idle/open close                                finished   -> Close
/// any       violation                            finished   -> the violation
/// finished  anything                             finished   (skipped)
/// ```
#[derive(Debug, Default)]
pub struct Decoder {
    open: Option<Box<Fragments>>,
    /// Payload bytes of the frame at the front of the caller's buffer that are unmasked (and, in a text, checked).
    unmasked_bytes: usize,
    /// Where the text of the message at hand stands. Control frames do not touch it.
    utf8: Utf8,
    is_finished: bool,
}

const _: () = assert!(size_of::<Decoder>() <= 32, "an idle connection is small");

/// A message of which at least one fragment has arrived and the last has not.
#[derive(Debug)]
struct Fragments {
    is_text: bool,
    /// Whether `bytes` are compressed.
    is_compressed: bool,
    bytes: Vec<u8>,
    fragment_count: u32,
    control_count: u32,
}

/// What a peer may make the broker hold. May change between calls: a stranger gets less than a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message, all fragments together. A longer one is refused from the header of the frame that
    /// passes the limit. A compressed one may have [`DEFLATE_OVERHEAD_BYTES`] more, and is refused when it turns
    /// out to be longer as a plain one.
    pub message_bytes_max: usize,
    pub fragments_max: u32,
    /// Control frames between the fragments of one message.
    pub control_frames_max: u32,
}

impl Limits {
    /// Before `connect` succeeded.
    pub const STRANGER: Self = Self { message_bytes_max: HANDSHAKE_FRAME_BYTES_MAX, ..Self::SESSION };
    pub const SESSION: Self = Self {
        message_bytes_max: MESSAGE_BYTES_MAX,
        fragments_max: FRAGMENTS_MAX,
        control_frames_max: CONTROL_FRAMES_MAX,
    };

    /// Bytes of a message as it comes, all fragments together.
    const fn payload_bytes_max(&self, is_compressed: bool) -> usize {
        let overhead = if is_compressed { DEFLATE_OVERHEAD_BYTES } else { 0 };
        self.message_bytes_max.saturating_add(overhead)
    }
}

/// One step of [`Decoder::decode`].
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded<'b> {
    /// Bytes at the start of the buffer that are done with.
    pub consumed: usize,
    pub event: Event<'b>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Event<'b> {
    /// A whole message. A text is valid UTF-8. Borrowed when it came as one frame or compressed, owned when in
    /// fragments.
    Message {
        is_text: bool,
        data: Cow<'b, [u8]>,
        /// Bytes of the payload as it came; `None` when it was not compressed.
        compressed_bytes: Option<usize>,
    },
    /// To be answered by a pong with the same payload, at most 125 bytes.
    Ping(&'b [u8]),
    Pong(&'b [u8]),
    /// To be answered by a close frame with the same code, unless one was sent. The code is one that may be sent,
    /// or [`close_code::NO_STATUS`] for a frame without one. All later input is skipped.
    Close {
        code: u16,
        reason: &'b str,
    },
    /// The next event needs more bytes: the unconsumed ones have to grow to `at_least` before it can come. Known
    /// exactly once the frame's header is there, and at most the header and [`Limits::message_bytes_max`]; a peer
    /// announces it for free, so a buffer should follow what arrives, not this.
    NeedMore {
        at_least: usize,
    },
}

impl Decoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks for the next event in `buf`, the bytes received and not consumed yet.
    ///
    /// To be repeated on the rest until it says [`Event::NeedMore`]. Unconsumed bytes must be at the start of the
    /// next call's `buf`, as this call left them: the payload of an unfinished frame is unmasked as it arrives.
    ///
    /// An `inflater` says that permessage-deflate was negotiated, and inflates the messages that are compressed.
    ///
    /// ```
    /// use waspmq_transport::websocket::{Decoder, Event, Limits, Violation, write_pong};
    ///
    /// /// Handles what `received` holds and leaves in it what has to be completed by later reads.
    /// fn handle(decoder: &mut Decoder, received: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), Violation> {
    ///     let mut start = 0;
    ///     loop {
    ///         let decoded = decoder.decode(&mut received[start..], None, &Limits::SESSION)?;
    ///         start += decoded.consumed;
    ///         match decoded.event {
    ///             Event::Ping(payload) => write_pong(payload, out),
    ///             Event::NeedMore { .. } => break,
    ///             Event::Message { .. } | Event::Pong(_) | Event::Close { .. } => {}
    ///         }
    ///     }
    ///     received.drain(..start);
    ///     Ok(())
    /// }
    ///
    /// let mut out = Vec::new();
    /// let mut received = vec![0x89, 0x81, 1, 2, 3, 4, b'x' ^ 1, 0x81];
    /// handle(&mut Decoder::new(), &mut received, &mut out)?;
    /// assert_eq!((received, out), (vec![0x81], vec![0x8a, 1, b'x']));
    /// # Ok::<(), Violation>(())
    /// ```
    ///
    /// # Errors
    /// The peer broke RFC 6455 or a limit: to be answered by a close frame with the violation's code. All later
    /// input is skipped.
    pub fn decode<'b>(
        &mut self,
        buf: &'b mut [u8],
        inflater: Option<&'b mut Inflater>,
        limits: &Limits,
    ) -> Result<Decoded<'b>, Violation> {
        if self.is_finished {
            return Ok(Decoded { consumed: buf.len(), event: Event::NeedMore { at_least: 0 } });
        }
        let result = self.next_event(buf, inflater, limits);
        if matches!(result, Err(_) | Ok(Decoded { event: Event::Close { .. }, .. })) {
            *self = Self { is_finished: true, ..Self::default() };
        }
        result
    }

    /// Bytes held for a message whose fragments have not all arrived.
    pub fn held_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.bytes.capacity())
    }

    /// Whether the peer's close frame or a violation ended the input.
    pub const fn is_finished(&self) -> bool {
        self.is_finished
    }

    fn next_event<'b>(
        &mut self,
        buf: &'b mut [u8],
        inflater: Option<&'b mut Inflater>,
        limits: &Limits,
    ) -> Result<Decoded<'b>, Violation> {
        let mut consumed = 0;
        let mut rest = buf;
        loop {
            let header = match header::parse(rest, inflater.is_some())? {
                Parsed::Whole(header) => header,
                Parsed::Short(at_least) => {
                    return Ok(Decoded { consumed, event: Event::NeedMore { at_least } });
                }
            };
            self.admit(&header, limits)?;
            let frame_bytes = header.header_bytes + header.payload_bytes;
            let (_, body) = rest.split_at_mut(header.header_bytes);
            if body.len() < header.payload_bytes {
                self.unmask(&header, body)?;
                return Ok(Decoded { consumed, event: Event::NeedMore { at_least: frame_bytes } });
            }
            let (payload, next) = body.split_at_mut(header.payload_bytes);
            self.unmask(&header, payload)?;
            self.unmasked_bytes = 0;
            consumed += frame_bytes;
            match self.take_frame(&header, payload)? {
                Taken::Event(event) => return Ok(Decoded { consumed, event }),
                Taken::Message(message) => {
                    let event = self.message(message, inflater, limits)?;
                    return Ok(Decoded { consumed, event });
                }
                Taken::Fragment => {}
            }
            rest = next;
        }
    }

    /// The checks of a header that need the state. Runs again for a frame whose payload is still arriving.
    fn admit(&self, header: &Header, limits: &Limits) -> Result<(), Violation> {
        let Some(open) = &self.open else {
            let bytes_max = limits.payload_bytes_max(header.is_compressed);
            return match header.opcode {
                Opcode::Continuation => Err(Violation::UnexpectedContinuation),
                _ if header.payload_bytes > bytes_max && !header.opcode.is_control() => {
                    Err(Violation::MessageTooLong)
                }
                _ => Ok(()),
            };
        };
        let bytes_max = limits.payload_bytes_max(open.is_compressed);
        match header.opcode {
            Opcode::Text | Opcode::Binary => Err(Violation::UnfinishedMessage),
            Opcode::Continuation if open.fragment_count >= limits.fragments_max => {
                Err(Violation::TooManyFragments)
            }
            Opcode::Continuation if header.payload_bytes > bytes_max.saturating_sub(open.bytes.len()) => {
                Err(Violation::MessageTooLong)
            }
            // A close frame ends it all: nothing is gained by refusing one.
            Opcode::Ping | Opcode::Pong if open.control_count >= limits.control_frames_max => {
                Err(Violation::TooManyControlFrames)
            }
            _ => Ok(()),
        }
    }

    /// Unmasks, and checks in a plain text, what has arrived of a payload since the last call.
    fn unmask(&mut self, header: &Header, payload: &mut [u8]) -> Result<(), Violation> {
        let Some(fresh) = payload.get_mut(self.unmasked_bytes..) else { return Ok(()) };
        mask::apply(fresh, header.key, self.unmasked_bytes);
        self.unmasked_bytes += fresh.len();
        let is_plain_text = match header.opcode {
            Opcode::Text => !header.is_compressed,
            Opcode::Continuation => {
                self.open.as_ref().is_some_and(|open| open.is_text && !open.is_compressed)
            }
            _ => false,
        };
        if is_plain_text && !self.utf8.push(fresh) {
            return Err(Violation::TextUtf8);
        }
        Ok(())
    }

    /// A frame is whole and unmasked.
    fn take_frame<'b>(&mut self, header: &Header, payload: &'b [u8]) -> Result<Taken<'b>, Violation> {
        if header.opcode.is_control() {
            if let Some(open) = &mut self.open {
                open.control_count += 1;
            }
            return Ok(Taken::Event(match header.opcode {
                Opcode::Ping => Event::Ping(payload),
                Opcode::Pong => Event::Pong(payload),
                _ => close_event(payload)?,
            }));
        }
        let Some(mut open) = self.open.take() else {
            let (is_text, is_compressed) = (header.opcode == Opcode::Text, header.is_compressed);
            if header.is_final {
                return Ok(Taken::Message(Whole { is_text, is_compressed, payload: Cow::Borrowed(payload) }));
            }
            let bytes = payload.to_vec();
            let open = Fragments { is_text, is_compressed, bytes, fragment_count: 1, control_count: 0 };
            self.open = Some(Box::new(open));
            return Ok(Taken::Fragment);
        };
        open.bytes.extend_from_slice(payload);
        open.fragment_count += 1;
        if header.is_final {
            let Fragments { is_text, is_compressed, bytes, .. } = *open;
            return Ok(Taken::Message(Whole { is_text, is_compressed, payload: Cow::Owned(bytes) }));
        }
        self.open = Some(open);
        Ok(Taken::Fragment)
    }

    fn message<'b>(
        &self,
        message: Whole<'b>,
        inflater: Option<&'b mut Inflater>,
        limits: &Limits,
    ) -> Result<Event<'b>, Violation> {
        let Whole { is_text, is_compressed, payload } = message;
        if !is_compressed {
            if !self.utf8.is_complete() {
                return Err(Violation::TextUtf8);
            }
            return Ok(Event::Message { is_text, data: payload, compressed_bytes: None });
        }
        let Some(inflater) = inflater else { return Err(Violation::ReservedBits) };
        let data = inflater.inflate(&payload, limits.message_bytes_max)?;
        if is_text && std::str::from_utf8(data).is_err() {
            return Err(Violation::TextUtf8);
        }
        let compressed_bytes = Some(payload.len());
        Ok(Event::Message { is_text, data: Cow::Borrowed(data), compressed_bytes })
    }
}

/// What a frame is to the connection.
enum Taken<'b> {
    Event(Event<'b>),
    Message(Whole<'b>),
    /// One that is not the last of its message.
    Fragment,
}

/// A message, all fragments together, as it came.
struct Whole<'b> {
    is_text: bool,
    is_compressed: bool,
    payload: Cow<'b, [u8]>,
}

fn close_event(payload: &[u8]) -> Result<Event<'_>, Violation> {
    if payload.is_empty() {
        return Ok(Event::Close { code: close_code::NO_STATUS, reason: "" });
    }
    let Some((&code, reason)) = payload.split_first_chunk::<2>() else {
        return Err(Violation::CloseTooShort);
    };
    let code = u16::from_be_bytes(code);
    if !close_code::is_sendable(code) {
        return Err(Violation::CloseCode);
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::CloseReasonUtf8)?;
    Ok(Event::Close { code, reason })
}
