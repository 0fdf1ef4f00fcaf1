//! Authorities from a file that may be replaced while a client lives.
//!
//! A broker's own certificate is good for days; who trusts its file reconnects to another one after that. The file is read
//! when a client begins, and again when a certificate is not vouched for by what was read: it may be the file of before.

use crate::certificate::describe;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a file with authorities. Longer: refused.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Accepts whom the certificates of a PEM file vouch for, or who has one of them.
#[derive(Debug)]
pub(crate) struct Authorities {
    path: PathBuf,
    provider: Arc<CryptoProvider>,
    read: Mutex<Arc<WebPkiServerVerifier>>,
}

impl Authorities {
    /// Reads the file. An error is a text for people.
    pub(crate) fn open(path: &Path, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let read = Mutex::new(verifier(path, &provider)?);
        Ok(Self { path: path.to_owned(), provider, read })
    }

    fn current(&self) -> Arc<WebPkiServerVerifier> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Authorities {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refused = match self.current().verify_server_cert(own, others, name, ocsp, now) {
            Err(error) if is_unknown(&error) => error,
            verified => return verified,
        };
        // A file that cannot be read now says nothing about the certificate, and a pipe would have everybody wait for its other end.
        let is_file = self.path.metadata().is_ok_and(|metadata| metadata.is_file());
        let Some(Ok(again)) = is_file.then(|| verifier(&self.path, &self.provider)) else {
            return Err(refused);
        };
        let verified = again.verify_server_cert(own, others, name, ocsp, now)?;
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = again;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether nobody vouches for a certificate. An authority of the same name and another key, which may be of another kind,
/// is as unknown as one of another name.
const fn is_unknown(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::UnknownIssuer
                | CertificateError::BadSignature
                | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
        )
    )
}

fn verifier(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, String> {
    let roots = Arc::new(read(path)?);
    let built = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
    built.map_err(|error| format!("{}: {error}", path.display()))
}

fn read(path: &Path) -> Result<RootCertStore, String> {
    let unreadable = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > BYTES_MAX {
        return Err(format!("{} has more than {BYTES_MAX} bytes", path.display()));
    }
    let text = std::fs::read(path).map_err(unreadable)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        // The error has the line that it is about, and what is named here by mistake may be a private key.
        let certificate = certificate
            .map_err(|_| format!("{} is broken: expected PEM, `BEGIN CERTIFICATE`", path.display()))?;
        roots.add(certificate).map_err(|error| format!("{}: {}", path.display(), describe(&error)))?;
    }
    if roots.is_empty() {
        return Err(format!("{} has no certificate: expected PEM, `BEGIN CERTIFICATE`", path.display()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SignatureAlgorithm};
    use rustls::crypto::aws_lc_rs::default_provider;

    /// An authority of one name, and a certificate that it issued.
    fn issue(algorithm: &'static SignatureAlgorithm) -> (String, CertificateDer<'static>) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "one name");
        let pem = params.self_signed(&key).unwrap().pem();
        let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let own = own.signed_by(&KeyPair::generate().unwrap(), &Issuer::new(params, key)).unwrap();
        (pem, own.der().clone())
    }

    #[test]
    fn a_file_is_read_again_when_the_next_authority_has_a_key_of_another_kind() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (earlier, _) = issue(&rcgen::PKCS_ED25519);
        let (later, own) = issue(&rcgen::PKCS_ECDSA_P256_SHA256);
        std::fs::write(file.path(), earlier).unwrap();
        let authorities = Authorities::open(file.path(), Arc::new(default_provider())).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let verify = || authorities.verify_server_cert(&own, &[], &name, &[], UnixTime::now());
        let refused = describe(&verify().unwrap_err());
        assert!(refused.contains("another kind than the key of its issuer"), "{refused}");
        std::fs::write(file.path(), later).unwrap();
        verify().unwrap();
    }

    #[test]
    fn a_certificate_that_cannot_be_read_is_said_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
            .unwrap();
        let refused = Authorities::open(file.path(), Arc::new(default_provider())).unwrap_err();
        assert!(refused.contains("the certificate cannot be read: make another one"), "{refused}");
    }
}
