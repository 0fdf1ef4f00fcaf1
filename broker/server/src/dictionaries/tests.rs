//! Which dictionary an address gets, what pushes make of it, and what a start finds.

use super::limits::{NAMES_MAX, PATTERNS_MAX, REVISIONS_KEPT};
use super::*;
use std::fs;
use std::path::PathBuf;
use waspmq_protocol::codec::{Method, Packed, PackedCodec, Packer, Unpacker};
use waspmq_store::{AuditLog, DataDir};

fn order(number: u32) -> Vec<u8> {
    let (customer, price) = (number * 7_919 % 10_007, number % 90);
    format!(r#"{{"order":{number},"customer":{{"id":{customer},"tier":"gold"}},"price":"{price}.99","currency":"EUR"}}"#)
        .into_bytes()
}

/// A trained dictionary; another one for another number.
fn trained(number: u32) -> Vec<u8> {
    let samples: Vec<_> =
        (0..400).map(|i| [format!("{{\"shop\":{number},").into_bytes(), order(i)].concat()).collect();
    let samples: Vec<&[u8]> = samples.iter().map(Vec::as_slice).collect();
    codec::train(&samples, 1024).unwrap()
}

fn by() -> By {
    By { who: "admin".to_owned(), unix_ms: 17, generation: 3 }
}

fn push(name: &str, patterns: &[&str]) -> Push {
    Push::new(name, patterns.iter().copied()).unwrap()
}

/// A data directory with the library that lives in it.
struct Home {
    library: Library,
    data: DataDir,
    _directory: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path(), 0).unwrap();
        Self { library: open(&data).unwrap(), data, _directory: directory }
    }

    fn restart(&mut self) {
        self.library = open(&self.data).unwrap();
    }

    fn push(&self, name: &str, patterns: &[&str], bytes: &[u8]) -> Pushed {
        self.library.push(&push(name, patterns), bytes, &by()).unwrap()
    }

    /// The files of bytes, by their names.
    fn files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.data.dictionaries_path()).unwrap();
        let files = files.map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|ending| ending == "dict")).collect()
    }

    fn file(&self, digest: &str) -> PathBuf {
        self.data.dictionaries_path().join(format!("{digest}.dict"))
    }

    /// The name and revision that an address gets.
    fn of(&self, address: &str) -> Option<(String, u32)> {
        let current = self.library.load();
        let found = current.for_address(&Address::parse(address).unwrap())?;
        Some((found.name.to_string(), found.revision))
    }
}

fn open(data: &DataDir) -> anyhow::Result<Library> {
    Library::open(data, Arc::new(AuditLog::open(data.audit_path())?))
}

#[test]
fn an_address_gets_the_most_specific_pattern() {
    let home = Home::new();
    let bytes = trained(0);
    for (name, patterns) in [
        ("plain", &["topic/orders.eu.new", "all", "user/alice"][..]),
        ("stars", &["topic/orders.*.new", "user/*"]),
        ("left", &["topic/orders.>"]),
        ("any", &["topic/*.eu.new", "topic/>", "group/*"]),
        ("twice", &["topic/orders.>", "user/alice"]),
    ] {
        home.push(name, patterns, &bytes);
    }
    for (address, expected) in [
        ("topic/orders.eu.new", Some("plain")),
        ("topic/orders.us.new", Some("stars")),
        ("topic/orders.us.old", Some("left")),
        ("topic/prices.eu.new", Some("any")),
        ("topic/prices", Some("any")),
        ("all", Some("plain")),
        ("user/alice", Some("plain")),
        ("user/bob", Some("stars")),
        ("group/eng", Some("any")),
    ] {
        assert_eq!(home.of(address).map(|(name, _)| name).as_deref(), expected, "{address}");
    }
    home.library.remove("any", &by()).unwrap();
    assert_eq!((home.of("group/eng"), home.of("topic/prices")), (None, None));
    home.library.remove("left", &by()).unwrap();
    assert_eq!(home.of("topic/orders.us.old"), Some(("twice".to_owned(), 1)));
}

#[test]
fn pushes_are_numbered_and_the_oldest_goes() {
    let mut home = Home::new();
    let kept = u32::try_from(REVISIONS_KEPT).unwrap();
    for number in 1..=kept + 1 {
        let Pushed { revision, is_new } = home.push("orders", &["topic/orders.>"], &trained(number));
        assert_eq!((is_new, revision.revision, revision.id), (true, number, number));
    }
    assert_eq!(home.files().len(), REVISIONS_KEPT);
    for _ in 0..2 {
        let current = home.library.load();
        assert_eq!(&*current.by_name("orders").unwrap().bytes, trained(kept + 1));
        assert_eq!((current.len(), current.generation()), (1, u64::from(kept) + 1));
        drop(current);
        home.restart();
    }
    let revisions = home.library.revisions("orders").unwrap();
    assert_eq!(revisions.iter().map(|kept| kept.revision).collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert!(home.library.revisions("order").is_none());
}

#[test]
fn the_same_again_changes_nothing() {
    let home = Home::new();
    let first = home.push("orders", &["topic/b", "topic/a", "topic/b"], &trained(1));
    let again = home.push("orders", &["topic/a", "topic/b"], &trained(1));
    assert_eq!((again.is_new, &again.revision), (false, &first.revision));
    assert_eq!(home.library.load().generation(), 1);
    let other = home.push("orders", &["topic/a"], &trained(1));
    assert_eq!((other.is_new, other.revision.revision, other.revision.id), (true, 2, 2));
    assert_eq!((home.of("topic/b"), home.files().len()), (None, 1), "both have the same bytes");
    let lines = AuditLog::open(home.data.audit_path()).unwrap().lines(None, 10).unwrap();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[1].contains(r#""what":"dictionary push","name":"orders","from":"orders@1","to":"orders@2""#),
        "{lines:?}"
    );
}

#[test]
fn ids_are_never_given_out_again() {
    let mut home = Home::new();
    home.push("a", &["topic/a"], &trained(1));
    home.push("b", &["topic/b"], &trained(1));
    home.library.remove("b", &by()).unwrap();
    assert_eq!(home.files().len(), 1, "the other one has the same bytes");
    home.library.remove("a", &by()).unwrap();
    assert!(home.files().is_empty());
    assert!(matches!(home.library.remove("a", &by()), Err(RemoveError::Unknown { .. })));
    home.restart();
    let generation = home.library.load().generation();
    assert_eq!((generation, home.library.load().is_empty()), (4, true));
    let back = home.push("b", &["topic/b"], &trained(1)).revision;
    assert_eq!((back.id, back.revision), (3, 1));
}

#[test]
fn damage_is_refused_by_name_and_the_rest_serves() {
    let mut home = Home::new();
    home.push("orders", &["topic/orders"], &trained(1));
    let latest = home.push("orders", &["topic/orders"], &trained(2)).revision;
    let lone = home.push("prices", &["topic/prices"], &trained(3)).revision;
    for (revision, damage) in [(&latest, &b"\x37\xa4\x30\xec"[..]), (&lone, b"")] {
        fs::write(home.file(&revision.digest), damage).unwrap();
    }
    fs::write(home.data.dictionaries_path().join("left.tmp"), "half").unwrap();
    home.restart();
    assert_eq!((home.of("topic/orders"), home.of("topic/prices")), (Some(("orders".to_owned(), 1)), None));
    assert_eq!(home.library.load().len(), 1);
    let listed = home.library.list();
    for (revision, of) in listed.iter().zip([&latest, &lone]) {
        let reason = revision.refused.as_deref().unwrap();
        assert!(reason.contains(&of.digest) && reason.contains("was changed"), "{reason}");
        assert_eq!(revision.name, of.name);
    }
    let mended = home.push("orders", &["topic/orders"], &trained(2));
    assert_eq!((mended.is_new, mended.revision), (false, latest.clone()), "the same bytes mend it");
    fs::remove_file(home.file(&lone.digest)).unwrap();
    home.restart();
    assert_eq!(home.of("topic/orders"), Some(("orders".to_owned(), 2)));
    assert!(home.library.list()[1].refused.as_deref().unwrap().contains("is missing"));
    let next = home.push("prices", &["topic/prices"], &trained(4)).revision;
    assert_eq!((next.revision, next.id, home.of("topic/prices")), (2, 4, Some(("prices".to_owned(), 2))));
}

#[test]
fn a_damaged_index_ends_a_start_and_is_named() {
    let home = Home::new();
    home.push("orders", &["topic/orders"], &trained(1));
    let path = home.data.dictionaries_path().join("dictionaries.json");
    let whole = fs::read(&path).unwrap();
    for damage in [&whole[..whole.len() / 2], b"", b"{}"] {
        fs::write(&path, damage).unwrap();
        let error = open(&home.data).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()) && error.contains("backup"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), damage, "it is kept");
        assert_eq!(home.files().len(), 1, "and so are the bytes");
    }
    fs::write(&path, whole).unwrap();
    assert_eq!(open(&home.data).unwrap().load().len(), 1);
}

#[test]
fn what_cannot_be_kept_is_not_done() {
    let home = Home::new();
    home.push("orders", &["topic/orders"], &trained(1));
    let (here, aside) = (home.data.dictionaries_path(), home.data.path().join("aside"));
    fs::rename(&here, &aside).unwrap();
    let pushed = home.library.push(&push("orders", &["topic/orders"]), &trained(2), &by());
    assert!(matches!(pushed, Err(PushError::NotKept(_))), "{pushed:?}");
    assert!(matches!(home.library.remove("orders", &by()), Err(RemoveError::NotKept(_))));
    assert_eq!(home.of("topic/orders"), Some(("orders".to_owned(), 1)));
    fs::rename(&aside, &here).unwrap();
    let next = home.push("orders", &["topic/orders"], &trained(2)).revision;
    assert_eq!((next.revision, next.id), (2, 2), "a failed push takes no number");
}

#[test]
fn what_is_no_dictionary_changes_nothing() {
    let home = Home::new();
    home.push("orders", &["topic/orders"], &trained(1));
    let good = trained(2);
    // A dictionary that is cut behind its tables is a smaller one.
    let cuts = (0..80).map(|end| good[..end].to_vec());
    let others = [vec![0; 4_096], order(1).repeat(20), vec![0x37; codec::DICTIONARY_BYTES_MAX + 1]];
    for bytes in cuts.chain(others) {
        let pushed = home.library.push(&push("orders", &["topic/orders"]), &bytes, &by());
        if let Err(error) = pushed {
            assert!(matches!(error, PushError::Unfit(_)), "{error}");
        } else {
            panic!("{} bytes were taken", bytes.len());
        }
    }
    assert_eq!((home.library.load().generation(), home.files().len()), (1, 1));
}

#[test]
fn names_and_patterns_are_bounded() {
    let many: Vec<_> = (0..=PATTERNS_MAX).map(|n| format!("topic/a.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(Push::new("a", many[1..].iter().copied()).is_ok());
    assert!(matches!(Push::new("a", many.iter().copied()), Err(PushError::Patterns { count: 65 })));
    assert!(matches!(Push::new("a", []), Err(PushError::Patterns { count: 0 })));
    for pattern in ["topic/a..b", "user/*x", "x", ""] {
        assert!(matches!(Push::new("a", [pattern]), Err(PushError::Pattern { .. })), "{pattern}");
    }
    for name in ["", "A", "a/b", "ü", &"a".repeat(65)] {
        assert!(matches!(Push::new(name, ["all"]), Err(PushError::Name { .. })), "{name}");
    }
    let (library, bytes) = (Library::default(), trained(1));
    for number in 0..NAMES_MAX {
        library.push(&push(&format!("d{number}"), &["all"]), &bytes, &by()).unwrap();
    }
    assert!(matches!(library.push(&push("more", &["all"]), &bytes, &by()), Err(PushError::TooMany)));
    assert!(library.push(&push("d0", &["topic/a"]), &bytes, &by()).is_ok(), "revisions are no names");
}

/// Whether the bytes are taken; what they pack must come back then.
fn works(bytes: &[u8], tools: &mut (Packer, Unpacker)) -> bool {
    let Ok(dictionary) = codec::Dictionary::new(bytes) else { return false };
    for plain in [order(7), order(70_000).repeat(5), vec![0xff; 300]] {
        let mut packed = Vec::new();
        if tools.0.pack(Method::Dictionary(&dictionary), &plain, &mut packed) {
            let plain_bytes = u32::try_from(plain.len()).unwrap();
            let said = Packed { codec: PackedCodec::Dictionary { id: 1 }, plain_bytes };
            let back = tools.1.unpack(said, Some(&dictionary), (&packed, plain.len()));
            assert_eq!(back.as_deref(), Ok(&*plain));
        }
    }
    true
}

#[test]
fn a_changed_byte_or_a_cut_does_no_harm() {
    let good = trained(1);
    let mut tools = (Packer::default(), Unpacker::default());
    let (mut taken, mut refused) = (0, 0);
    for at in 0..good.len() {
        let changed = [1, 0x80, 0xff].map(|change| {
            let mut bytes = good.clone();
            bytes[at] ^= change;
            bytes
        });
        for bytes in changed.iter().map(Vec::as_slice).chain([&good[..at]]) {
            if works(bytes, &mut tools) {
                taken += 1;
            } else {
                refused += 1;
            }
        }
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
}
