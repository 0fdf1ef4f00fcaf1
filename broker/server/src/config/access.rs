//! Who may connect and what they may do: the section `access`.
//!
//! Secrets are hidden by `Debug` and left out when the configuration is printed.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Who may connect, and what the holder of a token may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessConfig {
    /// Whether anyone who reaches the listener may connect: without keys as whoever they say they are, with keys
    /// under a name of the broker's choice.
    pub allow_anonymous: bool,
    /// Web origins that may open a connection, besides the listener's own.
    pub allowed_origins: Vec<String>,
    /// `Host` names the listener answers to while it is on loopback, besides those of loopback.
    pub allowed_hosts: Vec<String>,
    /// What a token's `iss` must be; anything when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// What a token's `aud` must be or contain; anything when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// How far ahead of the broker's clock a token's `nbf` may be.
    pub token_leeway_ms: u32,
    /// Whether tokens without `exp` are refused.
    pub require_expiry: bool,
    /// What becomes of a user's sessions when the user connects once more.
    pub login: Login,
    /// Sessions one user may have; see [`Login`].
    pub sessions_per_user: usize,
    /// Keys that tokens may be signed with. With one or more, everyone needs a token and rules apply.
    pub keys: Vec<KeyConfig>,
    /// What everyone with a token may do, besides what the token itself grants.
    pub rules: Vec<RuleConfig>,
}

/// What happens when a user has `access.sessions_per_user` sessions and connects once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Login {
    /// Sessions live side by side, up to the bound that nobody may change.
    Coexist,
    /// The new session is refused.
    Limit,
    /// The oldest session is closed.
    Replace,
}

/// How a token is signed (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Algorithm {
    /// HMAC with SHA-256: whoever can check a token can make one
    #[value(name = "HS256")]
    HS256,
    /// RSA PKCS#1 v1.5 with SHA-256, 2048 bits or more
    #[value(name = "RS256")]
    RS256,
    /// ECDSA on P-256 with SHA-256
    #[value(name = "ES256")]
    ES256,
    /// Ed25519
    #[value(name = "EdDSA")]
    EdDSA,
}

impl Algorithm {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::RS256 => "RS256",
            Self::ES256 => "ES256",
            Self::EdDSA => "EdDSA",
        }
    }
}

/// A key that tokens may be signed with. Exactly one of the three last fields is set.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `id`, `algorithm` and the key")]
pub struct KeyConfig {
    /// What a token calls the key in its `kid`.
    pub id: String,
    /// The one algorithm the key is used with, whatever a token says.
    pub algorithm: Algorithm,
    /// The secret itself, for HS256.
    #[serde(default, skip_serializing)]
    pub secret: Option<String>,
    /// A file with the secret and nothing else, for HS256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// A file with the public key as PEM or JWK, for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key_file: Option<PathBuf>,
}

impl fmt::Debug for KeyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyConfig")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .field("secret", &self.secret.as_ref().map(|_| "(hidden)"))
            .field("secret_file", &self.secret_file)
            .field("public_key_file", &self.public_key_file)
            .finish()
    }
}

/// What is allowed where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// Patterns of addresses, which may hold variables.
    #[serde(rename = "match")]
    pub patterns: Vec<String>,
    /// Words of [`waspmq_core::access::Action`].
    pub allow: Vec<String>,
}
