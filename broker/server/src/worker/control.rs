//! Frames for one connection alone: put together, queued, and told in front of what waits.

use super::Worker;
use super::connection::Connection;
use super::segment::Encoding;
use waspmq_protocol::server::{self, HistoryHead, MessageFrame};

/// What stands for the addresses that an `overflow` frame tells together.
const EVERY_OTHER: &str = "*";

impl Worker {
    /// Sends one control frame.
    pub(super) fn send(&mut self, connection: &mut Connection, frame: &server::Frame) {
        self.control.push(connection.encoding, frame);
        self.send_control(connection);
    }

    /// Sends what was put together in [`Worker::control`].
    pub(super) fn send_control(&mut self, connection: &mut Connection) {
        let Self { control, outbox, .. } = self;
        if !control.bytes.is_empty() {
            outbox.push_own(connection, &control.bytes);
            control.bytes.clear();
        }
    }

    /// Tells the client what it lost, in front of everything that waits.
    pub(super) fn tell_losses(&mut self, connection: &mut Connection) {
        while let Some(report) = connection.out.poll_report() {
            let to = report.to.map_or_else(|| EVERY_OTHER.to_owned(), |to| to.to_string());
            let overflow = server::Overflow { to, dropped: report.dropped, action: Some(report.action) };
            self.control.push(connection.encoding, &server::Frame::Overflow(overflow));
        }
        let Self { control, outbox, .. } = self;
        if !control.bytes.is_empty() {
            outbox.push_own_first(connection, &control.bytes);
            control.bytes.clear();
        }
    }
}

/// Control frames for one connection, put together before they are queued.
#[derive(Debug, Default)]
pub(super) struct Control {
    bytes: Vec<u8>,
}

impl Control {
    /// Appends a page of messages as a message of its own.
    pub(super) fn push_history<'a>(
        &mut self,
        encoding: Encoding,
        head: &HistoryHead<'_>,
        messages: impl IntoIterator<Item = MessageFrame<'a>>,
    ) {
        let begun = encoding.framing.begin(&mut self.bytes);
        waspmq_protocol::encode::history(encoding.profile, head, messages, &mut self.bytes);
        begun.end(&mut self.bytes, encoding.profile);
    }

    /// Appends one frame as a message of its own.
    pub(super) fn push(&mut self, encoding: Encoding, frame: &server::Frame) {
        encode(encoding, frame, &mut self.bytes);
    }
}

/// Appends one control frame as a message of its own.
pub(super) fn encode(encoding: Encoding, frame: &server::Frame, out: &mut Vec<u8>) {
    let begun = encoding.framing.begin(out);
    waspmq_protocol::encode::control(encoding.profile, frame, out);
    begun.end(out, encoding.profile);
}
