//! `waspmq token`: making keys and tokens, offline. Nothing here talks to a broker.

use super::failure::Failure;
use super::output;
use crate::access::{mint, read_opened};
use crate::clock::Clock;
use crate::config::Algorithm;
use anyhow::{Context, anyhow};
use clap::{ArgGroup, Args, Subcommand};
use jsonwebtoken::EncodingKey;
use serde_json::{Map, Value, json};
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use waspmq_core::Name;
use waspmq_core::access::{Action, Template};

/// Make keys and tokens, offline
#[derive(Debug, Args)]
#[command(after_help = "\
The broker accepts tokens that are signed with one of its access.keys: docs/ACCESS.md.

Examples:
  waspmq token keygen --algorithm EdDSA --out issuer
  waspmq token mint --sub alice --key issuer.pem --algorithm EdDSA --kid issuer --ttl 1h
  waspmq token mint --sub bob --secret-file s.secret --allow publish,subscribe:topic/orders.>
  waspmq token show \"$TOKEN\"")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sign a token and print it
    Mint(Box<Mint>),
    /// What a token says; nothing is checked
    Show {
        /// The token
        token: String,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Make a key: the private part in a file that only its owner reads, the public part beside it
    Keygen {
        /// What the key is for
        #[arg(long, value_enum)]
        algorithm: Algorithm,
        /// NAME.secret for HS256, else NAME.pem and NAME.pub.pem; files that exist are left alone
        #[arg(long, value_name = "NAME")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("signing").required(true).args(["key", "secret_file"])))]
struct Mint {
    /// The user that the token is for
    #[arg(long, value_name = "USER")]
    sub: String,
    #[command(flatten)]
    signer: Signer,
    /// The only device that may use the token
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// One more claim, as text; may be given several times
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = parse_claim)]
    claims: Vec<(String, String)>,
    /// What the holder may do where, besides the broker's rules; may be given several times
    #[arg(long, value_name = "ACTION[,ACTION]:PATTERN", value_parser = parse_grant)]
    allow: Vec<Grant>,
}

/// What signs tokens, for whom and for how long.
#[derive(Debug, Args)]
pub(super) struct Signer {
    /// The private key, as PEM (PKCS #8)
    #[arg(long, value_name = "FILE", requires = "algorithm")]
    key: Option<PathBuf>,
    /// The secret of HS256
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    secret_file: Option<PathBuf>,
    /// How to sign; HS256 with a secret
    #[arg(long, value_enum)]
    algorithm: Option<Algorithm>,
    /// The id of the key in the broker's configuration
    #[arg(long, value_name = "ID")]
    kid: Option<String>,
    /// How long the token is valid: a number and s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_ttl)]
    ttl: u64,
    /// What the broker's access.issuer says
    #[arg(long, value_name = "TEXT")]
    issuer: Option<String>,
    /// What the broker's access.audience says
    #[arg(long, value_name = "TEXT")]
    audience: Option<String>,
}

/// One entry of the claim `acl`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    actions: Vec<&'static str>,
    pattern: String,
}

/// Claims that have a flag of their own, or a meaning that text does not have.
const RESERVED: [&str; 9] = ["sub", "exp", "iat", "nbf", "iss", "aud", "device", "acl", "jti"];

fn parse_ttl(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("a time is a number and s, m, h or d, such as 15m".to_owned()),
    };
    let number: u64 =
        number.parse().map_err(|_| "a time is a number and s, m, h or d, such as 15m".to_owned())?;
    number.checked_mul(seconds).filter(|&ttl| ttl > 0).ok_or_else(|| "the time is out of range".to_owned())
}

/// When a token ends.
fn end_of(now_s: u64, ttl: u64) -> Result<u64, Failure> {
    now_s.checked_add(ttl).ok_or_else(|| Failure::Usage("--ttl: the time is out of range".to_owned()))
}

fn parse_claim(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, _)) if RESERVED.contains(&name) => Err(format!("`{name}` is not for --claim")),
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

fn parse_grant(text: &str) -> Result<Grant, String> {
    let (actions, pattern) = text.split_once(':').ok_or("expected ACTION[,ACTION]:PATTERN")?;
    let action = |word: &str| {
        let words = Action::ALL.map(Action::as_str).join(", ");
        Action::parse(word)
            .map(Action::as_str)
            .ok_or_else(|| format!("{word:?} is no action; there are {words}"))
    };
    Template::parse(pattern).map_err(|error| error.to_string())?;
    Ok(Grant {
        actions: actions.split(',').map(action).collect::<Result<_, _>>()?,
        pattern: pattern.to_owned(),
    })
}

impl Mint {
    fn claims(&self, now_s: u64) -> Result<Map<String, Value>, Failure> {
        let mut claims = self.signer.claims(&self.sub, now_s)?;
        if let Some(device) = &self.device {
            claims.insert("device".to_owned(), checked("--device", device)?);
        }
        claims.extend(self.claims.iter().map(|(name, value)| (name.clone(), value.as_str().into())));
        if !self.allow.is_empty() {
            let entry = |grant: &Grant| json!({"match": [grant.pattern], "allow": grant.actions});
            claims.insert("acl".to_owned(), self.allow.iter().map(entry).collect());
        }
        Ok(claims)
    }

    fn sign(&self, now_s: u64) -> Result<String, Failure> {
        let claims = self.claims(now_s)?;
        Ok(self.signer.open()?.sign(&claims)?)
    }
}

fn checked(what: &str, name: &str) -> Result<Value, Failure> {
    match Name::parse(name) {
        Ok(_) => Ok(Value::from(name)),
        Err(error) => Err(Failure::Usage(format!("{what}: {error}"))),
    }
}

/// A key that was read. `Debug` shows nothing of it.
#[derive(Clone)]
pub(super) struct SigningKey {
    path: PathBuf,
    algorithm: Algorithm,
    key: EncodingKey,
    kid: Option<String>,
}

impl Signer {
    pub(super) const fn is_given(&self) -> bool {
        self.key.is_some() || self.secret_file.is_some()
    }

    /// What every token says, of a user and of this moment.
    pub(super) fn claims(&self, sub: &str, now_s: u64) -> Result<Map<String, Value>, Failure> {
        let mut claims = Map::new();
        claims.insert("sub".to_owned(), checked("--sub", sub)?);
        claims.insert("iat".to_owned(), now_s.into());
        claims.insert("exp".to_owned(), end_of(now_s, self.ttl)?.into());
        for (name, value) in [("iss", &self.issuer), ("aud", &self.audience)] {
            if let Some(value) = value {
                claims.insert(name.to_owned(), value.as_str().into());
            }
        }
        Ok(claims)
    }

    /// Reads the key.
    pub(super) fn open(&self) -> Result<SigningKey, Failure> {
        let (path, algorithm) = match (&self.key, &self.secret_file, self.algorithm) {
            (Some(_), _, Some(Algorithm::HS256)) => {
                return Err(Failure::Usage("HS256 signs with --secret-file".to_owned()));
            }
            (Some(path), _, Some(algorithm)) => (path, algorithm),
            (None, Some(path), None | Some(Algorithm::HS256)) => (path, Algorithm::HS256),
            (_, _, algorithm) => {
                let algorithm = algorithm.map_or("this", Algorithm::as_str);
                return Err(Failure::Usage(format!("{algorithm} signs with --key")));
            }
        };
        // A pipe is as good: nobody else waits for it.
        let bytes = read_opened(path, File::open(path)).map_err(|problem| anyhow!(problem))?;
        let key = mint::signing_key(algorithm, &bytes);
        let key = key.map_err(|problem| anyhow!("{}: {problem}", path.display()))?;
        Ok(SigningKey { path: path.clone(), algorithm, key, kid: self.kid.clone() })
    }
}

impl SigningKey {
    pub(super) fn sign(&self, claims: &Map<String, Value>) -> anyhow::Result<String> {
        let Self { path, algorithm, key, kid } = self;
        mint::sign((*algorithm, key), kid.as_deref(), claims)
            .map_err(|problem| anyhow!("{}: {problem}", path.display()))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("path", &self.path).finish_non_exhaustive()
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Command::Mint(mint) => {
            let token = mint.sign(Clock::new().now().unix_ms / 1_000)?;
            Ok(output::line(format_args!("{token}"))?)
        }
        Command::Show { token, json } => show(token, *json),
        Command::Keygen { algorithm, out } => keygen(*algorithm, out),
    }
}

fn show(token: &str, as_json: bool) -> Result<(), Failure> {
    let (header, claims) =
        mint::unverified(token.trim()).ok_or_else(|| anyhow!("this is not a signed JSON Web Token"))?;
    output::note(format_args!("not verified: anybody can write a token that says this"));
    if as_json {
        return Ok(output::json(&json!({"verified": false, "header": header, "claims": claims}))?);
    }
    for (part, document) in [("header", &header), ("claims", &claims)] {
        for (name, value) in document.as_object().into_iter().flatten() {
            let shown = match name.as_str() {
                "exp" | "nbf" | "iat" => {
                    let ms = value.as_u64().map(|seconds| seconds.saturating_mul(1_000));
                    format!("{value} ({})", output::time(&ms.into()))
                }
                _ => output::cell(value),
            };
            output::line(format_args!(
                "{part}  {:12} {}",
                output::printable(name),
                output::printable(&shown)
            ))?;
        }
    }
    Ok(())
}

fn keygen(algorithm: Algorithm, out: &Path) -> Result<(), Failure> {
    let key = mint::generate(algorithm).map_err(|_| anyhow!("the system has no randomness for a key"))?;
    let beside = |ending: &str| {
        let mut path = out.as_os_str().to_owned();
        path.push(ending);
        PathBuf::from(path)
    };
    let id = out.file_name().map_or_else(|| "key".into(), |name| name.to_string_lossy().into_owned());
    let private = beside(if key.public.is_some() { ".pem" } else { ".secret" });
    write_new(&private, 0o600, &key.private)?;
    let (file, path) = match &key.public {
        None => ("secret_file", private.clone()),
        Some(public) => {
            let path = beside(".pub.pem");
            write_new(&path, 0o644, public)?;
            ("public_key_file", path)
        }
    };
    output::note(format_args!("{} signs; keep it where tokens are made. For the broker:", private.display()));
    output::line(format_args!(
        "[[access.keys]]\nid = {}\nalgorithm = \"{}\"\n{file} = {}",
        toml::Value::from(id),
        algorithm.as_str(),
        toml::Value::from(path.to_string_lossy().into_owned()),
    ))?;
    Ok(())
}

fn write_new(path: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    opened
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(parse_ttl(text).ok(), expected, "{text}");
        check("90s", Some(90));
        check("15m", Some(900));
        check("1h", Some(3_600));
        check("7d", Some(604_800));
        for wrong in ["", "h", "1", "-1h", "1 h", "0s", "1.5h", "1w", "ü", "99999999999999999999d"] {
            check(wrong, None);
        }
        check("18446744073709551615d", None);
        assert_eq!(end_of(1_000, 3_600).unwrap(), 4_600);
        assert!(matches!(end_of(1_000, u64::MAX), Err(Failure::Usage(_))));
    }

    #[test]
    fn claims_and_grants() {
        assert_eq!(parse_claim("team=a=b"), Ok(("team".to_owned(), "a=b".to_owned())));
        for wrong in ["team", "=x", "sub=root", "exp=1", "acl=[]"] {
            assert!(parse_claim(wrong).is_err(), "{wrong}");
        }
        let grant = parse_grant("publish,subscribe:topic/u.{sub}.>").unwrap();
        assert_eq!(grant.actions, ["publish", "subscribe"]);
        assert_eq!(grant.pattern, "topic/u.{sub}.>");
        for wrong in ["publish", "fly:topic/a", "publish:nowhere", "publish:topic/{name}", ":topic/a"] {
            assert!(parse_grant(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("issuer");
        assert!(keygen(Algorithm::EdDSA, &out).is_ok());
        let private = directory.path().join("issuer.pem");
        assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
        let before = std::fs::read(&private).unwrap();
        assert!(keygen(Algorithm::EdDSA, &out).is_err());
        assert_eq!(std::fs::read(&private).unwrap(), before);
    }
}
