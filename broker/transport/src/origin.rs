//! Who may reach a listener from inside a browser.
//!
//! A web page can make its visitor's browser connect anywhere, loopback included. Two headers give it away, which a
//! page cannot set: `Origin` names the page, and `Host` the name it reached the broker by (a page that points its
//! own name at 127.0.0.1, DNS rebinding, cannot hide that name). Other programs can forge both: this protects
//! browsers' users, it does not authenticate.

use std::net::Ipv6Addr;

/// Whether a request with these `Origin` and `Host` headers may be served: no origin (not a browser), the same host
/// and port, or one of `allowed`.
///
/// `allowed` holds origins (`https://app.example.com`, compared by scheme, host and port) or `*` for every page.
/// `null`, the origin of sandboxed frames and local files, is allowed only where `allowed` holds `null` itself.
pub fn origin_allowed(origin: Option<&str>, host: Option<&str>, allowed: &[String]) -> bool {
    let Some(origin) = origin else { return true };
    if origin == "null" {
        return allowed.iter().any(|entry| entry == "null");
    }
    let parsed = Origin::parse(origin);
    let is_same_host = match (&parsed, host.and_then(Authority::parse)) {
        (Some(origin), Some(host)) => origin.is_served_by(&host),
        _ => false,
    };
    is_same_host
        || allowed.iter().any(|entry| {
            entry == "*" || entry == origin || parsed.is_some() && Origin::parse(entry) == parsed
        })
}

/// Whether a request with this `Host` header came by a name that belongs to this machine: `localhost`, `127.0.0.1`
/// or `[::1]` with any port, or one of `allowed`, where an entry without a port stands for every port.
pub fn host_allowed(host: Option<&str>, allowed: &[String]) -> bool {
    let Some(host) = host.and_then(Authority::parse) else { return false };
    host.is_loopback()
        || allowed
            .iter()
            .filter_map(|entry| Authority::parse(entry))
            .any(|entry| entry.has_name(host.name) && (entry.port.is_none() || entry.port == host.port))
}

/// A host with an optional port: `example.com`, `127.0.0.1:9471`, `[::1]:9471`.
#[derive(Debug, Clone, Copy)]
struct Authority<'a> {
    /// IPv6 addresses with their brackets.
    name: &'a str,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        // A colon inside brackets belongs to the address.
        let name_end = text.find(']').map_or(0, |bracket| bracket + 1);
        let (name, port) = match text[name_end..].find(':') {
            Some(colon) => {
                let port = &text[name_end + colon + 1..];
                let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
                (&text[..name_end + colon], Some(is_number.then(|| port.parse().ok()).flatten()?))
            }
            None => (text, None),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let is_valid = match name.strip_prefix('[') {
            Some(address) => address.strip_suffix(']')?.parse::<Ipv6Addr>().is_ok(),
            None => !name.is_empty() && name.bytes().all(is_name),
        };
        is_valid.then_some(Self { name, port })
    }

    fn has_name(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    fn is_loopback(&self) -> bool {
        ["localhost", "127.0.0.1", "[::1]"].into_iter().any(|name| self.has_name(name))
    }
}

/// A web origin of a scheme whose default port is known.
#[derive(Debug, Clone, Copy)]
struct Origin<'a> {
    scheme: &'a str,
    authority: Authority<'a>,
    default_port: u16,
}

impl<'a> Origin<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let default_port = match scheme {
            _ if scheme.eq_ignore_ascii_case("http") => 80,
            _ if scheme.eq_ignore_ascii_case("https") => 443,
            _ => return None,
        };
        Some(Self { scheme, authority: Authority::parse(authority)?, default_port })
    }

    fn port(&self) -> u16 {
        self.authority.port.unwrap_or(self.default_port)
    }

    /// The scheme does not count: behind a proxy that ends TLS the broker does not know the page's. A `Host`
    /// without a port means the default one of that scheme.
    fn is_served_by(&self, host: &Authority<'_>) -> bool {
        host.has_name(self.authority.name) && host.port.unwrap_or(self.default_port) == self.port()
    }
}

impl PartialEq for Origin<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.scheme.eq_ignore_ascii_case(other.scheme)
            && self.authority.has_name(other.authority.name)
            && self.port() == other.port()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let check = |origin: Option<&str>, host: Option<&str>, allowed: &[&str], expected: bool| {
            let allowed: Vec<_> = allowed.iter().map(|entry| (*entry).to_owned()).collect();
            assert_eq!(
                origin_allowed(origin, host, &allowed),
                expected,
                "{origin:?} at {host:?}, {allowed:?}"
            );
        };
        let same = |origin, host, expected| check(Some(origin), Some(host), &[], expected);
        check(None, None, &[], true);
        check(None, Some("a.example"), &["https://b.example"], true);
        check(Some("http://a.example"), None, &[], false);
        same("http://a.example", "a.example", true);
        same("https://a.example", "a.example", true);
        same("https://a.example", "a.example:443", true);
        same("https://A.example:443", "a.Example", true);
        same("https://a.example", "a.example:80", false);
        same("http://a.example:9470", "a.example:9470", true);
        same("http://a.example:9471", "a.example:9470", false);
        same("http://a.example", "a.example:9470", false);
        same("http://[::1]:9470", "[::1]:9470", true);
        same("http://[::1]", "[::1]:80", true);
        same("http://a.example.evil", "a.example", false);
        same("http://a.example@evil", "a.example", false);
        same("http://user@a.example", "a.example", false);
        same("http://a.example/", "a.example", false);
        same("http://a.example:+80", "a.example:80", false);
        same("http://a.example:", "a.example", false);
        same("file://", "a.example", false);
        same("chrome-extension://abc", "abc", false);
        same("null", "null", false);
        same("", "", false);
        check(Some("null"), Some("a.example"), &["*"], false);
        check(Some("null"), Some("a.example"), &["null"], true);
        check(Some("https://b.example"), Some("a.example"), &["*"], true);
        check(Some("chrome-extension://abc"), Some("a.example"), &["*"], true);
        check(Some("chrome-extension://abc"), Some("a.example"), &["chrome-extension://abc"], true);
        check(Some("https://b.example"), Some("a.example"), &["https://b.example"], true);
        check(Some("https://b.example"), Some("a.example"), &["https://B.example:443"], true);
        check(Some("http://b.example"), Some("a.example"), &["https://b.example"], false);
        check(Some("https://b.example:8443"), Some("a.example"), &["https://b.example"], false);
        check(Some("https://b.example"), Some("a.example"), &["b.example"], false);
        check(Some("garbage"), Some("a.example"), &["trash"], false);
    }

    #[test]
    fn hosts() {
        let check = |host: Option<&str>, allowed: &[&str], expected: bool| {
            let allowed: Vec<_> = allowed.iter().map(|entry| (*entry).to_owned()).collect();
            assert_eq!(host_allowed(host, &allowed), expected, "{host:?}, {allowed:?}");
        };
        for host in ["localhost", "LOCALHOST:9471", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:9471"] {
            check(Some(host), &[], true);
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:9471",
            "localhost:x",
            "localhost:99999",
            "localhost:",
            "[::1",
            "[::1]x",
            "[evil]:80",
            "::1",
            "localhost@evil.example",
        ] {
            check(Some(host), &[], false);
        }
        check(None, &["broker.example"], false);
        check(Some("broker.example"), &["broker.example"], true);
        check(Some("Broker.example:9471"), &["broker.example"], true);
        check(Some("broker.example:9471"), &["broker.example:9471"], true);
        check(Some("broker.example"), &["broker.example:9471"], false);
        check(Some("other.example"), &["broker.example"], false);
    }
}
