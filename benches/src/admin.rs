//! Requests with a body to the broker's admin API, with its token.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// How long an answer may take; a large plugin is compiled meanwhile.
const WITHIN: Duration = Duration::from_secs(120);

/// The admin API of one broker.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    port: u16,
    token: String,
}

impl Admin {
    /// Of the broker that listens for admins on `port` and keeps its files in `data`.
    ///
    /// # Errors
    /// When the broker wrote no token.
    pub(crate) fn of(port: u16, data: &Path) -> Result<Self> {
        let path = data.join("admin-token");
        let token = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Self { port, token: token.trim().to_owned() })
    }

    /// Uploads a component as the next revision of a plugin.
    ///
    /// # Errors
    /// When the broker does not take it; with its words.
    pub(crate) fn upload(&self, plugin: &str, component: &[u8]) -> Result<()> {
        self.send(&format!("POST /v1/plugins/{plugin}/revisions"), "application/wasm", component)
    }

    /// Puts a policy.
    ///
    /// # Errors
    /// When the broker does not take it; with its words.
    pub(crate) fn put_policy(&self, name: &str, document: &Value) -> Result<()> {
        let body = serde_json::to_vec(document)?;
        self.send(&format!("PUT /v1/policies/{name}"), "application/json", &body)
    }

    /// Pushes a dictionary as the next revision of `name`, for the addresses that `pattern` matches; the pattern is put
    /// into the query as it is.
    ///
    /// # Errors
    /// When the broker does not take it; with its words.
    pub(crate) fn push_dictionary(&self, name: &str, pattern: &str, bytes: &[u8]) -> Result<()> {
        let request = format!("POST /v1/dictionaries/{name}/revisions?match={pattern}");
        self.send(&request, "application/octet-stream", bytes)
    }

    fn send(&self, request: &str, kind: &str, body: &[u8]) -> Result<()> {
        let Self { port, token } = self;
        let mut stream =
            TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).context("connecting to the admin listener")?;
        stream.set_read_timeout(Some(WITHIN))?;
        // HTTP/1.0: the answer is not chunked and ends with the connection.
        write!(
            stream,
            "{request} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        stream.write_all(body).with_context(|| format!("sending {request}"))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).with_context(|| format!("reading the answer to {request}"))?;
        let status = answer.lines().next().unwrap_or_default();
        let is_done = status.split(' ').nth(1).is_some_and(|code| code.starts_with('2'));
        let told = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        ensure!(is_done, "{request} answered {status}: {told}");
        Ok(())
    }
}
