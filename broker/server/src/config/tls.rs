//! With which certificate the listener for clients speaks TLS: the section `tls`.

use super::check::Problem;
use crate::tls;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Names of a self-signed certificate, besides those of loopback.
pub(super) const NAMES_MAX: usize = 64;

/// Where the certificate comes from. Without any of it the listener speaks plain WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// A file with the certificate chain, the server's own certificate first, as PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// A file with its private key, as PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Whether the broker makes a certificate by itself.
    pub self_signed: bool,
    /// Names and addresses that one is made for, besides those of loopback.
    pub self_signed_names: Vec<String>,
}

impl TlsConfig {
    /// Whether the listener speaks TLS.
    pub const fn is_on(&self) -> bool {
        self.certificate.is_some() || self.self_signed
    }
}

pub(super) fn check(config: &TlsConfig, problems: &mut Vec<Problem>) {
    let names = &config.self_signed_names;
    if names.len() > NAMES_MAX {
        problems.push((
            "tls.self_signed_names".into(),
            format!("{} entries, the limit is {NAMES_MAX}", names.len()),
        ));
    }
    for (index, name) in names.iter().enumerate().filter(|(_, name)| !is_name(name)) {
        let problem = format!("{name:?}: expected a host name or an IP address, without a port");
        problems.push((format!("tls.self_signed_names[{index}]").into(), problem));
    }
    if config.self_signed && (config.certificate.is_some() || config.key.is_some()) {
        let problem = "is true, and there is a tls.certificate or a tls.key; it is one or the other";
        problems.push(("tls.self_signed".into(), problem.to_owned()));
        return;
    }
    match (&config.certificate, &config.key) {
        (Some(_), None) => {
            problems.push(("tls.certificate".into(), "needs tls.key, which is missing".to_owned()))
        }
        (None, Some(_)) => {
            problems.push(("tls.key".into(), "needs tls.certificate, which is missing".to_owned()))
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
}

/// What is wrong with the files, where both are named.
pub(super) fn file_problems(config: &TlsConfig) -> Vec<Problem> {
    let (Some(certificate), Some(key)) = (&config.certificate, &config.key) else { return Vec::new() };
    tls::read(certificate, key).err().map(|problem| problem.of_key()).into_iter().collect()
}

fn is_name(name: &str) -> bool {
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte);
    name.parse::<std::net::IpAddr>().is_ok() || (1..=253).contains(&name.len()) && name.bytes().all(is_host)
}
