//! The directory of one running broker.
//!
//! ```text
//! <data-dir>/            mode 0700
//!   lock                 locked for as long as the broker runs; has no content
//!   epoch                a decimal number, greater at every start; in the store, too
//!   node-id              8 hexadecimal digits, made once
//!   shard-seed           mode 0600, 16 hexadecimal digits, made once
//!   admin-token          mode 0600, see `token`
//!   store/               the store, see `disk`
//!   policies/            plugins and policies, see `contents`
//!   dictionaries/        dictionaries, see `contents`
//!   audit.log            what was changed by whom, see `audit`
//! ```

use crate::error::OpenError;
use crate::file;
use crate::token::{self, AdminToken};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Epochs are 24 bits wide in every id. What a clock says behind that, which is late in 2056, is not used.
const EPOCH_MAX: u32 = (1 << 24) - 1;

/// Epochs are at least the minutes since 2025-01-01T00:00Z.
const EPOCHS_BEGIN_UNIX_MS: u64 = 1_735_689_600_000;
const EPOCH_MS: u64 = 60_000;

/// Epochs by which starts in quick succession may be ahead of the clock. More: an epoch that comes again, because the
/// directory was restored within the same minute, has offsets again, and it is said that the clock stands behind.
const EPOCHS_AHEAD_MAX: u32 = 8;

/// Offsets that a stream takes in a millisecond at most; of more, those of a run that was undone by a restore may come again.
const OFFSETS_PER_MS: u64 = 1_024;

/// Random bytes of a node's id.
const NODE_ID_BYTES: usize = 4;

/// A locked data directory; dropping it releases the lock.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    epoch: u32,
    first_offset: u64,
    node_id: String,
    shard_seed: u64,
    /// Held, not read: the operating system drops the lock with the file.
    _lock: File,
}

impl DataDir {
    /// Opens the directory, making it where it does not exist, and begins a new epoch.
    ///
    /// The new epoch is on disk before this returns, so ids made with it are never made again, however the
    /// process ends. It goes with the clock, so that neither a directory of which the file is lost nor one that was
    /// restored from a backup begins one that was used. Within the same minute it may; then offsets, which go with the clock
    /// too, tell the runs apart.
    pub fn open(path: impl Into<PathBuf>, now_unix_ms: u64) -> Result<Self, OpenError> {
        let path = path.into();
        make_directory(&path)?;
        let lock = lock(&path)?;
        let node_id = read_or_make_node_id(&path.join("node-id"))?;
        let shard_seed = read_or_make_shard_seed(&path.join("shard-seed"))?;
        let epoch = begin_epoch(&path, now_unix_ms)?;
        let first_offset = offset_at(now_unix_ms, epoch);
        Ok(Self { path, epoch, first_offset, node_id, shard_seed, _lock: lock })
    }

    /// The admin token, made on first use.
    pub fn admin_token(&self) -> Result<AdminToken, OpenError> {
        token::read_or_make(&self.path)
    }

    /// Where the admin token is.
    pub fn admin_token_path(&self) -> PathBuf {
        token::path_in(&self.path)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Greater than at any earlier open; 1 to 2^24 - 1.
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Where the offsets of this epoch begin.
    pub const fn first_offset(&self) -> u64 {
        self.first_offset
    }

    /// Notes the epoch in the store, too, which must be there: whichever of the two is lost or older, no epoch comes twice.
    pub fn note_epoch(&self) -> Result<(), OpenError> {
        file::replace(&epoch_paths(&self.path)[1], &self.epoch.to_string())
    }

    /// 8 hexadecimal digits, the same at every open.
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// What decides the shard of an address. Random, so that nobody else can choose names that share one; the same at
    /// every open, because positions name the shard.
    pub const fn shard_seed(&self) -> u64 {
        self.shard_seed
    }

    /// Where the store is.
    pub fn store_path(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Where plugins and policies are.
    pub fn policies_path(&self) -> PathBuf {
        self.path.join("policies")
    }

    /// Where dictionaries are.
    pub fn dictionaries_path(&self) -> PathBuf {
        self.path.join("dictionaries")
    }

    /// Where it is noted what was changed by whom.
    pub fn audit_path(&self) -> PathBuf {
        self.path.join("audit.log")
    }
}

fn make_directory(path: &Path) -> Result<(), OpenError> {
    if path.is_dir() {
        return Ok(());
    }
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(no_directory(path)),
        made => {
            made.map_err(OpenError::io("make the data directory", path))?;
            file::sync_directory(path.parent().unwrap_or(path))
        }
    }
}

/// Says what is in the place of a directory, or of one above it.
fn no_directory(path: &Path) -> OpenError {
    let path = path.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(path);
    let found = match std::fs::read_link(path) {
        Ok(target) => format!("is a symbolic link to {}, where no directory is", target.display()),
        Err(_) => "is no directory".to_owned(),
    };
    OpenError::NoDirectory { path: path.to_owned(), found }
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(OpenError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: directory.to_owned() }),
        Err(TryLockError::Error(source)) => Err(OpenError::Io { action: "lock", path, source }),
    }
}

/// Where the last epoch is noted.
fn epoch_paths(directory: &Path) -> [PathBuf; 2] {
    [directory.join("epoch"), directory.join("store").join("epoch")]
}

fn begin_epoch(directory: &Path, now_unix_ms: u64) -> Result<u32, OpenError> {
    let paths = epoch_paths(directory);
    let mut last = 0;
    for path in &paths {
        let Some(text) = file::read(path)? else { continue };
        let noted = decimal(&text).ok_or_else(|| OpenError::Corrupt {
            path: path.clone(),
            expected: "a decimal number below 2^24",
            remedy: "a smaller number than the last would make message ids repeat, so write one that is larger than any \
                     that was used",
        })?;
        last = noted.max(last);
    }
    let [path, _] = paths;
    if last >= EPOCH_MAX {
        return Err(OpenError::EpochExhausted { path });
    }
    let of_clock = epoch_at(now_unix_ms).unwrap_or_default();
    if of_clock.saturating_add(EPOCHS_AHEAD_MAX) < last {
        tracing::warn!(
            last,
            of_clock,
            "the clock stands behind the last start of the broker, or past 2056: while it does, a backup that is restored may repeat positions"
        );
    }
    let epoch = of_clock.max(last + 1);
    file::replace(&path, &epoch.to_string())?;
    Ok(epoch)
}

/// Where the offsets of an epoch begin that was begun then: behind all that it had when it was begun before.
const fn offset_at(unix_ms: u64, epoch: u32) -> u64 {
    let from_ms = EPOCHS_BEGIN_UNIX_MS + epoch.saturating_sub(EPOCHS_AHEAD_MAX) as u64 * EPOCH_MS;
    unix_ms.saturating_sub(from_ms).saturating_mul(OFFSETS_PER_MS)
}

/// The epoch of a time; `None` where there is none.
fn epoch_at(unix_ms: u64) -> Option<u32> {
    let minutes = unix_ms.checked_sub(EPOCHS_BEGIN_UNIX_MS)? / EPOCH_MS;
    u32::try_from(minutes).ok().filter(|epoch| *epoch < EPOCH_MAX)
}

/// Digits only: `u32`'s own parser would take a sign too.
fn decimal(text: &str) -> Option<u32> {
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number.filter(|number| *number <= EPOCH_MAX)
}

fn read_or_make_node_id(path: &Path) -> Result<String, OpenError> {
    let Some(text) = file::read(path)? else {
        let id = token::random_hex::<NODE_ID_BYTES>()?;
        file::replace(path, &id)?;
        return Ok(id);
    };
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != NODE_ID_BYTES * 2 || !text.bytes().all(is_digit) {
        return Err(OpenError::Corrupt {
            path: path.to_owned(),
            expected: "8 hexadecimal digits in lower case",
            remedy: "or remove it, and the node gets a new id",
        });
    }
    Ok(text)
}

fn read_or_make_shard_seed(path: &Path) -> Result<u64, OpenError> {
    let text = match file::read(path)? {
        Some(text) => text,
        None => {
            let seed = token::random_hex::<8>()?;
            file::replace(path, &seed)?;
            seed
        }
    };
    let is_digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let seed = if is_digits { u64::from_str_radix(&text, 16).ok() } else { None };
    seed.ok_or_else(|| OpenError::Corrupt {
        path: path.to_owned(),
        expected: "16 hexadecimal digits",
        remedy: "a new number would give stored addresses other streams, so remove it only with the store",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_admin_token;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const NOW: u64 = EPOCHS_BEGIN_UNIX_MS + 1_000 * EPOCH_MS + 1;

    fn mode(path: impl AsRef<Path>) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn fresh() -> (tempfile::TempDir, PathBuf) {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        (parent, path)
    }

    #[test]
    fn a_new_directory_is_private() {
        let (_parent, path) = fresh();
        let data = DataDir::open(&path, NOW).unwrap();
        assert_eq!(data.epoch(), 1_000);
        assert_eq!(mode(&path), 0o700);
        data.admin_token().unwrap();
        for file in ["lock", "epoch", "node-id", "shard-seed", "admin-token"] {
            assert_eq!(mode(path.join(file)), 0o600, "{file}");
        }
        assert_eq!(fs::read_dir(&path).unwrap().count(), 5, "no temporary file stays");
    }

    #[test]
    fn two_brokers_do_not_share_it() {
        let (_parent, path) = fresh();
        let first = DataDir::open(&path, NOW).unwrap();
        let error = DataDir::open(&path, NOW).unwrap_err();
        assert!(matches!(error, OpenError::Locked { .. }));
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        drop(first);
        assert_eq!(DataDir::open(&path, NOW).unwrap().epoch(), 1_001, "a refused open begins no epoch");
    }

    #[test]
    fn the_epoch_grows_and_the_rest_stays() {
        let (_parent, path) = fresh();
        let first = DataDir::open(&path, NOW).unwrap();
        let (node, token) = (first.node_id().to_owned(), first.admin_token().unwrap());
        let seed = first.shard_seed();
        assert_eq!(token.expose().len(), 64);
        drop(first);
        for epoch in 1_001..1_005 {
            let data = DataDir::open(&path, NOW).unwrap();
            assert_eq!((data.epoch(), data.node_id(), data.shard_seed()), (epoch, &*node, seed));
            assert_eq!(data.admin_token().unwrap(), token);
            assert_eq!(read_admin_token(&path).unwrap(), token);
        }
    }

    #[test]
    fn ids_and_tokens_are_random() {
        let (_one, first) = fresh();
        let (_other, second) = fresh();
        let (first, second) = (DataDir::open(first, NOW).unwrap(), DataDir::open(second, NOW).unwrap());
        assert_ne!(first.node_id(), second.node_id());
        assert_ne!(first.shard_seed(), second.shard_seed());
        assert_ne!(first.admin_token().unwrap(), second.admin_token().unwrap());
    }

    #[test]
    fn an_epoch_that_is_lost_or_restored_is_not_used_again() {
        let (_parent, path) = fresh();
        let open = |minutes: u64| DataDir::open(&path, NOW + minutes * EPOCH_MS).map(|data| data.epoch());
        assert_eq!(open(0).unwrap(), 1_000);
        let backup = fs::read(path.join("epoch")).unwrap();
        assert_eq!([open(0).unwrap(), open(5).unwrap()], [1_001, 1_005]);
        fs::write(path.join("epoch"), &backup).unwrap();
        assert_eq!(open(6).unwrap(), 1_006);
        fs::remove_file(path.join("epoch")).unwrap();
        assert_eq!(open(7).unwrap(), 1_007);
        assert_eq!(DataDir::open(&path, 0).unwrap().epoch(), 1_008, "a clock that stands behind counts");
    }

    #[test]
    fn the_store_knows_the_epoch_too() {
        let (_parent, path) = fresh();
        let data = DataDir::open(&path, NOW).unwrap();
        fs::create_dir(data.store_path()).unwrap();
        data.note_epoch().unwrap();
        drop(data);
        let files = ["epoch", "store/epoch"].map(|file| path.join(file));
        for (lost, epoch) in files.iter().zip([1_001, 1_002]) {
            fs::remove_file(lost).unwrap();
            let data = DataDir::open(&path, 0).unwrap();
            assert_eq!(data.epoch(), epoch);
            data.note_epoch().unwrap();
        }
        fs::write(&files[1], "x").unwrap();
        let error = DataDir::open(&path, 0).unwrap_err().to_string();
        assert!(error.contains("store/epoch"), "{error}");
    }

    #[test]
    fn an_epoch_that_comes_again_has_later_offsets() {
        let (_parent, path) = fresh();
        fs::create_dir_all(&path).unwrap();
        let restored = |seconds: u64| {
            fs::write(path.join("epoch"), "1000").unwrap();
            let data = DataDir::open(&path, NOW + seconds * 1_000).unwrap();
            (data.epoch(), data.first_offset())
        };
        let (epoch, first) = restored(0);
        for seconds in [1, 59, 60, 119] {
            let offset = first + seconds * 1_000 * OFFSETS_PER_MS;
            assert_eq!(restored(seconds), (epoch, offset), "{seconds}");
        }
        assert_eq!(restored(120).0, epoch + 1);
        assert!(restored(119).1 < 1 << 30, "they have few digits");
        assert_eq!(DataDir::open(&path, 0).unwrap().first_offset(), 0);
    }

    #[test]
    fn a_clock_that_is_out_of_range_takes_no_epochs_away() {
        let (_parent, path) = fresh();
        let last = EPOCHS_BEGIN_UNIX_MS + u64::from(EPOCH_MAX) * EPOCH_MS;
        for (unix_ms, epoch) in [(0, 1), (last, 2), (u64::MAX, 3), (EPOCHS_BEGIN_UNIX_MS - 1, 4)] {
            assert_eq!(DataDir::open(&path, unix_ms).unwrap().epoch(), epoch, "{unix_ms}");
        }
        assert_eq!(DataDir::open(&path, last - 1).unwrap().epoch(), EPOCH_MAX - 1);
    }

    #[test]
    fn the_last_epoch_is_the_last() {
        let (_parent, path) = fresh();
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("epoch"), (EPOCH_MAX - 1).to_string()).unwrap();
        assert_eq!(DataDir::open(&path, NOW).unwrap().epoch(), EPOCH_MAX);
        assert!(matches!(DataDir::open(&path, NOW), Err(OpenError::EpochExhausted { .. })));
    }

    #[test]
    fn garbage_is_refused_by_name_and_kept() {
        for garbage in [b"".as_slice(), b"-1", b"+1", b"1 2", b"99999999", b"\xff\xfe", &[b'1'; 5000]] {
            for file in ["epoch", "node-id", "shard-seed"] {
                let (_parent, path) = fresh();
                fs::create_dir_all(&path).unwrap();
                fs::write(path.join(file), garbage).unwrap();
                if file == "node-id" && garbage == b"99999999" {
                    assert_eq!(DataDir::open(&path, NOW).unwrap().node_id(), "99999999");
                    continue;
                }
                let error = DataDir::open(&path, NOW).unwrap_err();
                assert!(matches!(error, OpenError::Corrupt { .. }), "{garbage:?} {error}");
                assert!(error.to_string().contains(&path.join(file).display().to_string()), "{error}");
                assert_eq!(fs::read(path.join(file)).unwrap(), garbage);
            }
        }
    }

    #[test]
    fn a_half_written_epoch_does_not_count() {
        let (_parent, path) = fresh();
        drop(DataDir::open(&path, NOW).unwrap());
        fs::write(path.join("epoch.tmp"), "77").unwrap();
        fs::set_permissions(path.join("epoch.tmp"), fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(DataDir::open(&path, NOW).unwrap().epoch(), 1_001);
        assert_eq!(mode(path.join("epoch")), 0o600);
    }

    #[test]
    fn a_token_that_others_can_read_is_refused() {
        let (_parent, path) = fresh();
        let data = DataDir::open(&path, NOW).unwrap();
        assert!(matches!(read_admin_token(&path), Err(OpenError::TokenMissing { .. })));
        let token = data.admin_token().unwrap();
        let file = data.admin_token_path();
        for open in [0o640, 0o604, 0o660] {
            fs::set_permissions(&file, fs::Permissions::from_mode(open)).unwrap();
            let error = data.admin_token().unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 600 {}", file.display())), "{error}");
            assert!(!error.contains(token.expose()));
            assert!(
                matches!(read_admin_token(&path), Err(OpenError::TokenExposed { mode, .. }) if mode == open)
            );
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(data.admin_token().unwrap(), token);
    }

    #[test]
    fn an_own_token_is_taken_and_a_bad_one_is_not() {
        let (_parent, path) = fresh();
        let data = DataDir::open(&path, NOW).unwrap();
        let write = |text: &str| {
            fs::write(data.admin_token_path(), text).unwrap();
            fs::set_permissions(data.admin_token_path(), fs::Permissions::from_mode(0o600)).unwrap();
            data.admin_token()
        };
        assert_eq!(write("sixteen-letters!\n").unwrap().expose(), "sixteen-letters!");
        for bad in ["", "short", "sixteen letters, but with spaces", &"x".repeat(257)] {
            assert!(matches!(write(bad), Err(OpenError::Corrupt { .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_path_that_cannot_be_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        fs::write(&path, "").unwrap();
        let error = DataDir::open(path.join("inside"), NOW).unwrap_err();
        assert!(error.to_string().contains("inside"), "{error}");
    }

    #[test]
    fn what_is_there_instead_of_a_directory_is_told() {
        let parent = tempfile::tempdir().unwrap();
        let (file, link) = (parent.path().join("file"), parent.path().join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(parent.path().join("gone"), &link).unwrap();
        let told = |path: &Path| DataDir::open(path, NOW).unwrap_err().to_string();
        assert_eq!(
            told(&file),
            format!("cannot make the data directory: {} is no directory", file.display())
        );
        let error = told(&link);
        assert!(
            error.contains("link is a symbolic link to ") && error.contains("/gone, where no"),
            "{error}"
        );
        assert_eq!(told(&link.join("a/b")), error);
        fs::create_dir(parent.path().join("gone")).unwrap();
        assert_eq!(DataDir::open(&link, NOW).unwrap().epoch(), 1_000);
    }

    #[test]
    fn debug_hides_the_token() {
        let (_parent, path) = fresh();
        let token = DataDir::open(path, NOW).unwrap().admin_token().unwrap();
        assert!(!format!("{token:?}").contains(token.expose()));
    }
}
