//! That clients can read what the broker compresses: some documents are published, and what a client of its own is sent
//! is unpacked and compared. Outside what is measured, and by the protocol's own decoder.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use waspmq_protocol::codec::{Dictionary, Unpacker};
use waspmq_protocol::decode;
use waspmq_protocol::server::{Message, Received};
use waspmq_transport::websocket::Inflater;

use crate::link::{Incoming, Link, printable};
use crate::plan::Plan;
use crate::wire::{Reads, Target, Wire};

/// Documents that are compared.
const COMPARED: usize = 8;

/// WebSocket messages in which a published one must be.
const LOOKED_AT_MAX: usize = 16;

/// Bytes of an unpacked message.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Publishes a few documents to the broker of `plan` for a client that reads this, which must be sent them, compressed as it
/// asked for.
///
/// # Errors
/// When it is not, or what it is sent is something else.
pub(super) fn can_be_read(plan: &Plan, reads: Reads, documents: &[Vec<u8>]) -> Result<()> {
    let mut reader = Reader::connect(plan.wire, plan.port, reads)?;
    let mut publisher = Link::open(plan.wire, plan.port, None)?;
    publisher.connect("publisher", false)?;
    for document in documents.iter().take(COMPARED) {
        publisher.send(&plan.wire.publish_document(Target::Topic, document))?;
        let (codec, payload) = reader.next_message()?;
        let asked = if reads.deflate { Some("deflate") } else { reads.codecs.first().copied() };
        ensure!(codec == asked, "compressed by {codec:?} instead of {asked:?}");
        let is_equal = match plan.wire {
            // What is inside a JSON frame may be written in another way.
            Wire::Json => value(&payload)? == value(document)?,
            _ => payload == *document,
        };
        ensure!(is_equal, "{} was published as {}", printable(&payload), printable(document));
    }
    Ok(())
}

fn value(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).with_context(|| format!("not JSON: {}", printable(bytes)))
}

struct Reader {
    link: Link,
    wire: Wire,
    dictionary: Option<(u32, Dictionary)>,
    unpacker: Unpacker,
    inflater: Inflater,
}

impl Reader {
    fn connect(wire: Wire, port: u16, reads: Reads) -> Result<Self> {
        let mut link = Link::reading(wire, port, reads)?;
        link.connect("reader", false)?;
        link.subscribe(Target::Topic)?;
        let (unpacker, inflater) = (Unpacker::default(), Inflater::default());
        Ok(Self { link, wire, dictionary: None, unpacker, inflater })
    }

    /// How the next published message was compressed, and its payload without that.
    fn next_message(&mut self) -> Result<(Option<&'static str>, Vec<u8>)> {
        for _ in 0..LOOKED_AT_MAX {
            let incoming = self.link.receive()?;
            let message = match self.wire {
                Wire::Json => Some(self.json(&incoming)?),
                _ => self.binary(&incoming)?,
            };
            if let Some(message) = message {
                return Ok(message);
            }
        }
        bail!("no message among {LOOKED_AT_MAX} frames")
    }

    fn json(&mut self, incoming: &Incoming) -> Result<(Option<&'static str>, Vec<u8>)> {
        let Incoming { payload, is_compressed } = incoming;
        let text = if *is_compressed {
            let inflated = self.inflater.inflate(payload, MESSAGE_BYTES_MAX);
            inflated.ok().with_context(|| format!("not deflated: {}", printable(payload)))?
        } else {
            payload.as_slice()
        };
        let frame = value(text)?;
        ensure!(frame["type"] == "message", "not a message: {frame}");
        Ok((is_compressed.then_some("deflate"), serde_json::to_vec(&frame["payload"])?))
    }

    /// `None` for a dictionary, which is kept.
    fn binary(&mut self, incoming: &Incoming) -> Result<Option<(Option<&'static str>, Vec<u8>)>> {
        ensure!(!incoming.is_compressed, "permessage-deflate without having offered it");
        match decode::server_binary(&incoming.payload)?.0 {
            Received::Dictionary(sent) => {
                let dictionary = Dictionary::new(&sent.bytes)?;
                ensure!(*dictionary.digest() == sent.digest, "a dictionary of another digest");
                self.dictionary = Some((sent.id, dictionary));
                Ok(None)
            }
            Received::Message(message) => self.unpacked(message).map(Some),
            other => bail!("not a message: {other:?}"),
        }
    }

    fn unpacked(&mut self, mut message: Message) -> Result<(Option<&'static str>, Vec<u8>)> {
        use waspmq_protocol::codec::PackedCodec;
        let codec = message.packed.map(|packed| packed.codec);
        let dictionary = match (&self.dictionary, codec) {
            (Some((sent, dictionary)), Some(PackedCodec::Dictionary { id })) if *sent == id => {
                Some(dictionary)
            }
            _ => None,
        };
        message.unpack(&mut self.unpacker, dictionary, MESSAGE_BYTES_MAX)?;
        Ok((codec.map(PackedCodec::name), message.payload))
    }
}
