//! Making keys and tokens, for the command line: a broker itself signs nothing.

use super::keys::{SECRET_BYTES_MIN, trimmed};
use crate::config::Algorithm;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Map, Value};
use waspmq_core::limits;

/// A new key. `Debug` is not there, so that it is not shown by accident.
pub(crate) struct NewKey {
    /// A secret, or a private key as PEM (PKCS #8).
    pub(crate) private: String,
    /// The public key as PEM, where there is one.
    pub(crate) public: Option<String>,
}

/// Makes a key; RSA ones have 3072 bits.
pub(crate) fn generate(algorithm: Algorithm) -> Result<NewKey, Unspecified> {
    let (private, public) = match algorithm {
        Algorithm::HS256 => {
            let mut secret = [0; SECRET_BYTES_MIN];
            aws_lc_rs::rand::fill(&mut secret)?;
            return Ok(NewKey { private: URL_SAFE_NO_PAD.encode(secret), public: None });
        }
        Algorithm::RS256 => {
            let pair = rsa::KeyPair::generate(KeySize::Rsa3072)?;
            let private: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der()?;
            (private.as_ref().to_vec(), spki(pair.public_key())?)
        }
        Algorithm::ES256 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
            (pair.to_pkcs8v1()?.as_ref().to_vec(), spki(pair.public_key())?)
        }
        Algorithm::EdDSA => {
            let pair = Ed25519KeyPair::generate()?;
            (pair.to_pkcs8v1()?.as_ref().to_vec(), spki(pair.public_key())?)
        }
    };
    Ok(NewKey { private: pem("PRIVATE KEY", &private), public: Some(pem("PUBLIC KEY", &public)) })
}

fn spki(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Result<Vec<u8>, Unspecified> {
    Ok(key.as_der()?.as_ref().to_vec())
}

/// RFC 7468: base64 in lines of 64 characters.
fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for (index, character) in STANDARD.encode(der).chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}

/// A key to sign with, from the bytes of its file.
pub(crate) fn signing_key(algorithm: Algorithm, bytes: &[u8]) -> Result<EncodingKey, String> {
    let key = match algorithm {
        Algorithm::HS256 => {
            let secret = trimmed(bytes);
            if secret.len() < SECRET_BYTES_MIN {
                return Err(format!("the secret has fewer than {SECRET_BYTES_MIN} bytes"));
            }
            return Ok(EncodingKey::from_secret(secret));
        }
        Algorithm::RS256 => EncodingKey::from_rsa_pem(bytes),
        Algorithm::ES256 => EncodingKey::from_ec_pem(bytes),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(bytes),
    };
    key.map_err(|_| format!("not a private key in PEM (PKCS #8) for {}", algorithm.as_str()))
}

/// Signs claims. A token that no broker would read is refused here.
pub(crate) fn sign(
    (algorithm, key): (Algorithm, &EncodingKey),
    kid: Option<&str>,
    claims: &Map<String, Value>,
) -> Result<String, String> {
    let mut header = Header::new(algorithm.library());
    header.kid = kid.map(str::to_owned);
    let token = jsonwebtoken::encode(&header, claims, key)
        .map_err(|_| format!("the key cannot sign with {}", algorithm.as_str()))?;
    if token.len() > limits::TOKEN_BYTES_MAX {
        return Err(format!("the token has {} bytes, the limit is {}", token.len(), limits::TOKEN_BYTES_MAX));
    }
    Ok(token)
}

/// Header and claims of a token, without any check. `None` when it is not a signed JSON Web Token.
pub(crate) fn unverified(token: &str) -> Option<(Value, Value)> {
    let mut parts = token.split('.');
    let (header, claims, _signature, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next())
    else {
        return None;
    };
    let read = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    Some((read(header)?, read(claims)?))
}
