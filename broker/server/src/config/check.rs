//! What must hold between the values of a configuration, after each of them has its type.

use super::{BOUNDS, Config};
use crate::access::Gate;
use std::borrow::Cow;
use std::net::SocketAddr;

/// A key and what is wrong with its value. Within a list the key goes on with the entry, from 0, and mostly its key, as in
/// `address[2].keep`: that says where it was written. What is wrong says of which entry, for people.
pub(crate) type Problem = (Cow<'static, str>, String);

/// Length of an admin token in bytes: shorter ones can be guessed, longer ones do not fit a request head.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

/// Entries of a list of origins or hosts: each is looked at for every request.
const LIST_ENTRIES_MAX: usize = 64;

impl Config {
    /// Everything that is wrong in itself, in the order of the keys; empty when nothing is.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        for bound in &BOUNDS {
            let value = (bound.value)(self);
            if !(bound.min..=bound.max).contains(&value) {
                problems.push((
                    bound.key.into(),
                    format!("{value} is not between {} and {}", bound.min, bound.max),
                ));
            }
        }
        if problems.is_empty() {
            self.check_sizes(&mut problems);
        }
        self.check_listeners(&mut problems);
        self.check_names(&mut problems);
        super::address::check(&self.address, &mut problems);
        super::tls::check(&self.tls, &mut problems);
        problems
    }

    /// What is wrong with what is made of files: with the certificate, and with access.
    pub(super) fn file_problems(&self) -> Vec<Problem> {
        let mut problems = super::tls::file_problems(&self.tls);
        problems.extend(Gate::new(&self.access).err().unwrap_or_default());
        problems
    }

    /// What is legal but probably not meant.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !is_loopback(self.admin.listen) {
            warnings.push(format!(
                "admin.listen {} is reachable from other machines, in plain HTTP: whoever reads the traffic reads the \
                 admin token. Put TLS in front of it or listen on loopback.",
                self.admin.listen
            ));
            if self.admin.token.is_none() {
                warnings.push(
                    "admin.token is not configured: the token is the one in the data directory's file `admin-token`"
                        .to_owned(),
                );
            }
        }
        if self.access.allow_anonymous && !is_loopback(self.listen) {
            let who =
                if self.access.keys.is_empty() { "as any user" } else { "without a token, under a new name" };
            warnings
                .push(format!("access.allow_anonymous: whoever reaches {} may connect {who}", self.listen));
        }
        warnings
    }

    fn check_sizes(&self, problems: &mut Vec<Problem>) {
        let limits = &self.limits;
        let encoded = limits.max_message_bytes + limits.max_message_bytes / 2;
        if limits.outbound_bytes_max < encoded {
            problems.push((
                "limits.outbound_bytes_max".into(),
                format!(
                    "{} is less than one and a half times limits.max_message_bytes ({encoded}): the largest message, \
                     as base64 in JSON, must fit an empty queue",
                    limits.outbound_bytes_max
                ),
            ));
        }
        let mut at_least = |key: &'static str, value: usize, other: &str, least: usize| {
            if value < least {
                problems.push((key.into(), format!("{value} is less than {other} ({least})")));
            }
        };
        at_least(
            "limits.worker_outbound_bytes_max",
            limits.worker_outbound_bytes_max,
            "limits.outbound_bytes_max",
            limits.outbound_bytes_max,
        );
        at_least(
            "limits.worker_inbound_bytes_max",
            limits.worker_inbound_bytes_max,
            "limits.max_message_bytes",
            limits.max_message_bytes,
        );
    }

    fn check_listeners(&self, problems: &mut Vec<Problem>) {
        if !is_loopback(self.listen) && !self.access.allow_anonymous && self.access.keys.is_empty() {
            problems.push((
                "listen".into(),
                format!(
                    "{} is reachable from other machines, and there are no tokens: anyone could connect as any user. \
                     Either configure access.keys, so that everyone needs a token, or accept it by setting \
                     access.allow_anonymous = true; or listen on loopback (127.0.0.1:{port} or [::1]:{port})",
                    self.listen,
                    port = self.listen.port()
                ),
            ));
        }
        if self.listen.port() != 0 && self.listen == self.admin.listen {
            problems
                .push(("admin.listen".into(), format!("{} is the address of `listen`", self.admin.listen)));
        }
    }

    fn check_names(&self, problems: &mut Vec<Problem>) {
        if self.data_dir.as_os_str().is_empty() {
            problems.push(("data_dir".into(), "the path is empty".to_owned()));
        }
        check_list(problems, "admin.allowed_origins", &self.admin.allowed_origins, origin_problem);
        check_list(problems, "access.allowed_origins", &self.access.allowed_origins, origin_problem);
        check_list(problems, "access.allowed_hosts", &self.access.allowed_hosts, host_problem);
        check_list(problems, "admin.allowed_hosts", &self.admin.allowed_hosts, host_problem);
        if self.admin.token.as_deref().is_some_and(|token| !is_token(token)) {
            let (least, most) = (TOKEN_BYTES.start(), TOKEN_BYTES.end());
            let problem = format!("must be {least} to {most} printable ASCII characters without spaces");
            problems.push(("admin.token".into(), problem));
        }
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&self.log.filter) {
            problems.push(("log.filter".into(), format!("{:?}: {error}", self.log.filter)));
        }
    }
}

fn is_token(text: &str) -> bool {
    TOKEN_BYTES.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn check_list(
    problems: &mut Vec<Problem>,
    key: &'static str,
    entries: &[String],
    problem: impl Fn(&str) -> Option<&'static str>,
) {
    if entries.len() > LIST_ENTRIES_MAX {
        problems.push((key.into(), format!("{} entries, the limit is {LIST_ENTRIES_MAX}", entries.len())));
    }
    problems.extend(entries.iter().enumerate().filter_map(|(index, entry)| {
        problem(entry).map(|text| (format!("{key}[{index}]").into(), format!("{entry:?}: {text}")))
    }));
}

fn origin_problem(entry: &str) -> Option<&'static str> {
    const EXPECTED: &str = "an origin is `https://host`, `http://host:port`, `null`, or `*` for every page";
    if matches!(entry, "*" | "null") {
        return None;
    }
    let host = entry.strip_prefix("https://").or_else(|| entry.strip_prefix("http://"));
    host.is_none_or(|host| host_problem(host).is_some()).then_some(EXPECTED)
}

fn host_problem(entry: &str) -> Option<&'static str> {
    const EXPECTED: &str = "a host is a name or an address with an optional port, and nothing else";
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(&byte);
    (entry.is_empty() || !entry.bytes().all(is_host)).then_some(EXPECTED)
}
