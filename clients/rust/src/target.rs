//! Where a broker is: what a URL says.

use crate::transport::Transport;
use tokio_tungstenite::tungstenite::http::Uri;

/// Where a broker listens unless told otherwise, for URLs whose scheme is of our own.
const OWN_PORT: u16 = 9470;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Ws,
    Wss,
    Quic,
    Wt,
}

impl Scheme {
    const ALL: [(&str, Self); 4] =
        [("ws", Self::Ws), ("wss", Self::Wss), ("quic", Self::Quic), ("wt", Self::Wt)];

    const fn port(self) -> u16 {
        match self {
            Self::Ws => 80,
            Self::Wss => 443,
            Self::Quic | Self::Wt => OWN_PORT,
        }
    }
}

/// A URL that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// As it was given.
    url: String,
    scheme: Scheme,
    /// An IPv6 address has no brackets here.
    host: String,
    port: u16,
    /// Empty where the URL has none.
    path: String,
}

impl Target {
    /// An error is what is wrong with the URL, for people.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
        let scheme = Scheme::ALL.into_iter().find(|(name, _)| uri.scheme_str() == Some(*name));
        let Some((_, scheme)) = scheme else {
            return Err("it must begin with ws://, wss://, quic:// or wt://".to_owned());
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let bare = authority.rsplit('@').next().unwrap_or_default();
        let host = uri.host().unwrap_or_default();
        if host.is_empty() {
            return Err("it has no host".to_owned());
        }
        let port = match bare.strip_prefix(host) {
            Some("") => scheme.port(),
            _ => uri.port_u16().ok_or_else(|| "its port is no number up to 65535".to_owned())?,
        };
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        let path = if path == "/" { "" } else { path };
        if scheme == Scheme::Quic && !path.is_empty() {
            return Err("a quic:// URL has no path".to_owned());
        }
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Ok(Self { url: url.to_owned(), scheme, host: host.to_owned(), port, path: path.to_owned() })
    }

    /// What the URL asks for.
    pub(crate) const fn transport(&self) -> Transport {
        match self.scheme {
            Scheme::Ws | Scheme::Wss => Transport::WebSocket,
            Scheme::Quic => Transport::Quic,
            Scheme::Wt => Transport::WebTransport,
        }
    }

    /// Whether its WebSocket is with TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.scheme != Scheme::Ws
    }

    /// For WebSocket: as it was given where it has a path, else the same broker's.
    pub(crate) fn websocket_url(&self) -> String {
        match self.scheme {
            Scheme::Ws | Scheme::Wss if !self.path.is_empty() => self.url.clone(),
            Scheme::Ws => format!("ws://{}/ws", self.authority()),
            Scheme::Wss | Scheme::Quic | Scheme::Wt => format!("wss://{}/ws", self.authority()),
        }
    }
}

#[cfg(feature = "quic")]
impl Target {
    /// What QUIC or WebTransport connects to: as it was given where it says so itself, else the same broker's.
    pub(crate) fn url_over(&self, transport: Transport) -> String {
        match transport {
            transport if transport == self.transport() => self.url.clone(),
            Transport::WebTransport => format!("wt://{}/wt", self.authority()),
            Transport::Auto | Transport::WebSocket | Transport::Quic => {
                format!("quic://{}", self.authority())
            }
        }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// For WebTransport, as it is on the wire.
    pub(crate) fn web_transport_url(&self) -> String {
        let path = match self.scheme {
            Scheme::Wt if !self.path.is_empty() => &self.path,
            _ => "/wt",
        };
        format!("https://{}{path}", self.authority())
    }
}

impl Target {
    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_four_schemes_are_understood() {
        let check = |url: &str, transport, host: &str, port, websocket: &str| {
            let target = Target::parse(url).unwrap();
            assert_eq!((target.transport(), &*target.host, target.port), (transport, host, port), "{url}");
            assert_eq!(target.websocket_url(), websocket);
        };
        check("ws://a:1/ws", Transport::WebSocket, "a", 1, "ws://a:1/ws");
        check(
            "wss://broker.example/x?y",
            Transport::WebSocket,
            "broker.example",
            443,
            "wss://broker.example/x?y",
        );
        check("ws://[::1]/ws", Transport::WebSocket, "::1", 80, "ws://[::1]/ws");
        check("quic://a", Transport::Quic, "a", 9470, "wss://a:9470/ws");
        check("quic://[2001:db8::1]:7/", Transport::Quic, "2001:db8::1", 7, "wss://[2001:db8::1]:7/ws");
        check("wt://10.0.0.1:8/wt", Transport::WebTransport, "10.0.0.1", 8, "wss://10.0.0.1:8/ws");
        check("ws://[::1]", Transport::WebSocket, "::1", 80, "ws://[::1]:80/ws");
        check("wss://a:9470/", Transport::WebSocket, "a", 9470, "wss://a:9470/ws");
        check("wt://[::1]", Transport::WebTransport, "::1", 9470, "wss://[::1]:9470/ws");
    }

    #[test]
    fn what_is_no_url_of_a_broker_is_said() {
        let check = |url: &str, expected: &str| {
            let error = Target::parse(url).unwrap_err();
            assert!(error.contains(expected), "{url}: {error}");
        };
        let four = "ws://, wss://, quic:// or wt://";
        for url in ["http://a/ws", "a:9470", "127.0.0.1", "/ws", "quicc://a"] {
            check(url, four);
        }
        check("quic://a/ws", "no path");
        check("quic://a:99999", "port");
        check("ws://a:/ws", "port");
        check("wt://:9470", "host");
        for url in ["", "quic://", "ws://[::1/ws", "ws://a b/"] {
            Target::parse(url).unwrap_err();
        }
    }

    #[cfg(feature = "quic")]
    #[test]
    fn web_transport_has_a_path() {
        let check = |url: &str, expected: &str| {
            assert_eq!(Target::parse(url).unwrap().web_transport_url(), expected);
        };
        check("wt://a", "https://a:9470/wt");
        check("wt://a/", "https://a:9470/wt");
        check("wt://[::1]:7/other?x", "https://[::1]:7/other?x");
        check("wss://a:7/ws", "https://a:7/wt");
    }
}
