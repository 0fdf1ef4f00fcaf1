//! Tokens of every algorithm, forged ones, and gates made from configurations.

use super::mint::{self, generate};
use super::*;
use crate::config::{Algorithm, Config, KeyConfig, RuleConfig};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use waspmq_core::access::Action;
use waspmq_core::{Address, Code, limits};

const NOW_MS: u64 = 1_790_000_000_500;
const NOW_S: u64 = NOW_MS / 1_000;
/// A public key of 1024 bits.
const RSA_1024: &str = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC9+5CpfcpHjtLWnPjTGfJKwikF\n\
    iEXb+riEK6E0BNpEll8upgUfQ6dHNpAUsO8jHqmZWW+fj9IpHNr0Pq5JpYjaEHS9\n\
    1nYfAiJ9yf03qMjv4g3vo8ShXpGsjEPkzb67bUUA/+eowsAwADq0SVw76mLkyeHy\n\
    huzG7e5yMKiBd01V2QIDAQAB";
const ALGORITHMS: [Algorithm; 4] = [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// A key and the configuration of its public part.
struct Issuer {
    algorithm: Algorithm,
    private: String,
    public: Option<String>,
    config: KeyConfig,
    _directory: tempfile::TempDir,
}

impl Issuer {
    fn new(id: &str, algorithm: Algorithm) -> Self {
        let key = generate(algorithm).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let public_key_file = key.public.as_ref().map(|public| {
            let path = directory.path().join("key.pub.pem");
            std::fs::write(&path, public).unwrap();
            path
        });
        let secret = key.public.is_none().then(|| key.private.clone());
        let config = KeyConfig { id: id.to_owned(), algorithm, secret, secret_file: None, public_key_file };
        Self { algorithm, private: key.private, public: key.public, config, _directory: directory }
    }

    fn sign_with_kid(&self, kid: Option<&str>, claims: &Value) -> String {
        let key = mint::signing_key(self.algorithm, self.private.as_bytes()).unwrap();
        mint::sign((self.algorithm, &key), kid, claims.as_object().unwrap()).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_with_kid(Some(&self.config.id), claims)
    }
}

fn access(issuers: &[&Issuer]) -> AccessConfig {
    AccessConfig {
        keys: issuers.iter().map(|issuer| issuer.config.clone()).collect(),
        ..Config::default().access
    }
}

fn gate_of(issuers: &[&Issuer]) -> Gate {
    Gate::new(&access(issuers)).unwrap()
}

fn problems(config: &AccessConfig) -> String {
    gate(config).unwrap_err().to_string()
}

fn alice() -> Value {
    json!({"sub": "alice", "exp": NOW_S + 60})
}

fn with(changes: Value) -> Value {
    let mut claims = alice();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

/// The token is refused, and the text of the refusal holds nothing of it.
fn refused(gate: &Gate, token: &str) -> String {
    let reject = gate.verify(token, NOW_MS).unwrap_err();
    assert_eq!(reject.code, Code::Unauthorized, "{}", reject.message);
    for part in token.split('.').filter(|part| part.len() > 8) {
        assert!(!reject.message.contains(part), "{}", reject.message);
    }
    reject.message
}

fn encode(document: &Value) -> String {
    URL_SAFE_NO_PAD.encode(document.to_string())
}

#[test]
fn every_algorithm_signs_and_is_checked() {
    let issuers = ALGORITHMS.map(|algorithm| Issuer::new(algorithm.as_str(), algorithm));
    let gate = gate_of(&issuers.each_ref());
    for issuer in &issuers {
        let token = issuer.sign(&alice());
        let accepted = gate.verify(&token, NOW_MS).unwrap();
        assert_eq!(accepted.user.as_str(), "alice");
        assert_eq!(accepted.expires_unix_ms, Some((NOW_S + 60) * 1_000));
        // Signed by a stranger with the same id and algorithm.
        let stranger = Issuer::new(&issuer.config.id, issuer.algorithm);
        refused(&gate, &stranger.sign(&alice()));
        // Every kind of change of a valid token.
        let (message, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = message.split_once('.').unwrap();
        refused(&gate, &format!("{header}.{}.{signature}", encode(&with(json!({"sub": "root"})))));
        refused(&gate, &format!("{message}."));
        refused(&gate, message);
        refused(&gate, &token[..token.len() - 4]);
        refused(&gate, &format!("{token}AAAA"));
        refused(&gate, &format!("{token}.{signature}"));
        // Under another key's id.
        for other in issuers.iter().filter(|other| other.algorithm != issuer.algorithm) {
            refused(&gate, &issuer.sign_with_kid(Some(&other.config.id), &alice()));
        }
        refused(&gate, &issuer.sign_with_kid(Some("unknown"), &alice()));
        assert!(refused(&gate, &issuer.sign_with_kid(None, &alice())).contains("kid"));
        assert!(gate_of(&[issuer]).verify(&issuer.sign_with_kid(None, &alice()), NOW_MS).is_ok());
    }
}

#[test]
fn a_key_is_used_with_its_own_algorithm_only() {
    let issuer = Issuer::new("k", Algorithm::RS256);
    let gate = gate_of(&[&issuer]);
    let public = issuer.public.as_ref().unwrap();
    // The classic: the public key, which everybody has, as the secret of HS256.
    for secret in [public.as_bytes(), public.trim_end().as_bytes()] {
        let key = jsonwebtoken::EncodingKey::from_secret(secret);
        let claims: Map<String, Value> = alice().as_object().unwrap().clone();
        for kid in [Some("k"), None] {
            refused(&gate, &mint::sign((Algorithm::HS256, &key), kid, &claims).unwrap());
        }
    }
    for alg in ["none", "None", "NONE", "nOnE", "", "RS384", "PS256", "HS256"] {
        for signature in ["", "AA", issuer.sign(&alice()).rsplit('.').next().unwrap()] {
            let header = encode(&json!({"alg": alg, "kid": "k", "typ": "JWT"}));
            refused(&gate, &format!("{header}.{}.{signature}", encode(&alice())));
        }
    }
    // A key inside the token is not looked at.
    let stranger = Issuer::new("k", Algorithm::HS256);
    let jwk = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(&stranger.private)});
    let header = encode(&json!({"alg": "HS256", "kid": "k", "jwk": jwk}));
    let signature = stranger.sign(&alice());
    refused(&gate, &format!("{header}.{}.{}", encode(&alice()), signature.rsplit('.').next().unwrap()));
}

#[test]
fn garbage_is_refused() {
    let issuer = Issuer::new("k", Algorithm::HS256);
    let gate = gate_of(&[&issuer]);
    let deep = format!("{}1{}", "[".repeat(3_000), "]".repeat(3_000));
    let huge = "A".repeat(limits::TOKEN_BYTES_MAX + 1);
    for token in
        ["", ".", "..", "...", "a.b.c", "\0.\0.\0", "é.é.é", &huge, &format!("{}..", encode(&json!({})))]
    {
        refused(&gate, token);
    }
    refused(&gate, &format!("{}.{}.AA", URL_SAFE_NO_PAD.encode(&deep), URL_SAFE_NO_PAD.encode(&deep)));
    // Signed, but no claims that make sense.
    for claims in [
        json!({"exp": NOW_S + 60}),
        with(json!({"sub": 3})),
        with(json!({"sub": ""})),
        with(json!({"sub": "a/b"})),
        with(json!({"sub": "*"})),
        with(json!({"sub": "x".repeat(300)})),
        with(json!({"device": "a b"})),
        with(json!({"exp": "tomorrow"})),
        with(json!({"exp": -1})),
        with(json!({"exp": 1e300})),
        with(json!({"nbf": NOW_S + 6})),
        with(json!({"exp": NOW_S})),
        with(json!({"acl": "all"})),
        with(json!({"acl": [{"match": ["topic/a"], "allow": ["fly"]}]})),
        with(json!({"acl": [{"match": ["topic/a*"], "allow": ["publish"]}]})),
        with(json!({"acl": [{"match": ["topic/a"], "allow": ["publish"], "deny": []}]})),
        json!({"sub": "alice"}),
    ] {
        refused(&gate, &issuer.sign(&claims));
    }
    let crit = {
        let header = encode(&json!({"alg": "HS256", "kid": "k", "crit": ["b64"]}));
        format!("{header}.{}.AA", encode(&alice()))
    };
    assert!(refused(&gate, &crit).contains("critical"));
}

#[test]
fn times_are_those_of_the_broker() {
    let issuer = Issuer::new("k", Algorithm::HS256);
    let gate = gate_of(&[&issuer]);
    let end =
        |exp: Value| gate.verify(&issuer.sign(&with(json!({"exp": exp}))), NOW_MS).ok()?.expires_unix_ms;
    assert_eq!(end(json!(NOW_S + 1)), Some((NOW_S + 1) * 1_000));
    assert_eq!(end(json!(NOW_S as f64 + 0.75)), Some(NOW_MS + 250));
    assert_eq!(end(json!(NOW_S as f64 + 0.25)), None, "no leeway at the end");
    assert_eq!(end(json!(u64::MAX)), Some(u64::MAX));
    let begins = |nbf: u64| gate.verify(&issuer.sign(&with(json!({"nbf": nbf}))), NOW_MS).is_ok();
    assert!(begins(NOW_S) && begins(NOW_S + 5) && !begins(NOW_S + 6));
    let config = AccessConfig { require_expiry: false, ..access(&[&issuer]) };
    let token = issuer.sign(&json!({"sub": "alice"}));
    assert_eq!(Gate::new(&config).unwrap().verify(&token, NOW_MS).unwrap().expires_unix_ms, None);
}

#[test]
fn issuer_and_audience_are_checked_when_configured() {
    let key = Issuer::new("k", Algorithm::HS256);
    let config = AccessConfig {
        issuer: Some("https://id.example".to_owned()),
        audience: Some("chat".to_owned()),
        ..access(&[&key])
    };
    let gate = Gate::new(&config).unwrap();
    let accepts = |changes: Value| gate.verify(&key.sign(&with(changes)), NOW_MS).is_ok();
    assert!(accepts(json!({"iss": "https://id.example", "aud": "chat"})));
    assert!(accepts(json!({"iss": "https://id.example", "aud": ["mail", "chat"]})));
    assert!(!accepts(json!({"iss": "https://id.example", "aud": "mail"})));
    assert!(!accepts(json!({"iss": "https://id.example"})));
    assert!(!accepts(json!({"iss": "https://evil.example", "aud": "chat"})));
    assert!(!accepts(json!({"aud": "chat"})));
}

#[test]
fn rules_of_both_sides_give_the_rights() {
    let issuer = Issuer::new("k", Algorithm::EdDSA);
    let rule = RuleConfig {
        patterns: vec!["topic/teams.{claims.team}.>".to_owned()],
        allow: vec!["publish".to_owned(), "subscribe".to_owned()],
    };
    let gate = Gate::new(&AccessConfig { rules: vec![rule], ..access(&[&issuer]) }).unwrap();
    let rights = |changes: Value| gate.rights_of(&gate.verify(&issuer.sign(&with(changes)), NOW_MS).unwrap());
    let publishes = |rights: &Rights, to: &str| rights.allows(Action::Publish, &Address::parse(to).unwrap());
    let acl = json!([{"match": ["user/*", "topic/own.{sub}"], "allow": ["publish"]}]);
    let both = rights(json!({"team": "red", "acl": acl}));
    assert!(publishes(&both, "topic/teams.red.x") && publishes(&both, "user/bob"));
    assert!(publishes(&both, "topic/own.alice") && !publishes(&both, "topic/own.bob"));
    assert!(!publishes(&both, "topic/teams.blue.x") && !publishes(&both, "all"));
    for team in [json!("*"), json!(">"), json!("red.x"), json!(3), json!(["red"]), json!(null)] {
        let rights = rights(json!({"team": team}));
        assert!(!publishes(&rights, "topic/teams.red.x"), "{team}");
    }
    // `device` of the token only: what a client says about itself gives no rights.
    assert!(!publishes(&rights(json!({})), "topic/teams.red.x"));
}

#[test]
fn a_replaced_gate_knows_whom_it_still_accepts() {
    let (first, second) = (Issuer::new("a", Algorithm::HS256), Issuer::new("b", Algorithm::HS256));
    let gate = gate_of(&[&first, &second]);
    let token = gate.verify(&first.sign(&alice()), NOW_MS).unwrap();
    assert!(gate_of(&[&first]).still_accepts(&token));
    assert!(!gate_of(&[&second]).still_accepts(&token));
    assert!(!Gate::default().still_accepts(&token));
    let renamed = Issuer::new("a", Algorithm::HS256);
    assert!(!gate_of(&[&renamed]).still_accepts(&token), "another key under the same id");
    let elsewhere = AccessConfig { audience: Some("x".to_owned()), ..access(&[&first]) };
    assert!(!Gate::new(&elsewhere).unwrap().still_accepts(&token));
}

#[test]
fn a_running_broker_never_loses_its_last_key() {
    let key = Issuer::new("k", Algorithm::HS256);
    let access = AccessControl::default();
    assert_eq!(access.replace(Gate::default()), Ok(()));
    assert_eq!(access.replace(gate_of(&[&key])), Ok(()));
    let version = access.version();
    assert_eq!(access.replace(Gate::default()), Err(KeysGone));
    assert!(access.gate().is_on() && access.version() == version);
    assert_eq!(access.replace(gate_of(&[&key])), Ok(()));
    assert!(access.version() > version);
}

#[test]
fn keys_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (rsa, ed) = (generate(Algorithm::RS256).unwrap(), generate(Algorithm::EdDSA).unwrap());
    let key = |algorithm, secret: Option<&str>, secret_file, public_key_file| KeyConfig {
        id: "k".to_owned(),
        algorithm,
        secret: secret.map(str::to_owned),
        secret_file,
        public_key_file,
    };
    let check = |key: KeyConfig, expected: &str| {
        let text = problems(&AccessConfig { keys: vec![key], ..Config::default().access });
        assert!(text.starts_with("access.keys: key 1 (\"k\"): ") && text.contains(expected), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    };
    let rsa_public = || Some(file("rsa.pub.pem", rsa.public.as_ref().unwrap()));
    check(key(Algorithm::HS256, Some("hunter2"), None, None), "fewer than 32 bytes");
    check(key(Algorithm::HS256, None, None, None), "needs `secret` or `secret_file`");
    check(key(Algorithm::HS256, Some("hunter2"), rsa_public(), None), "only one");
    check(key(Algorithm::HS256, None, rsa_public(), None), "PEM");
    check(key(Algorithm::HS256, None, Some("/nowhere/x".into()), None), "/nowhere/x");
    check(
        key(Algorithm::HS256, None, Some(file("long", &"x".repeat(70_000))), None),
        "no key or certificate has",
    );
    let pipe = directory.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
    check(key(Algorithm::HS256, None, Some(pipe), None), "/pipe: not a regular file");
    check(key(Algorithm::EdDSA, None, None, rsa_public()), "EdDSA");
    check(key(Algorithm::RS256, Some("hunter2"), None, rsa_public()), "nothing else");
    check(key(Algorithm::EdDSA, None, None, Some(file("ed.pem", &ed.private))), "private key");
    check(key(Algorithm::EdDSA, None, None, Some(file("hunter", "hunter2"))), "not a public key");
    let point = URL_SAFE_NO_PAD.encode([9; 32]);
    let jwk = |document: Value| Some(file("key.jwk", &document.to_string()));
    check(
        key(Algorithm::ES256, None, None, jwk(json!({"kty": "OKP", "crv": "Ed25519", "x": point}))),
        "ES256",
    );
    let private = json!({"kty": "OKP", "crv": "Ed25519", "x": point, "d": "hunter2"});
    check(key(Algorithm::EdDSA, None, None, jwk(private)), "private key");
    check(key(Algorithm::RS256, None, None, jwk(json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}))), "RS256");
    let short = format!("-----BEGIN PUBLIC KEY-----\n{RSA_1024}\n-----END PUBLIC KEY-----\n");
    check(key(Algorithm::RS256, None, None, Some(file("short.pem", &short))), "an RSA key of 1024 bits");
    let jwk_of = |n: &[u8], e: &[u8]| {
        let [n, e] = [n, e].map(|number| URL_SAFE_NO_PAD.encode(number));
        key(Algorithm::RS256, None, None, jwk(json!({"kty": "RSA", "n": n, "e": e})))
    };
    let n = [0xff; 256];
    assert!(Gate::new(&AccessConfig { keys: vec![jwk_of(&n, &[3])], ..Config::default().access }).is_ok());
    for e in [&[1][..], &[0, 1], &[0], &[4], &[0xff; 9]] {
        check(jwk_of(&n, e), "no key has");
    }
    check(jwk_of(&[0xfe; 256], &[3]), "no key has");
    check(jwk_of(&[&[0x7f], &n[1..]].concat(), &[3]), "2047 bits");
    check(jwk_of(&[&[0; 200], &n[..128]].concat(), &[3]), "1024 bits");
    let twice = Issuer::new("k", Algorithm::HS256);
    assert!(problems(&access(&[&twice, &twice])).contains("key 2 (\"k\"): another key has this id"));
}

#[test]
fn rules_that_cannot_be_used_are_named() {
    let issuer = Issuer::new("k", Algorithm::HS256);
    let with_rules = |patterns: &[&str], allow: &[&str]| {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let rule = RuleConfig { patterns: own(patterns), allow: own(allow) };
        problems(&AccessConfig { rules: vec![rule], ..access(&[&issuer]) })
    };
    assert!(with_rules(&["topic/a"], &["fly"]).contains("access.rules: rule 1: allow \"fly\""));
    assert!(with_rules(&["user/{name}"], &["publish"]).contains("{sub}"));
    assert!(with_rules(&[], &["publish"]).contains("need an entry"));
    assert!(with_rules(&["topic/a"; 1_025], &["publish"]).contains("1024 patterns"));
    let rule = RuleConfig { patterns: vec!["all".to_owned()], allow: vec!["publish".to_owned()] };
    assert!(problems(&AccessConfig { rules: vec![rule], ..access(&[]) }).contains("no access.keys"));
}

#[test]
fn a_jwk_is_as_good_as_a_pem() {
    use aws_lc_rs::signature::KeyPair;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.jwk");
    let pair = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    std::fs::write(&path, json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x}).to_string())
        .unwrap();
    let config = KeyConfig {
        id: "k".to_owned(),
        algorithm: Algorithm::EdDSA,
        secret: None,
        secret_file: None,
        public_key_file: Some(path),
    };
    let gate = Gate::new(&AccessConfig { keys: vec![config], ..Config::default().access }).unwrap();
    let key = jsonwebtoken::EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref());
    let token = mint::sign((Algorithm::EdDSA, &key), Some("k"), alice().as_object().unwrap()).unwrap();
    assert_eq!(gate.verify(&token, NOW_MS).unwrap().user.as_str(), "alice");
}

#[test]
fn secrets_are_not_shown() {
    let issuer = Issuer::new("k", Algorithm::HS256);
    let gate = gate_of(&[&issuer]);
    let token = gate.verify(&issuer.sign(&with(json!({"team": "hunter2"}))), NOW_MS).unwrap();
    let shown = format!("{gate:?} {:?} {token:?}", access(&[&issuer]));
    assert!(!shown.contains(&issuer.private) && !shown.contains("hunter2"), "{shown}");
}
