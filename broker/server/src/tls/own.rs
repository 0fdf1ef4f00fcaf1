//! The certificate that the broker makes by itself: two files in its data directory, renewed before they end.
//!
//! `tls/self-signed.pem` has a line in front of the certificate that says until when and for which names it is good;
//! readers of PEM skip it. `tls/self-signed.key` is for the broker alone (mode 0600). The key is written first, so that a
//! certificate never lies beside the key of the one before for longer than the start that replaces both.

use super::read;
use crate::access::read_bounded;
use anyhow::Context;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use waspmq_transport::tls::{BACKDATED_SECONDS, Credentials, SELF_SIGNED_SECONDS, SelfSigned, self_signed};

/// How long before its end a certificate is renewed: time to try again what fails.
pub(super) const RENEW_SECONDS: u64 = 3 * 86_400;
/// How long after a renewal, or keeping what was made, failed it is tried again.
const RETRY_SECONDS: u64 = 60;
/// How far the clock may have gone back since a certificate was made: peers may still be as far behind.
const CLOCK_BACK_SECONDS: u64 = BACKDATED_SECONDS / 2;
/// Names that every certificate has.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A certificate of our own and when it is renewed.
#[derive(Debug)]
pub(super) struct Own {
    directory: PathBuf,
    names: Vec<String>,
    made: Mutex<Made>,
}

/// What was made last.
#[derive(Debug, Default)]
struct Made {
    renew_unix_s: u64,
    /// The certificate in force, while it could not be kept, and when that is tried again.
    unkept: Option<(SelfSigned, u64)>,
}

impl Own {
    /// Takes the one of an earlier start, or makes one.
    pub(super) fn open(
        data_dir: &Path,
        names: &[String],
        now_unix_s: u64,
    ) -> anyhow::Result<(Credentials, Self)> {
        let (directory, names) = (data_dir.join("tls"), all_names(names));
        let own = Self { directory, names, made: Mutex::default() };
        let mut made = Made::default();
        let credentials = match own.take_kept(&mut made, now_unix_s) {
            Some(credentials) => credentials,
            None => own.make(&mut made, now_unix_s)?,
        };
        Ok((credentials, Self { made: Mutex::new(made), ..own }))
    }

    pub(super) fn is_for(&self, names: &[String]) -> bool {
        self.names == all_names(names)
    }

    /// Makes another one when it is time. One that could not be kept is written when that is tried again.
    pub(super) fn renew(&self, now_unix_s: u64) -> Option<anyhow::Result<Credentials>> {
        let made = &mut *self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((unkept, _)) = made.unkept.take_if(|(_, retry_unix_s)| now_unix_s >= *retry_unix_s) {
            made.unkept = self.keep(unkept, now_unix_s);
        }
        if is_timely(made.renew_unix_s, now_unix_s) {
            return None;
        }
        made.renew_unix_s = now_unix_s + RETRY_SECONDS;
        Some(self.make(made, now_unix_s))
    }

    fn take_kept(&self, made: &mut Made, now_unix_s: u64) -> Option<Credentials> {
        let text = String::from_utf8(read_bounded(&self.certificate()).ok()?).ok()?;
        let (expires, names) = text.lines().next()?.strip_prefix("good until ")?.split_once(" for ")?;
        let renew_unix_s = expires.parse::<u64>().ok()?.checked_sub(RENEW_SECONDS)?;
        if !is_timely(renew_unix_s, now_unix_s) || names != self.names.join(",") {
            return None;
        }
        made.renew_unix_s = renew_unix_s;
        read(&self.certificate(), &self.key()).ok()
    }

    fn make(&self, made: &mut Made, now_unix_s: u64) -> anyhow::Result<Credentials> {
        let new = self_signed(&self.names, now_unix_s)?;
        let credentials = Credentials::from_pem(new.certificate_pem.as_bytes(), new.key_pem.as_bytes())?;
        made.renew_unix_s = new.expires_unix_s - RENEW_SECONDS;
        made.unkept = self.keep(new, now_unix_s);
        Ok(credentials)
    }

    /// Writes what was made; gives it back where that failed. It is served either way: a full disk is no reason to serve one
    /// that ends.
    fn keep(&self, made: SelfSigned, now_unix_s: u64) -> Option<(SelfSigned, u64)> {
        let error = self.write(&made).err()?;
        tracing::warn!(
            error = format!("{error:#}"),
            "the TLS certificate is served, and a restart would make another one; trying again in a minute"
        );
        Some((made, now_unix_s + RETRY_SECONDS))
    }

    fn write(&self, made: &SelfSigned) -> anyhow::Result<()> {
        let directory = &self.directory;
        let what = || format!("cannot keep a certificate in {}", directory.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(what)?;
        let text = format!(
            "good until {} for {}\n{}",
            made.expires_unix_s,
            self.names.join(","),
            made.certificate_pem
        );
        write(&self.key(), made.key_pem.as_bytes(), 0o600).with_context(what)?;
        write(&self.certificate(), text.as_bytes(), 0o644).with_context(what)
    }

    fn certificate(&self) -> PathBuf {
        self.directory.join("self-signed.pem")
    }

    fn key(&self) -> PathBuf {
        self.directory.join("self-signed.key")
    }
}

/// Whether one that is to be renewed then is to be served now: it is not time for another one, and it was not made in what is the
/// future now, by a clock that was wrong. A clock that is put right by a little costs nobody who pins it a certificate.
const fn is_timely(renew_unix_s: u64, now_unix_s: u64) -> bool {
    let latest = now_unix_s + CLOCK_BACK_SECONDS + SELF_SIGNED_SECONDS - RENEW_SECONDS;
    now_unix_s < renew_unix_s && renew_unix_s <= latest
}

fn all_names(names: &[String]) -> Vec<String> {
    let mut all: Vec<String> = LOOPBACK.map(str::to_owned).to_vec();
    for name in names {
        if !all.contains(name) {
            all.push(name.clone());
        }
    }
    all
}

/// Puts a whole file in the place of one that may be there.
fn write(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    let mut file =
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(mode)).tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
