//! What a token says and whether it is accepted: JSON Web Tokens, signed (RFC 7519, RFC 7515).

use super::{Gate, rules};
use jsonwebtoken::{Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Number, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use waspmq_core::access::Rule;
use waspmq_core::{Code, Name, Reject, limits};

/// An accepted token, as far as its session needs it later.
pub(crate) struct Token {
    pub(crate) user: Name,
    /// The only device that the session may be of.
    pub(crate) device: Option<Name>,
    /// When it ends, in milliseconds since 1970.
    pub(crate) expires_unix_ms: Option<u64>,
    /// Claims that are text, for variables of rules. Rules may change while the session lives, so all are kept.
    pub(super) claims: Vec<(Box<str>, Box<str>)>,
    pub(super) rules: Vec<Rule>,
    key: String,
    fingerprint: [u8; 32],
    issuer: Option<String>,
    audience: Vec<String>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("user", &self.user).field("key", &self.key).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<Number>,
    nbf: Option<Number>,
    iss: Option<String>,
    aud: Option<Audience>,
    device: Option<String>,
    #[serde(default)]
    acl: Vec<Entry>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(rename = "match")]
    patterns: Vec<String>,
    allow: Vec<String>,
}

impl Gate {
    /// Checks a token at a moment, in milliseconds since 1970. Refusals are `unauthorized` with a fixed text.
    pub(crate) fn verify(&self, token: &str, unix_ms: u64) -> Result<Token, Reject> {
        if token.len() > limits::TOKEN_BYTES_MAX {
            return Err(unauthorized("the token is longer than a token may be"));
        }
        let header =
            decode_header(token).map_err(|_| unauthorized("the token is not a signed JSON Web Token"))?;
        if header.crit.is_some() {
            return Err(unauthorized("the token has critical header fields, and none is understood"));
        }
        let key = match (&header.kid, self.keys.as_slice()) {
            (Some(id), keys) => keys.iter().find(|key| key.id == *id),
            (None, [only]) => Some(only),
            (None, _) => return Err(unauthorized("the token does not say which key signed it (`kid`)")),
        };
        let key = key.ok_or_else(|| unauthorized("the token is signed with a key that is not known here"))?;
        // Times, issuer and audience are checked below, against the broker's own clock.
        let mut validation = Validation::new(key.algorithm.library());
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = decode::<Claims>(token, &key.material, &validation)
            .map_err(|_| unauthorized("the token is not valid: its signature or its form"))?
            .claims;
        self.accept(claims, (&key.id, key.fingerprint), unix_ms)
    }

    fn accept(
        &self,
        claims: Claims,
        (key, fingerprint): (&str, [u8; 32]),
        unix_ms: u64,
    ) -> Result<Token, Reject> {
        let expires_unix_ms = claims.exp.as_ref().map(milliseconds).transpose()?;
        match expires_unix_ms {
            None if self.require_expiry => {
                return Err(unauthorized("the token does not say when it ends (`exp`)"));
            }
            Some(expires) if expires <= unix_ms => return Err(unauthorized("the token has ended")),
            _ => {}
        }
        let begins = claims.nbf.as_ref().map(milliseconds).transpose()?.unwrap_or(0);
        if begins > unix_ms.saturating_add(self.leeway_ms) {
            return Err(unauthorized("the token is not valid yet"));
        }
        let name = |text: String, problem| Name::parse(&text).map_err(|_| unauthorized(problem));
        let user = claims.sub.ok_or_else(|| unauthorized("the token names no user (`sub`)"))?;
        let entries = claims.acl.iter().map(|entry| (entry.patterns.as_slice(), entry.allow.as_slice()));
        let text = |(name, value)| match value {
            Value::String(value) => Some((String::into_boxed_str(name), value.into_boxed_str())),
            _ => None,
        };
        let token = Token {
            user: name(user, "the token's `sub` is not a user name")?,
            device: claims
                .device
                .map(|text| name(text, "the token's `device` is not a device name"))
                .transpose()?,
            expires_unix_ms,
            rules: rules::parse(entries).map_err(|_| unauthorized("the token's `acl` is not valid"))?,
            claims: claims.rest.into_iter().filter_map(text).collect(),
            key: key.to_owned(),
            fingerprint,
            issuer: claims.iss,
            audience: match claims.aud {
                None => Vec::new(),
                Some(Audience::One(audience)) => vec![audience],
                Some(Audience::Many(audiences)) => audiences,
            },
        };
        if !self.is_meant(&token) {
            return Err(unauthorized("the token is from another issuer or for another audience"));
        }
        Ok(token)
    }

    fn is_meant(&self, token: &Token) -> bool {
        let audience = |audience: &String| token.audience.contains(audience);
        (self.issuer.is_none() || self.issuer == token.issuer) && self.audience.as_ref().is_none_or(audience)
    }

    /// Whether a token that another gate accepted would be accepted by this one, its times aside.
    pub(crate) fn still_accepts(&self, token: &Token) -> bool {
        let is_known =
            self.keys.iter().any(|key| key.id == token.key && key.fingerprint == token.fingerprint);
        let ends = !self.require_expiry || token.expires_unix_ms.is_some();
        is_known && ends && self.is_meant(token)
    }
}

/// A NumericDate (RFC 7519, section 2): seconds since 1970, possibly with a fraction.
fn milliseconds(date: &Number) -> Result<u64, Reject> {
    if let Some(seconds) = date.as_u64() {
        return Ok(seconds.saturating_mul(1_000));
    }
    let since_1970 = date.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    since_1970
        .and_then(|since_1970| u64::try_from(since_1970.as_millis()).ok())
        .ok_or_else(|| unauthorized("the token has a time that is none"))
}

pub(crate) fn unauthorized(problem: &str) -> Reject {
    Reject::new(Code::Unauthorized, problem)
}
