//! Where certificates come from and what replaces them.

use super::*;
use rustix::fs::{CWD, Mode, mkfifoat};
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;
use waspmq_transport::tls::{BACKDATED_SECONDS, SELF_SIGNED_SECONDS, self_signed};

/// Writes a fresh pair of files; gives the configuration that names them.
fn write_pair(directory: &TempDir) -> TlsConfig {
    let (certificate, key) = (directory.path().join("c.pem"), directory.path().join("k.pem"));
    let made = self_signed(&["a.example".to_owned()], 1_800_000_000).unwrap();
    std::fs::write(&certificate, made.certificate_pem).unwrap();
    std::fs::write(&key, made.key_pem).unwrap();
    TlsConfig { certificate: Some(certificate), key: Some(key), ..TlsConfig::default() }
}

fn open(config: &TlsConfig, directory: &TempDir) -> Tls {
    Tls::open(config, false, (directory.path(), Clock::new())).unwrap().unwrap()
}

#[test]
fn without_a_word_there_is_no_tls() {
    let directory = tempfile::tempdir().unwrap();
    assert!(Tls::open(&TlsConfig::default(), false, (directory.path(), Clock::new())).unwrap().is_none());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn files_that_changed_are_taken_once_they_stay() {
    let directory = tempfile::tempdir().unwrap();
    let tls = open(&write_pair(&directory), &directory);
    let first = tls.fingerprint();
    tls.tick();
    tls.tick();
    assert_eq!((tls.fingerprint(), tls.replaced()), (first.clone(), 0));
    write_pair(&directory);
    tls.tick();
    assert_eq!(tls.fingerprint(), first, "they may still be being written");
    tls.tick();
    assert_ne!(tls.fingerprint(), first);
    assert_eq!((tls.replaced(), tls.failed()), (1, 0));
}

#[test]
fn bad_files_keep_the_certificate_and_are_tried_once() {
    let directory = tempfile::tempdir().unwrap();
    let config = write_pair(&directory);
    let tls = open(&config, &directory);
    let first = tls.fingerprint();
    std::fs::write(config.certificate.as_ref().unwrap(), "nothing of use").unwrap();
    for _ in 0..4 {
        tls.tick();
    }
    assert_eq!((tls.fingerprint(), tls.replaced(), tls.failed()), (first.clone(), 0, 1));
    // A hang-up tries again, and so do files that are gone.
    tls.reload(&config);
    std::fs::remove_file(config.key.as_ref().unwrap()).unwrap();
    tls.tick();
    tls.tick();
    tls.reload(&TlsConfig::default());
    assert_eq!((tls.fingerprint(), tls.failed()), (first.clone(), 4));
    write_pair(&directory);
    tls.tick();
    tls.tick();
    assert_ne!(tls.fingerprint(), first);
}

#[test]
fn a_pipe_in_the_place_of_a_key_is_refused_and_what_follows_it_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let config = write_pair(&directory);
    let tls = open(&config, &directory);
    let (first, key) = (tls.fingerprint(), config.key.as_ref().unwrap());
    std::fs::remove_file(key).unwrap();
    mkfifoat(CWD, key, Mode::RUSR | Mode::WUSR).unwrap();
    tls.tick();
    tls.tick();
    tls.reload(&config);
    assert_eq!((tls.fingerprint(), tls.failed()), (first.clone(), 2));
    std::fs::remove_file(key).unwrap();
    write_pair(&directory);
    tls.reload(&config);
    assert_ne!(tls.fingerprint(), first);
}

#[test]
fn what_was_read_while_other_files_were_named_is_not_taken() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = write_pair(&one);
    let tls = open(&config, &one);
    let looked_at = tls.source().clone();
    let late = read(config.certificate.as_ref().unwrap(), config.key.as_ref().unwrap()).unwrap();
    tls.reload(&write_pair(&two));
    let second = tls.fingerprint();
    tls.take(&looked_at, Ok(late));
    assert_eq!(tls.fingerprint(), second);
}

#[test]
fn a_hang_up_takes_other_files() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tls = open(&write_pair(&one), &one);
    let first = tls.fingerprint();
    tls.reload(&write_pair(&two));
    let second = tls.fingerprint();
    assert_ne!(second, first);
    write_pair(&one);
    tls.tick();
    tls.tick();
    assert_eq!(tls.fingerprint(), second, "only the files in force are looked at");
}

#[test]
fn a_certificate_of_our_own_is_kept_and_its_key_is_ours_alone() {
    let directory = tempfile::tempdir().unwrap();
    let config = TlsConfig { self_signed: true, ..TlsConfig::default() };
    let first = open(&config, &directory).fingerprint();
    assert_eq!(open(&config, &directory).fingerprint(), first);
    let key = directory.path().join("tls/self-signed.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    // Another key, other names, or nothing readable: another certificate.
    std::fs::write(&key, "").unwrap();
    let second = open(&config, &directory).fingerprint();
    assert_ne!(second, first);
    let named = TlsConfig { self_signed_names: vec!["a.example".to_owned()], ..config.clone() };
    let third = open(&named, &directory).fingerprint();
    assert_ne!(third, second);
    assert_eq!(open(&named, &directory).fingerprint(), third);
    std::fs::write(directory.path().join("tls/self-signed.pem"), "good until").unwrap();
    assert_ne!(open(&named, &directory).fingerprint(), third);
}

#[test]
fn a_certificate_of_our_own_is_renewed_before_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let made_at = 1_800_000_000;
    let due_at = made_at + SELF_SIGNED_SECONDS - own::RENEW_SECONDS;
    let (first, own) = Own::open(directory.path(), &[], made_at).unwrap();
    assert!(own.renew(due_at - 1).is_none());
    let (kept, _) = Own::open(directory.path(), &[], due_at - 1).unwrap();
    assert_eq!(kept.fingerprint(), first.fingerprint());
    let second = own.renew(due_at).unwrap().unwrap();
    assert_ne!(second.fingerprint(), first.fingerprint());
    assert!(own.renew(due_at + 1).is_none());
    // A start finds the renewed one; one whose clock is far behind does not take what is not good yet.
    let (kept, _) = Own::open(directory.path(), &[], due_at + 1).unwrap();
    assert_eq!(kept.fingerprint(), second.fingerprint());
    let (other, _) = Own::open(directory.path(), &[], made_at).unwrap();
    assert_ne!(other.fingerprint(), second.fingerprint());
}

#[test]
fn a_certificate_of_our_own_from_the_future_is_replaced_also_while_the_broker_runs() {
    let directory = tempfile::tempdir().unwrap();
    let (wrong, slack) = (1_900_000_000, BACKDATED_SECONDS / 2);
    let (first, own) = Own::open(directory.path(), &[], wrong).unwrap();
    // A clock that is put right by a little changes nothing, at a start either.
    assert!(own.renew(wrong - slack).is_none());
    let (kept, _) = Own::open(directory.path(), &[], wrong - slack).unwrap();
    assert!(kept.is_same(&first));
    let right = 1_800_000_000;
    let second = own.renew(right).unwrap().unwrap();
    assert!(!second.is_same(&first));
    assert!(own.renew(right + 1).is_none());
    let (kept, _) = Own::open(directory.path(), &[], right + 1).unwrap();
    assert!(kept.is_same(&second));
    assert!(own.renew(right - slack - 1).is_some());
}

#[test]
fn a_certificate_of_our_own_that_cannot_be_kept_is_served_and_kept_a_minute_later() {
    let directory = tempfile::tempdir().unwrap();
    let (made_at, tls) = (1_800_000_000, directory.path().join("tls"));
    let due_at = made_at + SELF_SIGNED_SECONDS - own::RENEW_SECONDS;
    std::fs::write(&tls, "in the way").unwrap();
    let (first, own) = Own::open(directory.path(), &[], made_at).unwrap();
    let second = own.renew(due_at).unwrap().unwrap();
    assert!(!second.is_same(&first));
    std::fs::remove_file(&tls).unwrap();
    assert!(own.renew(due_at + 59).is_none());
    assert!(!tls.exists());
    assert!(own.renew(due_at + 60).is_none(), "it is the one that is served");
    let (kept, _) = Own::open(directory.path(), &[], due_at + 60).unwrap();
    assert!(kept.is_same(&second));
    // Once it is there, nothing is written any more.
    std::fs::remove_dir_all(&tls).unwrap();
    assert!(own.renew(due_at + 1_000).is_none());
    assert!(!tls.exists());
}

#[test]
fn the_same_files_replace_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let config = write_pair(&directory);
    let tls = open(&config, &directory);
    let before = tls.credentials.load_full();
    tls.reload(&config);
    std::fs::write(config.key.as_ref().unwrap(), std::fs::read(config.key.as_ref().unwrap()).unwrap())
        .unwrap();
    tls.tick();
    tls.tick();
    assert_eq!((tls.replaced(), tls.failed()), (0, 0));
    assert!(Arc::ptr_eq(&before, &tls.credentials.load_full()), "tickets of it stay good");
}

#[test]
fn a_hang_up_goes_from_our_own_to_files_and_not_back() {
    let directory = tempfile::tempdir().unwrap();
    let own = TlsConfig { self_signed: true, ..TlsConfig::default() };
    let files = write_pair(&directory);
    let tls = open(&own, &directory);
    let first = tls.fingerprint();
    tls.reload(&own);
    assert_eq!((tls.replaced(), tls.failed()), (0, 0));
    tls.reload(&TlsConfig { self_signed_names: vec!["b.example".to_owned()], ..own.clone() });
    assert_eq!((tls.fingerprint(), tls.failed()), (first.clone(), 1));
    tls.reload(&files);
    let second = tls.fingerprint();
    assert_ne!(second, first);
    tls.reload(&own);
    tls.reload(&files);
    assert_eq!((tls.fingerprint(), tls.replaced(), tls.failed()), (second, 1, 2));
}

#[test]
fn who_may_read_a_file_is_looked_at_too() {
    let directory = tempfile::tempdir().unwrap();
    let key = write_pair(&directory).key.unwrap();
    let before = stamp(&key);
    assert!(before.is_some());
    // The time of a change is that of the kernel's clock, which may stand still for some of these.
    let differs = (0..1_000_000).any(|round| {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600 + round % 2 * 0o40)).unwrap();
        stamp(&key) != before
    });
    assert!(differs);
}
