//! Crashes, failing writes and damage.

use super::filesystem::{FileSystem, OperatingSystem};
use super::{ContentFiles, FileError, PLUGINS};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Fails from the `nth` step on: once, or for good, as after a crash.
#[derive(Debug)]
struct Failing {
    steps: AtomicUsize,
    nth: usize,
    for_good: bool,
}

impl Failing {
    fn fails(&self) -> bool {
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        step == self.nth || (self.for_good && step > self.nth)
    }

    fn step(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.fails() { Err(io::ErrorKind::StorageFull.into()) } else { work() }
    }
}

impl FileSystem for Failing {
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if self.fails() {
            OperatingSystem.write(path, &bytes[..bytes.len() / 2])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        OperatingSystem.write(path, bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(|| OperatingSystem.rename(from, to))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.step(|| OperatingSystem.sync_directory(path))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(|| OperatingSystem.remove(path))
    }
}

fn failing(directory: &Path, nth: usize, for_good: bool) -> ContentFiles {
    let system = Box::new(Failing { steps: AtomicUsize::new(0), nth, for_good });
    let files = ContentFiles::open_on(directory.to_owned(), PLUGINS, system).unwrap();
    files.read_manifest().unwrap();
    files
}

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("policies");
    (parent, path)
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn found(path: &Path) -> Option<Vec<u8>> {
    ContentFiles::open_policies(path).unwrap().read_manifest().unwrap()
}

#[test]
fn what_is_saved_is_there_and_private() {
    let (_parent, path) = fresh();
    let files = ContentFiles::open_policies(&path).unwrap();
    assert_eq!(files.read_manifest().unwrap(), None);
    let component = b"\0asm component".as_slice();
    files.save_content(&digest(component), component).unwrap();
    files.save_manifest(b"one").unwrap();
    files.save_manifest(b"two").unwrap();
    let again = ContentFiles::open_policies(&path).unwrap();
    assert_eq!(again.read_manifest().unwrap().unwrap(), b"two");
    assert_eq!(again.read_content(&digest(component)).unwrap(), component);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join("components"))), (0o700, 0o700));
    assert_eq!(mode(&path.join("policies.json")), 0o600);
    assert_eq!(mode(&path.join(format!("components/{}.wasm", digest(component)))), 0o600);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 2, "no temporary file stays");
}

#[test]
fn a_crash_leaves_the_manifest_before_or_behind_a_change() {
    for nth in 0..4 {
        for before in [None, Some(b"before".as_slice())] {
            let (_parent, path) = fresh();
            let files = ContentFiles::open_policies(&path).unwrap();
            if let Some(before) = before {
                files.save_manifest(before).unwrap();
            }
            let saved = failing(&path, nth, true).save_manifest(b"behind");
            assert_eq!(saved.is_ok(), nth == 3, "{nth}: write, rename, sync, and nothing more");
            let found = found(&path);
            // The last step may have reached the disk although it failed; everything else must not be seen.
            let allowed = match nth {
                0 | 1 => vec![before],
                2 => vec![before, Some(b"behind".as_slice())],
                _ => vec![Some(b"behind".as_slice())],
            };
            assert!(allowed.contains(&found.as_deref()), "{nth} {before:?}: {found:?}");
        }
    }
}

#[test]
fn a_refused_change_does_not_come_back() {
    for nth in 0..3 {
        for before in [None, Some(b"before".as_slice())] {
            let (_parent, path) = fresh();
            let files = ContentFiles::open_policies(&path).unwrap();
            if let Some(before) = before {
                files.save_manifest(before).unwrap();
            }
            let files = failing(&path, nth, false);
            let error = files.save_manifest(b"behind").unwrap_err();
            assert!(error.is_full() && error.chain().contains("policies"), "{}", error.chain());
            assert_eq!(found(&path).as_deref(), before, "step {nth}");
            assert!(!path.join("policies.tmp").exists(), "step {nth}");
            files.save_manifest(b"later").unwrap();
            assert_eq!(found(&path).as_deref(), Some(b"later".as_slice()));
        }
    }
}

#[test]
fn a_component_is_whole_or_not_there() {
    let component = vec![7; 10_000];
    let name = digest(&component);
    for nth in 0..3 {
        let (_parent, path) = fresh();
        drop(ContentFiles::open_policies(&path).unwrap());
        failing(&path, nth, true).save_content(&name, &component).unwrap_err();
        let files = ContentFiles::open_policies(&path).unwrap();
        match files.read_content(&name) {
            Ok(found) => assert_eq!((found, nth), (component.clone(), 2)),
            Err(error) => assert!(matches!(error, FileError::Missing { .. }), "{nth}: {error}"),
        }
        files.save_content(&name, &component).unwrap();
        assert_eq!(files.read_content(&name).unwrap(), component);
    }
}

#[test]
fn damage_is_named_and_mended_by_the_same_bytes() {
    let (_parent, path) = fresh();
    let files = ContentFiles::open_policies(&path).unwrap();
    let component = b"component".to_vec();
    let name = digest(&component);
    let file = path.join(format!("components/{name}.wasm"));
    assert!(matches!(files.read_content(&name), Err(FileError::Missing { .. })));
    for damage in [b"".as_slice(), b"componenT", b"component and more"] {
        files.save_content(&name, &component).unwrap();
        fs::write(&file, damage).unwrap();
        let error = files.read_content(&name).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, FileError::Changed { .. }), "{text}");
        for part in [&name, &digest(damage), &file.display().to_string()] {
            assert!(text.contains(part), "{part}: {text}");
        }
        files.save_content(&name, &component).unwrap();
        assert_eq!(files.read_content(&name).unwrap(), component);
    }
}

#[test]
fn only_digests_are_names() {
    let (_parent, path) = fresh();
    let files = ContentFiles::open_policies(&path).unwrap();
    for name in ["", "../../etc/passwd", &"A".repeat(64), &"a".repeat(63), &format!("{}/", "a".repeat(63))] {
        assert!(matches!(files.read_content(name), Err(FileError::NoDigest { .. })), "{name}");
        assert!(matches!(files.save_content(name, b"x"), Err(FileError::NoDigest { .. })), "{name}");
        assert!(matches!(files.remove_content(name), Err(FileError::NoDigest { .. })), "{name}");
    }
}

#[test]
fn a_sweep_leaves_what_is_used() {
    let (_parent, path) = fresh();
    let files = ContentFiles::open_policies(&path).unwrap();
    let (used, left) = (digest(b"used"), digest(b"left"));
    files.save_content(&used, b"used").unwrap();
    files.save_content(&left, b"left").unwrap();
    fs::write(path.join(format!("components/{left}.tmp")), "half").unwrap();
    assert_eq!(files.sweep(|digest| digest == used).unwrap(), 2);
    assert_eq!(files.read_content(&used).unwrap(), b"used");
    assert_eq!(fs::read_dir(path.join("components")).unwrap().count(), 1);
    files.remove_content(&used).unwrap();
    files.remove_content(&used).unwrap();
    assert_eq!(fs::read_dir(path.join("components")).unwrap().count(), 0);
}

#[test]
fn dictionaries_lie_beside_their_manifest() {
    let (_parent, path) = fresh();
    let files = ContentFiles::open_dictionaries(&path).unwrap();
    let (used, left) = (digest(b"used"), digest(b"left"));
    for (name, bytes) in [(&used, b"used"), (&left, b"left")] {
        files.save_content(name, bytes).unwrap();
    }
    files.save_manifest(b"one").unwrap();
    fs::write(path.join("dictionaries.tmp"), "half").unwrap();
    let again = ContentFiles::open_dictionaries(&path).unwrap();
    assert_eq!(again.sweep(|digest| digest == used).unwrap(), 2);
    assert_eq!(again.read_manifest().unwrap().unwrap(), b"one", "a sweep leaves the manifest");
    assert_eq!(again.read_content(&used).unwrap(), b"used");
    let file = path.join(format!("{used}.dict"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
    fs::write(&file, "usEd").unwrap();
    let error = again.read_content(&used).unwrap_err();
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
    fs::write(&file, vec![0; 1024 * 1024 + 1]).unwrap();
    assert!(matches!(again.read_content(&used), Err(FileError::TooLarge { .. })));
}
