//! The keys that tokens are checked with, read and tried out when the configuration is.

use crate::config::{Algorithm, KeyConfig, Problem};
use crate::files::open_regular;
use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk};
use jsonwebtoken::{DecodingKey, DecodingKeyKind};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::path::Path;
use waspmq_core::limits;

/// Bytes of an HS256 secret: fewer than the hash has can be guessed (RFC 7518, section 3.2).
pub(super) const SECRET_BYTES_MIN: usize = 32;
/// Bits of an RSA modulus. Nothing is checked with others.
const MODULUS_BITS: RangeInclusive<usize> = 2_048..=8_192;
/// Bits of an RSA exponent, which is odd. With 1, everything is signed.
const EXPONENT_BITS: RangeInclusive<usize> = 2..=33;
/// Bytes of a key file. The largest key as PEM is far below.
const FILE_BYTES_MAX: u64 = 64 * 1_024;
const ID_BYTES_MAX: usize = 256;

/// A key with its one algorithm.
pub(super) struct Key {
    pub(super) id: String,
    pub(super) algorithm: Algorithm,
    pub(super) material: DecodingKey,
    /// Tells the key from another that takes over its id.
    pub(super) fingerprint: [u8; 32],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl Algorithm {
    pub(super) const fn library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::HS256 => jsonwebtoken::Algorithm::HS256,
            Self::RS256 => jsonwebtoken::Algorithm::RS256,
            Self::ES256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

/// Reads every key; what is wrong with one names it by its number from 1 and its id.
pub(super) fn read_all(configs: &[KeyConfig], problems: &mut Vec<Problem>) -> Vec<Key> {
    if configs.len() > limits::ACCESS_KEYS_MAX {
        let problem = format!("{} keys, the limit is {}", configs.len(), limits::ACCESS_KEYS_MAX);
        problems.push(("access.keys".into(), problem));
        return Vec::new();
    }
    let mut keys: Vec<Key> = Vec::with_capacity(configs.len());
    for (index, config) in configs.iter().enumerate() {
        let known = keys.iter().any(|key| key.id == config.id);
        let read = if known { Err(("id", "another key has this id".to_owned())) } else { read(config) };
        match read {
            Ok(key) => keys.push(key),
            Err((field, problem)) => {
                let problem = format!("key {} ({:?}): {problem}", index + 1, config.id);
                problems.push((format!("access.keys[{index}].{field}").into(), problem));
            }
        }
    }
    keys
}

/// A key, or which field of it is wrong, and how.
fn read(config: &KeyConfig) -> Result<Key, (&'static str, String)> {
    if config.id.is_empty() || config.id.len() > ID_BYTES_MAX || config.id.chars().any(waspmq_core::is_hidden)
    {
        let problem = format!("an id has 1 to {ID_BYTES_MAX} bytes and no control characters");
        return Err(("id", problem));
    }
    let algorithm = config.algorithm;
    let material = match (algorithm, &config.secret, &config.secret_file, &config.public_key_file) {
        (Algorithm::HS256, Some(secret), None, None) => {
            secret_key(secret.as_bytes()).map_err(|problem| ("secret", problem))?
        }
        (Algorithm::HS256, None, Some(path), None) => read_bounded(path)
            .and_then(|secret| secret_key(trimmed(&secret)))
            .map_err(|problem| ("secret_file", problem))?,
        (Algorithm::HS256, ..) => {
            return Err(("algorithm", "HS256 needs `secret` or `secret_file`, and only one".to_owned()));
        }
        (_, None, None, Some(path)) => {
            let problem = |problem| format!("{}: {problem}", path.display());
            read_bounded(path)
                .and_then(|bytes| public_key(algorithm, &bytes).map_err(problem))
                .map_err(|problem| ("public_key_file", problem))?
        }
        _ => {
            let problem = format!("{} needs `public_key_file` and nothing else", algorithm.as_str());
            return Err(("algorithm", problem));
        }
    };
    let fingerprint = match material.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => *blake3::hash(bytes).as_bytes(),
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            *blake3::Hasher::new().update(n).update(e).finalize().as_bytes()
        }
    };
    Ok(Key { id: config.id.clone(), algorithm, material, fingerprint })
}

/// A whole file with a key or a certificate, for a broker that may be running. The problem names the file and nothing in it.
pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    read_opened(path, open_regular(path))
}

/// What was opened of this name as a whole, unless it is far too long for a key or a certificate.
pub(crate) fn read_opened(path: &Path, opened: io::Result<File>) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = opened.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        Ok(count) if count as u64 > FILE_BYTES_MAX => Err(format!(
            "{} has more than {FILE_BYTES_MAX} bytes, which no key or certificate has",
            path.display()
        )),
        Ok(_) => Ok(bytes),
    }
}

/// Without the line end that editors and `echo` put behind a secret.
pub(super) fn trimmed(secret: &[u8]) -> &[u8] {
    let secret = secret.strip_suffix(b"\n").unwrap_or(secret);
    secret.strip_suffix(b"\r").unwrap_or(secret)
}

fn secret_key(secret: &[u8]) -> Result<DecodingKey, String> {
    if secret.len() < SECRET_BYTES_MIN {
        return Err(format!("the secret has fewer than {SECRET_BYTES_MIN} bytes"));
    }
    if secret.starts_with(b"-----BEGIN") {
        return Err("the secret is a PEM document; public keys are for the other algorithms".to_owned());
    }
    Ok(DecodingKey::from_secret(secret))
}

fn public_key(algorithm: Algorithm, bytes: &[u8]) -> Result<DecodingKey, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "neither PEM nor JWK".to_owned())?;
    let key = if text.trim_start().starts_with('{') {
        from_jwk(algorithm, text)?
    } else {
        from_pem(algorithm, text)?
    };
    let is_usable = match (algorithm, key.kind()) {
        (Algorithm::RS256, DecodingKeyKind::SecretOrDer(der)) => {
            if let Some((n, e)) = rsa_numbers(der) {
                check_rsa(n, e)?;
            }
            parses(&signature::RSA_PKCS1_2048_8192_SHA256, der)
        }
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            check_rsa(n, e)?;
            true
        }
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
            parses(&signature::ECDSA_P256_SHA256_FIXED, point)
        }
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => parses(&signature::ED25519, point),
        _ => false,
    };
    if is_usable { Ok(key) } else { Err(format!("not a public key for {}", algorithm.as_str())) }
}

/// The library takes any numbers, and refuses every token then.
fn check_rsa(n: &[u8], e: &[u8]) -> Result<(), String> {
    let (modulus, exponent) = (bits(n), bits(e));
    if !MODULUS_BITS.contains(&modulus) {
        let (least, most) = (MODULUS_BITS.start(), MODULUS_BITS.end());
        return Err(format!("an RSA key of {modulus} bits; RS256 takes {least} to {most}"));
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    if !EXPONENT_BITS.contains(&exponent) || !is_odd(e) || !is_odd(n) {
        return Err("an RSA key whose modulus or exponent no key has".to_owned());
    }
    Ok(())
}

/// How long a number is, the first byte that is not 0 in front.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let first = number.get(zeros).map_or(0, |first| first.leading_zeros() as usize);
    8 * (number.len() - zeros) - first
}

/// Modulus and exponent of an RSA key in DER: a sequence of the two (RFC 8017, appendix A.1.1).
fn rsa_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (sequence, _) = element(0x30, der)?;
    let (n, rest) = element(0x02, sequence)?;
    let (e, _) = element(0x02, rest)?;
    Some((n, e))
}

/// The content of the element of DER that begins here, and what is behind it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = der.split_first_chunk()?;
    let (length, rest) = match length {
        0x81 => rest.split_first_chunk().map(|(&[length], rest)| (length.into(), rest))?,
        0x82 => rest.split_first_chunk().map(|(length, rest)| (u16::from_be_bytes(*length).into(), rest))?,
        length => (length.into(), rest),
    };
    if found == tag { rest.split_at_checked(length) } else { None }
}

fn parses(algorithm: &'static dyn VerificationAlgorithm, key: &[u8]) -> bool {
    ParsedPublicKey::new(algorithm, key).is_ok()
}

fn from_pem(algorithm: Algorithm, text: &str) -> Result<DecodingKey, String> {
    if text.contains("PRIVATE KEY-----") {
        return Err("a private key; the broker needs the public one and nobody's private one".to_owned());
    }
    let key = match algorithm {
        Algorithm::RS256 => DecodingKey::from_rsa_pem(text.as_bytes()),
        Algorithm::ES256 => DecodingKey::from_ec_pem(text.as_bytes()),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(text.as_bytes()),
        Algorithm::HS256 => return Err("HS256 has no public key".to_owned()),
    };
    key.map_err(|_| format!("not a public key in PEM for {}", algorithm.as_str()))
}

fn from_jwk(algorithm: Algorithm, text: &str) -> Result<DecodingKey, String> {
    let no_jwk = |_| "not a JWK".to_owned();
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).map_err(no_jwk)?;
    if fields.contains_key("d") {
        return Err("a private key; the broker needs the public one and nobody's private one".to_owned());
    }
    let jwk: Jwk = serde_json::from_str(text).map_err(|_| "not a JWK".to_owned())?;
    let said = fields.get("alg").and_then(serde_json::Value::as_str);
    let fits = said.is_none_or(|said| said == algorithm.as_str())
        && match (algorithm, &jwk.algorithm) {
            (Algorithm::RS256, AlgorithmParameters::RSA(_)) => true,
            (Algorithm::ES256, AlgorithmParameters::EllipticCurve(key)) => key.curve == EllipticCurve::P256,
            (Algorithm::EdDSA, AlgorithmParameters::OctetKeyPair(key)) => key.curve == EllipticCurve::Ed25519,
            _ => false,
        };
    if !fits {
        return Err(format!("the JWK is not for {}", algorithm.as_str()));
    }
    DecodingKey::from_jwk(&jwk).map_err(|_| "not a JWK".to_owned())
}
