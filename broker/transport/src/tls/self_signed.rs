//! A certificate of our own making, for a start without an authority.

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use std::time::Duration;

/// How long one is good from now on. Browsers take a certificate by its hash only if it is good for less than 14 days.
pub const SELF_SIGNED_SECONDS: u64 = 13 * 86_400;
/// How long one was good when it was made: how far behind ours a peer's clock may be.
pub const BACKDATED_SECONDS: u64 = 3_600;

const _: () = assert!(SELF_SIGNED_SECONDS + BACKDATED_SECONDS < 14 * 86_400, "browsers refuse longer ones");

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate for {names:?}: {message}")]
pub struct SelfSignedError {
    names: Vec<String>,
    message: String,
}

/// A certificate that nobody vouches for, with its key.
pub struct SelfSigned {
    pub certificate_pem: String,
    pub key_pem: String,
    pub expires_unix_s: u64,
}

impl std::fmt::Debug for SelfSigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelfSigned").field("expires_unix_s", &self.expires_unix_s).finish_non_exhaustive()
    }
}

/// Makes one for these names and addresses: ECDSA on P-256, good for [`SELF_SIGNED_SECONDS`].
///
/// # Errors
/// A name is none.
pub fn self_signed(names: &[String], now_unix_s: u64) -> Result<SelfSigned, SelfSignedError> {
    let failed = |error: rcgen::Error| SelfSignedError { names: names.to_vec(), message: error.to_string() };
    let mut params = CertificateParams::new(names.to_vec()).map_err(failed)?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, "WaspMQ self-signed");
    params.distinguished_name = subject;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let at = |unix_s| date_time_ymd(1970, 1, 1) + Duration::from_secs(unix_s);
    let expires_unix_s = now_unix_s + SELF_SIGNED_SECONDS;
    params.not_before = at(now_unix_s.saturating_sub(BACKDATED_SECONDS));
    params.not_after = at(expires_unix_s);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(SelfSigned { certificate_pem: certificate.pem(), key_pem: key.serialize_pem(), expires_unix_s })
}
