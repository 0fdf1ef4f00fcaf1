//! Whom a client trusts to be the broker, for connections with TLS: `wss://`, `quic://` and `wt://`.

use crate::authorities::Authorities;
use crate::error::Error;
use crate::verifier::Verifier;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

/// Who may be the broker.
#[derive(Debug, Clone, Default)]
pub(crate) enum Trust {
    /// Whom the authorities of this system vouch for.
    #[default]
    System,
    /// Whom the certificates of a PEM file vouch for, or who has one of them.
    Authorities(PathBuf),
    /// Who has the certificate with this SHA-256, in hexadecimal digits; names and dates do not count.
    Fingerprint(String),
}

impl Trust {
    /// Whether nobody was named.
    pub(crate) const fn is_of_system(&self) -> bool {
        matches!(self, Self::System)
    }

    /// Reads what is needed to connect.
    pub(crate) fn verifier(&self) -> Result<Arc<Verifier>, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let inner = self.decider(&provider).map_err(|message| Error::Tls { message })?;
        Ok(Verifier::new(inner, provider))
    }

    fn decider(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
        let roots = match self {
            Self::System => system()?,
            Self::Authorities(path) => return Ok(Arc::new(Authorities::open(path, provider.clone())?)),
            Self::Fingerprint(text) => {
                return Ok(Arc::new(Pin { expected: parse(text)?, provider: provider.clone() }));
            }
        };
        let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        Ok(built.map_err(|error| error.to_string())?)
    }
}

fn system() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A system may have a certificate that is of no use; the others are.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(roots);
    }
    let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
    let errors = if errors.is_empty() { String::new() } else { format!(" ({})", errors.join("; ")) };
    Err(format!(
        "this system has no certificates of authorities{errors}; name a file with them, or a fingerprint"
    ))
}

/// Reads 64 hexadecimal digits, with or without colons.
fn parse(text: &str) -> Result<[u8; 32], String> {
    let wrong = || format!("{text:?} is no SHA-256: expected 64 hexadecimal digits, with or without colons");
    let digits: Vec<u8> = text.trim().bytes().filter(|&byte| byte != b':').collect();
    let mut bytes = [0; 32];
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong());
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

/// Accepts one certificate.
#[derive(Debug)]
struct Pin {
    expected: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The hash that the provider has for its cipher suites.
        let suite = cipher_suite::TLS13_AES_128_GCM_SHA256.tls13();
        let hash = suite.map(|suite| suite.common.hash_provider.hash(own));
        let actual = hash.as_ref().map_or(&[] as &[u8], |hash| hash.as_ref());
        if actual == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        let mut text = String::new();
        for byte in actual {
            // Writing to a string does not fail.
            _ = write!(text, "{}{byte:02X}", if text.is_empty() { "" } else { ":" });
        }
        let text = format!("the certificate has another fingerprint than the expected one: {text}");
        Err(rustls::Error::General(text))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn nothing_of_a_file_is_in_what_is_said_about_it() {
        let file = std::env::temp_dir().join(format!("waspmq-trust-{}.pem", std::process::id()));
        std::fs::write(&file, "-----BEGIN PRIVATE KEY-----c2VjcmV0-----END PRIVATE KEY-----").unwrap();
        let said = Trust::Authorities(file.clone()).verifier().unwrap_err().to_string();
        std::fs::remove_file(&file).unwrap();
        let expected = format!("{} is broken: expected PEM, `BEGIN CERTIFICATE`", file.display());
        assert_eq!(said, format!("cannot use TLS: {expected}"));
    }

    #[test]
    fn fingerprints_are_read_in_both_spellings() {
        let digits = "0123456789abcdef".repeat(4);
        let pairs: Vec<_> =
            digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
        assert_eq!(parse(&digits), parse(&pairs.join(":").to_uppercase()));
        assert_eq!(parse(&digits).unwrap()[..2], [0x01, 0x23]);
        for wrong in ["", "0123", &format!("{digits}0"), &digits.replace('a', "g"), &digits.replace('a', "+")]
        {
            let error = Trust::Fingerprint(wrong.to_owned()).verifier().unwrap_err().to_string();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
        }
    }

    #[test]
    fn a_file_without_authorities_is_named() {
        let check = |path: &Path, expected: &str| {
            let error = Trust::Authorities(path.to_owned()).verifier().unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()) && error.contains(expected), "{error}");
        };
        check(Path::new("/nowhere/ca.pem"), "cannot read");
        check(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")), "has no certificate");
    }
}
