//! Publishes whose payload the client compressed.

use super::Worker;
use super::connection::Connection;
use super::publish::Taken;
use crate::clock::Moment;
use waspmq_core::{Code, Reject};
use waspmq_protocol::client::Publish;
use waspmq_protocol::codec::{Packed, PackedCodec};
use waspmq_protocol::limits::BAD_FRAMES_MAX;

/// What the compressed payloads of one WebSocket message may still come to: what they unpack to is bounded together, as a
/// message is that is not compressed, and so are those that are damaged.
#[derive(Debug)]
pub(super) struct Unpacking {
    left_bytes: usize,
    failures: usize,
}

impl Unpacking {
    /// For a WebSocket message where messages have at most `bytes_max`.
    pub(super) const fn new(bytes_max: usize) -> Self {
        Self { left_bytes: bytes_max, failures: 0 }
    }

    /// Whether the rest of the WebSocket message is not read, as with other bad frames.
    pub(super) const fn is_over(&self) -> bool {
        self.failures >= BAD_FRAMES_MAX
    }
}

impl Worker {
    /// Takes a message whose payload the client compressed. A stranger's is not looked into: it is refused for who
    /// sends it.
    pub(super) fn handle_packed(
        &mut self,
        connection: &mut Connection,
        (publish, packed): (Publish<'_>, Packed),
        unpacking: &mut Unpacking,
        now: Moment,
    ) -> Taken {
        if connection.session_id.is_none() {
            return self.handle_publish(connection, &publish, now);
        }
        let (reference, wire_bytes) = (publish.reference, publish.payload.len() as u64);
        match self.unpack(connection, (publish, packed), unpacking) {
            Ok(publish) => {
                let plain_bytes = publish.payload.len();
                let taken = self.handle_publish(connection, &publish, now);
                // One that waits comes here again.
                if taken == Taken::Done {
                    unpacking.left_bytes = unpacking.left_bytes.saturating_sub(plain_bytes);
                    let counts = self.counters().compression.of_packed(packed.codec);
                    counts.wire_in.add(wire_bytes);
                    counts.plain_in.add(plain_bytes as u64);
                }
                taken
            }
            Err(reject) => {
                // What was decided about it when it was read first is not about the next one.
                self.planned = None;
                unpacking.failures += 1;
                self.counters().unpack_failures.add(1);
                self.finish_batch(connection);
                self.refuse(connection, reference, reject);
                Taken::Done
            }
        }
    }

    fn unpack<'a>(
        &mut self,
        connection: &Connection,
        (publish, packed): (Publish<'a>, Packed),
        unpacking: &Unpacking,
    ) -> Result<Publish<'a>, Reject> {
        let max = self.shared.settings.message_bytes_max;
        if packed.plain_bytes as usize > unpacking.left_bytes && unpacking.left_bytes < max {
            let text = format!("the payloads of one WebSocket message unpack to more than {max} bytes");
            return Err(Reject::new(Code::MessageTooLarge, text));
        }
        let dictionary = match packed.codec {
            // Only what this connection was sent: another one's dictionary has pieces of what it may not read.
            PackedCodec::Dictionary { id } => connection.dictionaries.sent(id).map(|sent| &sent.prepared),
            PackedCodec::Lz4 | PackedCodec::Zstd => None,
        };
        publish.unpack(&mut self.unpacker, dictionary, max).map_err(|error| error.reject())
    }
}
