//! JSON documents to publish: orders of a made-up shop, about 1 KB each and no two alike, or lines of a file.
//!
//! Made-up ones have what real ones have: names of fields, a few values that are common, words, and identifiers, times
//! and numbers that are random. The same numbers give the same documents, on every machine.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// Documents that are published, in turn.
pub(crate) const PUBLISHED: usize = 64;

/// Made-up documents that a dictionary is trained from.
const TRAINED_FROM: u64 = 2_000;

/// The fewest documents of a file to train a dictionary from.
const TRAINED_FROM_MIN: usize = 100;

/// The most documents of a file to train a dictionary from; those behind are not read.
const TRAINED_FROM_MAX: usize = 20_000;

/// Bytes of one document and of a whole file of them.
const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What is published, and others of the same kind to train a dictionary from.
#[derive(Debug)]
pub(crate) struct Documents {
    pub(crate) published: Vec<Vec<u8>>,
    pub(crate) others: Vec<Vec<u8>>,
}

impl Documents {
    pub(crate) fn made_up() -> Self {
        let made = |number: u64| order(number).to_string().into_bytes();
        let published = (0..PUBLISHED as u64).map(made).collect();
        Self { published, others: (1_000_000..1_000_000 + TRAINED_FROM).map(made).collect() }
    }

    /// One JSON value a line: the first are published, the others trained from.
    ///
    /// # Errors
    /// When the file cannot be read, is too large, has too few lines, or one that is too long or no JSON.
    pub(crate) fn of_file(path: &Path) -> Result<Self> {
        let shown = path.display();
        let bytes = fs::metadata(path).with_context(|| format!("reading {shown}"))?.len();
        ensure!(bytes <= FILE_BYTES_MAX, "{shown} has {bytes} bytes, {FILE_BYTES_MAX} are read");
        let text = fs::read_to_string(path).with_context(|| format!("reading {shown}"))?;
        Self::of_lines(&text).with_context(|| format!("{shown}"))
    }

    fn of_lines(text: &str) -> Result<Self> {
        let mut published = Vec::new();
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        for (i, line) in lines.take(PUBLISHED + TRAINED_FROM_MAX) {
            ensure!(line.len() <= DOCUMENT_BYTES_MAX, "line {} is over {DOCUMENT_BYTES_MAX} bytes", i + 1);
            serde_json::from_str::<Value>(line).with_context(|| format!("line {}", i + 1))?;
            published.push(line.as_bytes().to_vec());
        }
        let (there, least) = (published.len(), PUBLISHED + TRAINED_FROM_MIN);
        ensure!(there >= least, "{there} lines with a JSON value, {least} are needed");
        let others = published.split_off(PUBLISHED);
        Ok(Self { published, others })
    }

    /// Bytes of one that is published, on average.
    pub(crate) fn mean_bytes(&self) -> usize {
        self.published.iter().map(Vec::len).sum::<usize>() / self.published.len().max(1)
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn of(&mut self, words: &[&'static str]) -> &'static str {
        words[usize::try_from(self.next() % words.len() as u64).unwrap_or(0)]
    }

    fn words(&mut self, count: usize, from: &[&'static str]) -> String {
        (0..count).map(|_| self.of(from)).collect::<Vec<_>>().join(" ")
    }

    fn price(&mut self) -> String {
        format!("{}.{:02}", self.below(200) + 1, self.below(100))
    }
}

const NAMES: [&str; 16] = [
    "Anna", "Bernd", "Chloe", "Dmitri", "Elif", "Farid", "Greta", "Hiro", "Ines", "Jonas", "Keiko", "Lars",
    "Mira", "Noor", "Oskar", "Paula",
];
const FAMILIES: [&str; 16] = [
    "Schneider",
    "Okafor",
    "Lindqvist",
    "Moreau",
    "Tanaka",
    "Yilmaz",
    "Kowalski",
    "Ferrari",
    "Nguyen",
    "Becker",
    "Santos",
    "Novak",
    "Larsen",
    "Petrov",
    "Haddad",
    "Walsh",
];
const CITIES: [&str; 12] = [
    "Hamburg",
    "Rotterdam",
    "Lyon",
    "Gdansk",
    "Porto",
    "Malmo",
    "Graz",
    "Antwerp",
    "Torino",
    "Brno",
    "Aarhus",
    "Cork",
];
const THINGS: [&str; 24] = [
    "steel", "bottle", "cotton", "shirt", "desk", "lamp", "folding", "chair", "travel", "kettle", "wireless",
    "keyboard", "garden", "hose", "ceramic", "mug", "winter", "jacket", "running", "shoes", "oak", "shelf",
    "linen", "towel",
];
const NOTES: [&str; 24] = [
    "please",
    "leave",
    "the",
    "parcel",
    "with",
    "neighbour",
    "behind",
    "gate",
    "call",
    "before",
    "arrival",
    "ring",
    "twice",
    "second",
    "floor",
    "gift",
    "wrap",
    "fragile",
    "do",
    "not",
    "bend",
    "morning",
    "only",
    "thanks",
];

/// An order with what is known about its delivery.
fn order(number: u64) -> Value {
    let mut random = Random(number);
    let (name, family) = (random.of(&NAMES), random.of(&FAMILIES));
    let items: Vec<Value> = (0..7).map(|_| item(&mut random)).collect();
    let minute = |random: &mut Random| {
        let (day, hour, minute) = (random.below(28) + 1, random.below(24), random.below(60));
        format!("2026-09-{day:02}T{hour:02}:{minute:02}:{:02}Z", random.below(60))
    };
    json!({
        "type": "order.updated",
        "id": format!("ord_{:016x}", random.next()),
        "created_at": minute(&mut random),
        "status": random.of(&["created", "paid", "packed", "shipped", "delivered"]),
        "customer": {
            "id": format!("cus_{:08x}", random.below(1 << 32)),
            "name": format!("{name} {family}"),
            "city": random.of(&CITIES),
        },
        "items": items,
        "shipment": {
            "carrier": random.of(&["dhl", "dpd", "ups", "postnord"]),
            "tracking": format!("{:012}", random.below(1_000_000_000_000)),
            "estimated_at": minute(&mut random),
        },
        "note": random.words(5, &NOTES),
    })
}

fn item(random: &mut Random) -> Value {
    json!({
        "sku": format!("SKU-{:08}", random.below(100_000_000)),
        "title": random.words(2, &THINGS),
        "quantity": random.below(5) + 1,
        "unit_price": random.price(),
        "currency": "EUR",
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use waspmq_protocol::codec::{Dictionary, Method, Packer, train};

    use super::*;

    /// Bytes on average.
    fn packed(documents: &Documents, method: Method<'_>) -> usize {
        let (mut packer, mut bytes) = (Packer::default(), Vec::new());
        for document in &documents.published {
            assert!(packer.pack(method, document, &mut bytes), "not smaller");
        }
        bytes.len() / documents.published.len()
    }

    #[test]
    fn made_up_documents_are_as_hard_to_compress_as_real_ones() {
        let documents = Documents::made_up();
        assert!((980..=1_080).contains(&documents.mean_bytes()), "{}", documents.mean_bytes());
        let samples: Vec<&[u8]> = documents.others.iter().map(Vec::as_slice).collect();
        let dictionary = Dictionary::new(&train(&samples, 16 * 1024).unwrap()).unwrap();
        let sizes = [
            packed(&documents, Method::Lz4),
            packed(&documents, Method::Zstd { level: 1 }),
            packed(&documents, Method::Dictionary(&dictionary)),
        ];
        assert!(sizes[0] > sizes[1] && (420..=500).contains(&sizes[1]), "{sizes:?}");
        assert!((190..=225).contains(&sizes[2]), "{sizes:?}");
    }

    #[test]
    fn no_two_are_alike_and_the_same_come_again() {
        let (one, other) = (Documents::made_up(), Documents::made_up());
        let different: HashSet<&[u8]> = one.published.iter().chain(&one.others).map(Vec::as_slice).collect();
        assert_eq!(different.len(), PUBLISHED + 2_000);
        assert_eq!(one.published, other.published);
    }

    #[test]
    fn lines_of_a_file_are_published_and_trained_from() {
        let lines: Vec<String> = (0..200).map(|i| format!("{{\"n\":{i}}}")).collect();
        let documents = Documents::of_lines(&lines.join("\n\n")).unwrap();
        assert_eq!((documents.published.len(), documents.others.len()), (PUBLISHED, 200 - PUBLISHED));
        assert_eq!(documents.others[0], format!("{{\"n\":{PUBLISHED}}}").into_bytes());
        let refused = |text: &str| format!("{:#}", Documents::of_lines(text).unwrap_err());
        assert!(refused("1\n2").contains("2 lines"), "{}", refused("1\n2"));
        assert!(refused("1\n{").contains("line 2"), "{}", refused("1\n{"));
        let long = format!("\"{}\"", "x".repeat(DOCUMENT_BYTES_MAX));
        assert!(refused(&long).contains("line 1"), "{}", refused(&long));
    }
}
