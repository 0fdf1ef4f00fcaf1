//! A certificate chain with its private key.

use super::{ALPN, Session, provider, validity};
use crate::quic;
use rustls::crypto::aws_lc_rs::{Ticketer, cipher_suite};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{InconsistentKeys, ServerConfig};
use std::fmt;
use std::sync::Arc;

/// Certificates of one chain; real ones have two to four.
const CHAIN_MAX: usize = 16;

/// Why a certificate and a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The certificate's text is not PEM, or has no certificate.
    #[error("the certificate has no usable `BEGIN CERTIFICATE` block: {0}")]
    Certificate(&'static str),
    /// The key's text is not PEM, or has no private key.
    #[error("the key has no usable `BEGIN PRIVATE KEY` block (PKCS#8, PKCS#1 or SEC1): {0}")]
    Key(&'static str),
    /// There are more certificates than a chain has.
    #[error("{count} certificates, the limit is {CHAIN_MAX}")]
    TooMany { count: usize },
    /// The key is of another certificate.
    #[error("the key does not belong to the certificate")]
    Mismatch,
    /// What is in them cannot be used for TLS.
    #[error("certificate and key cannot be used: {0}")]
    Unusable(rustls::Error),
}

/// What new connections are accepted with.
#[derive(Clone)]
pub struct Credentials {
    config: Arc<ServerConfig>,
    quic: Arc<ServerConfig>,
    fingerprint: [u8; 32],
    /// Of all certificates, one behind the other.
    chain_hash: [u8; 32],
    ends_unix_s: Option<u64>,
}

impl Credentials {
    /// Reads a chain, the server's own certificate first, and its key, both PEM.
    ///
    /// # Errors
    /// The text is not what it should be, or the two do not belong together.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, CredentialsError> {
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| CredentialsError::Certificate(describe(&error)))?;
        if chain.len() > CHAIN_MAX {
            return Err(CredentialsError::TooMany { count: chain.len() });
        }
        let Some(own) = chain.first() else {
            return Err(CredentialsError::Certificate(describe(&pem::Error::NoItemsFound)));
        };
        let (fingerprint, ends_unix_s) = (sha256(own)?, validity::ends_unix_s(own));
        let chain_hash = sha256(&chain.iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>().concat())?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            CredentialsError::Key(if is_encrypted(key) {
                "it has a password; `openssl pkey` takes that off"
            } else {
                describe(&error)
            })
        })?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(CredentialsError::Unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => CredentialsError::Mismatch,
                error => CredentialsError::Unusable(error),
            })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Tickets are the client's memory: a broker that everybody comes back to has no table to miss.
        config.ticketer = Ticketer::new().map_err(CredentialsError::Unusable)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let quic = quic_config(&config)?;
        Ok(Self { config: Arc::new(config), quic: Arc::new(quic), fingerprint, chain_hash, ends_unix_s })
    }

    pub(crate) fn quic(&self) -> Arc<ServerConfig> {
        self.quic.clone()
    }

    /// Begins to serve a connection that was just accepted.
    ///
    /// # Errors
    /// The configuration cannot be used; that is no fault of the peer.
    pub fn accept(&self) -> Result<Session, CredentialsError> {
        Session::new(self.config.clone()).map_err(CredentialsError::Unusable)
    }

    /// Whether these have the same certificates, and so the same key.
    pub fn is_same(&self, other: &Self) -> bool {
        self.chain_hash == other.chain_hash
    }

    /// SHA-256 of the server's own certificate (DER): what a client may pin.
    pub const fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// When the server's own certificate ends, in seconds since 1970; `None` where it does not say so in a way that is known.
    pub const fn ends_unix_s(&self) -> Option<u64> {
        self.ends_unix_s
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// The same certificate for QUIC, which has TLS 1.3 alone.
fn quic_config(config: &ServerConfig) -> Result<ServerConfig, CredentialsError> {
    let mut quic = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(CredentialsError::Unusable)?
        .with_no_client_auth()
        .with_cert_resolver(config.cert_resolver.clone());
    quic.alpn_protocols = [quic::ALPN, quic::ALPN_H3].map(<[u8]>::to_vec).to_vec();
    quic.ticketer = Ticketer::new().map_err(CredentialsError::Unusable)?;
    quic.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(quic)
}

/// Whether a key cannot be read without a password: PKCS#8 says so in its first line, others in the second (RFC 1421, 4.6.1.1).
fn is_encrypted(key: &[u8]) -> bool {
    let marks: [&[u8]; 2] = [b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];
    marks.iter().any(|mark| key.windows(mark.len()).any(|part| part == *mark))
}

/// What is wrong with a PEM file, in words of our own: the error has the line that it is about, which may be a private
/// key, and this goes to a log. A key that is named as the certificate by mistake is no less secret.
const fn describe(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::NoItemsFound => "there is none",
        pem::Error::MissingSectionEnd { .. } => {
            "there is no line `-----END ...-----` of its own; are line ends lost?"
        }
        pem::Error::IllegalSectionStart { .. } => {
            "there is no line `-----BEGIN ...-----` of its own; are line ends lost?"
        }
        pem::Error::Base64Decode(_) => "what is in it is not base64",
        pem::Error::SectionTooLarge => "it is too large",
        _ => "it cannot be read",
    }
}

/// The hash that the provider has for its cipher suites.
pub(super) fn sha256(bytes: &[u8]) -> Result<[u8; 32], CredentialsError> {
    let suite = cipher_suite::TLS13_AES_128_GCM_SHA256.tls13();
    let hash = suite.map(|suite| suite.common.hash_provider.hash(bytes));
    let hash = hash.and_then(|hash| hash.as_ref().try_into().ok());
    hash.ok_or_else(|| CredentialsError::Unusable(rustls::Error::General("there is no SHA-256".to_owned())))
}
