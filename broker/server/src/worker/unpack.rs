//! Publishes whose payload the client compressed.

use super::Worker;
use super::connection::Connection;
use super::publish::Taken;
use crate::clock::Moment;
use waspmq_protocol::client::Publish;
use waspmq_protocol::codec::{Packed, PackedCodec};

impl Worker {
    /// Takes a message whose payload the client compressed. A stranger's is not looked into: it is refused for who
    /// sends it.
    pub(super) fn handle_packed(
        &mut self,
        connection: &mut Connection,
        (publish, packed): (Publish<'_>, Packed),
        now: Moment,
    ) -> Taken {
        if connection.session_id.is_none() {
            return self.handle_publish(connection, &publish, now);
        }
        let max = self.shared.settings.message_bytes_max;
        let (reference, wire_bytes) = (publish.reference, publish.payload.len() as u64);
        let dictionaries = self.shared.dictionaries.load();
        let dictionary = match packed.codec {
            PackedCodec::Dictionary { id } => dictionaries.by_id(id).map(|found| &found.prepared),
            PackedCodec::Lz4 | PackedCodec::Zstd => None,
        };
        let counters = &self.shared.mailboxes.of(self.number).counters;
        match publish.unpack(&mut self.unpacker, dictionary, max) {
            Ok(publish) => {
                let counts = counters.compression.of_packed(packed.codec);
                counts.wire_in.add(wire_bytes);
                counts.plain_in.add(publish.payload.len() as u64);
                drop(dictionaries);
                self.handle_publish(connection, &publish, now)
            }
            Err(error) => {
                counters.unpack_failures.add(1);
                drop(dictionaries);
                self.finish_batch(connection);
                self.refuse(connection, reference, error.reject());
                Taken::Done
            }
        }
    }
}
