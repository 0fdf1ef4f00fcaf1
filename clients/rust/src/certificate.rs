//! What is wrong with a broker's certificate or the handshake, for people: a sentence and what to do about it, and behind it
//! no more than the words of the TLS library.
//!
//! A fingerprint is named where it helps: it stands for names, dates and authorities, not for what cannot be read. Not here:
//! who decides (`trust`).

use rustls::{CertificateError, Error, OtherError};

pub(crate) fn describe(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::NoCertificatesPresented => {
            "the other side shows no certificate: the broker needs one, see its `tls`".to_owned()
        }
        Error::PeerIncompatible(_) => {
            format!("the other side speaks no TLS that this client takes, which is 1.2 and 1.3 ({error})")
        }
        Error::InvalidMessage(_) => "the other side does not speak TLS; is it ws://?".to_owned(),
        Error::General(text) => text.clone(),
        error => format!("no TLS: {error}"),
    }
}

#[expect(deprecated, reason = "what has no context is said in the same words")]
fn certificate(error: &CertificateError) -> String {
    use CertificateError as Wrong;
    let sentence = match error {
        Wrong::UnknownIssuer | Wrong::BadSignature => {
            return "the certificate is of an unknown issuer: name a file with its authority, or its fingerprint; a file may be \
                    that of an earlier certificate"
                .to_owned();
        }
        Wrong::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            return "the certificate's signature is of another kind than the key of its issuer: name a file with its authority, or \
                    its fingerprint; a file may be that of an earlier certificate"
                .to_owned();
        }
        Wrong::UnsupportedSignatureAlgorithm | Wrong::UnsupportedSignatureAlgorithmContext { .. } => {
            return "the certificate, or that of an authority over it, has a signature of a kind that is not taken, such as one with \
                    SHA-1: sign it with SHA-256, or name its fingerprint"
                .to_owned();
        }
        Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
            "the certificate is for another name than that of the URL: connect to a name it has, or name its fingerprint"
        }
        Wrong::Expired | Wrong::ExpiredContext { .. } => {
            "the certificate has expired, or this machine's clock is wrong: the broker needs a new one; or name its fingerprint"
        }
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
            "the certificate is not valid yet, or this machine's clock is wrong: wait for it, or name its fingerprint"
        }
        Wrong::Revoked => "the certificate has been revoked: the broker needs another one",
        Wrong::UnknownRevocationStatus
        | Wrong::ExpiredRevocationList
        | Wrong::ExpiredRevocationListContext { .. }
        | Wrong::InvalidOcspResponse => {
            "whether the certificate has been revoked cannot be known: name its fingerprint"
        }
        Wrong::InvalidPurpose | Wrong::InvalidPurposeContext { .. } => {
            "the certificate is not for servers: its extended key usage has to allow serverAuth; or name its fingerprint"
        }
        Wrong::UnhandledCriticalExtension => OF_UNKNOWN_EXTENSION,
        Wrong::BadEncoding => BROKEN,
        Wrong::Other(error) => return format!("{} ({error})", other(error)),
        _ => NOT_ACCEPTED,
    };
    format!("{sentence} ({error})")
}

const OF_UNKNOWN_EXTENSION: &str =
    "the certificate has an extension that is critical and not known here: make one without it";
const BROKEN: &str = "the certificate cannot be read: make another one";
const NOT_ACCEPTED: &str = "the certificate is not accepted: make another one, or name its fingerprint";

/// What rustls has no kind of its own for. It hands on the words of webpki, which is where these names are from.
fn other(error: &OtherError) -> &'static str {
    match error.to_string().as_str() {
        "CaUsedAsEndEntity" => {
            "the broker's certificate is that of an authority (its basic constraints say CA:TRUE), which a server cannot use; make one \
             with CA:FALSE, or name its fingerprint"
        }
        "EndEntityUsedAsCa" => {
            "the certificate's issuer is no authority (its basic constraints do not say CA:TRUE): have it issued by one, or name its \
             fingerprint"
        }
        "UnsupportedCertVersion" => {
            "the certificate is of an old version of X.509, as one without extensions is: make one of version 3, with the broker's name \
             as subjectAltName"
        }
        "UnsupportedCriticalExtension" => OF_UNKNOWN_EXTENSION,
        "NameConstraintViolation" => {
            "the certificate's authority may not vouch for such a name (its name constraints): use another authority, or name the \
             certificate's fingerprint"
        }
        "PathLenConstraintViolated" | "MaximumPathDepthExceeded" => {
            "there are more certificates between the broker's and its authority than may be: use fewer, or name its fingerprint"
        }
        "EmptyEkuExtension"
        | "ExtensionValueInvalid"
        | "InvalidSerialNumber"
        | "MalformedExtensions"
        | "SignatureAlgorithmMismatch" => BROKEN,
        _ => NOT_ACCEPTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::PeerIncompatible;
    use rustls::pki_types::{ServerName, UnixTime};
    use std::fmt;
    use std::sync::Arc;
    use std::time::Duration;

    /// An error of webpki.
    #[derive(Debug)]
    struct Named(&'static str);

    impl fmt::Display for Named {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Named {}

    /// A sentence for people, with advice; the library's words are in brackets at its end at most.
    fn check(error: impl Into<Error>, expected: &str) {
        let error = error.into();
        let text = describe(&error);
        assert!(text.contains(expected), "{text}");
        let words = match &error {
            Error::InvalidCertificate(CertificateError::Other(error)) => error.to_string(),
            Error::InvalidCertificate(error) => error.to_string(),
            error => error.to_string(),
        };
        let sentence = text.strip_suffix(&format!(" ({words})")).unwrap_or(&text);
        assert!(sentence.contains([':', ';', ',']), "no advice: {text}");
        let is_of_library = |word: &&str| {
            let rest = word.trim_matches(|c: char| !c.is_alphanumeric()).get(1..).unwrap_or_default();
            !["X.509", "SHA-1", "SHA-256", "TLS", "URL", "CA", "serverAuth", "subjectAltName"]
                .iter()
                .any(|known| word.contains(known))
                && rest.contains(char::is_uppercase)
        };
        let found = sentence.split_whitespace().find(is_of_library);
        assert_eq!(found, None, "{text}");
        assert!(text.len() < 400 && !text.contains(" { "), "{text}");
    }

    #[test]
    #[expect(deprecated, reason = "an application's verifier may still give it")]
    fn every_kind_has_a_sentence() {
        use CertificateError as Wrong;
        let (time, earlier) =
            (UnixTime::since_unix_epoch(Duration::from_secs(1_000)), Duration::from_secs(500));
        let (not_after, id) = (UnixTime::since_unix_epoch(earlier), vec![6, 3, 43, 101, 112]);
        check(Wrong::UnknownIssuer, "of an unknown issuer");
        check(Wrong::BadSignature, "of an unknown issuer");
        check(Wrong::UnsupportedSignatureAlgorithm, "SHA-1");
        let supported_algorithms = Vec::new();
        check(
            Wrong::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: id.clone(),
                supported_algorithms,
            },
            "SHA-1",
        );
        let public_key_algorithm_id = id.clone();
        check(
            Wrong::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: id,
                public_key_algorithm_id,
            },
            "another kind than the key of its issuer",
        );
        check(Wrong::NotValidForName, "for another name");
        let expected = ServerName::try_from("a.example").unwrap();
        let presented = vec!["b.example".to_owned()];
        check(Wrong::NotValidForNameContext { expected, presented }, "only valid for b.example)");
        check(Wrong::Expired, "has expired");
        check(Wrong::ExpiredContext { time, not_after }, "500 seconds ago");
        check(Wrong::NotValidYet, "not valid yet");
        check(Wrong::NotValidYetContext { time: not_after, not_before: time }, "500 seconds in future");
        check(Wrong::Revoked, "revoked");
        check(Wrong::UnknownRevocationStatus, "cannot be known");
        check(Wrong::ExpiredRevocationList, "cannot be known");
        check(Wrong::ExpiredRevocationListContext { time, next_update: not_after }, "cannot be known");
        check(Wrong::InvalidOcspResponse, "cannot be known");
        check(Wrong::InvalidPurpose, "serverAuth");
        let required = rustls::ExtendedKeyPurpose::ServerAuth;
        let presented = vec![rustls::ExtendedKeyPurpose::ClientAuth];
        check(Wrong::InvalidPurposeContext { required, presented }, "serverAuth");
        check(Wrong::UnhandledCriticalExtension, "critical");
        check(Wrong::BadEncoding, "cannot be read");
        check(Wrong::ApplicationVerificationFailure, "not accepted");
        check(Error::NoCertificatesPresented, "no certificate");
        check(PeerIncompatible::ServerDoesNotSupportTls12Or13, "1.2 and 1.3");
    }

    #[test]
    fn what_only_webpki_names_has_a_sentence() {
        let check = |name: &'static str, expected: &str| {
            let error = CertificateError::Other(OtherError(Arc::new(Named(name))));
            check(error, expected);
        };
        check("CaUsedAsEndEntity", "CA:TRUE");
        check("EndEntityUsedAsCa", "issuer is no authority");
        check("UnsupportedCertVersion", "version 3");
        check("UnsupportedCriticalExtension", "critical");
        check("NameConstraintViolation", "may not vouch for such a name");
        check("PathLenConstraintViolated", "use fewer");
        check("MaximumPathDepthExceeded", "use fewer");
        for broken in [
            "EmptyEkuExtension",
            "ExtensionValueInvalid",
            "MalformedExtensions",
            "SignatureAlgorithmMismatch",
        ] {
            check(broken, "cannot be read");
        }
        check("SomethingNew", "not accepted");
    }
}
