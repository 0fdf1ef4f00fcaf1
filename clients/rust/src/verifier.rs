//! Who decides whether a certificate is the broker's, and remembers why it was not: QUIC hands on no more than a text.
//!
//! All attempts have the same verifier, for tickets of TLS are good for that one only. Each finds its own refusal by that text.

use crate::error::Error;
use crate::limits::REFUSALS_MAX;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

#[derive(Debug)]
pub(crate) struct Verifier {
    inner: Arc<dyn ServerCertVerifier>,
    provider: Arc<CryptoProvider>,
    /// Why certificates were not accepted, the oldest first; at most [`REFUSALS_MAX`].
    refusals: Mutex<VecDeque<rustls::Error>>,
}

impl Verifier {
    pub(crate) fn new(inner: Arc<dyn ServerCertVerifier>, provider: Arc<CryptoProvider>) -> Arc<Self> {
        Arc::new(Self { inner, provider, refusals: Mutex::default() })
    }

    /// A client's TLS with this verifier, for what is spoken behind it.
    pub(crate) fn config(self: &Arc<Self>, alpn: &[u8]) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Tls { message: error.to_string() })?
            .dangerous()
            .with_custom_certificate_verifier(self.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(config)
    }

    /// The refusal that QUIC described so.
    #[cfg(feature = "quic")]
    pub(crate) fn take_refusal(&self, described: &str) -> Option<rustls::Error> {
        let mut refusals = self.refusals.lock().unwrap();
        let found = refusals.iter().position(|refusal| refusal.to_string() == described)?;
        refusals.remove(found)
    }

    fn handle_refusal(&self, refusal: rustls::Error) {
        let mut refusals = self.refusals.lock().unwrap();
        if refusals.len() >= REFUSALS_MAX {
            refusals.pop_front();
        }
        refusals.push_back(refusal);
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(own, others, name, ocsp, now);
        verified.inspect_err(|refusal| self.handle_refusal(refusal.clone()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verified = self.inner.verify_tls12_signature(message, certificate, signature);
        verified.inspect_err(|refusal| self.handle_refusal(refusal.clone()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verified = self.inner.verify_tls13_signature(message, certificate, signature);
        verified.inspect_err(|refusal| self.handle_refusal(refusal.clone()))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.inner.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.inner.root_hint_subjects()
    }
}

#[cfg(all(test, feature = "quic"))]
mod tests {
    use super::*;
    use rustls::CertificateError;
    use rustls::crypto::aws_lc_rs::default_provider;

    /// Refuses each certificate for what its first byte says.
    #[derive(Debug)]
    struct ByByte;

    impl ServerCertVerifier for ByByte {
        fn verify_server_cert(
            &self,
            own: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            match own.first() {
                Some(0) => Ok(ServerCertVerified::assertion()),
                Some(1) => Err(CertificateError::Expired.into()),
                _ => Err(rustls::Error::General(format!("{own:?}"))),
            }
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(CertificateError::BadSignature.into())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(CertificateError::BadSignature.into())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            Vec::new()
        }
    }

    #[test]
    fn each_attempt_is_told_of_its_own_certificate() {
        let verifier = Verifier::new(Arc::new(ByByte), Arc::new(default_provider()));
        let name = ServerName::try_from("localhost").unwrap();
        let verify = |certificate: Vec<u8>| {
            let verified = verifier.verify_server_cert(&certificate.into(), &[], &name, &[], UnixTime::now());
            verified.err().map(|error| error.to_string()).unwrap_or_default()
        };
        // Three attempts at the same time, before any of them is told.
        let (expired, other) = (verify(vec![1]), verify(vec![2]));
        assert_eq!(verify(vec![0]), "");
        assert_eq!(verifier.take_refusal(&other).unwrap().to_string(), other);
        assert!(matches!(
            verifier.take_refusal(&expired),
            Some(rustls::Error::InvalidCertificate(CertificateError::Expired))
        ));
        assert_eq!((verifier.take_refusal(&expired), verifier.take_refusal("anything else")), (None, None));
        let texts: Vec<_> = (0..=u8::try_from(REFUSALS_MAX).unwrap()).map(|i| verify(vec![2, i])).collect();
        assert!(verifier.take_refusal(&texts[0]).is_none(), "the oldest is forgotten");
        assert!(texts[1..].iter().all(|text| verifier.take_refusal(text).is_some()));
    }
}
