//! The admin API as the thin clients see it.

use anyhow::{Context, anyhow, bail};
use clap::Args;
use serde_json::Value;
use std::io::{BufReader, Write};
use std::path::PathBuf;
use std::time::Duration;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body, BodyReader};

/// Bytes of an answer that are read. More: the command fails.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The longest time one request may take: an upload is compiled before it is answered.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(150);

/// How long nothing comes of an answer that goes on: a few times as long as the broker is silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Items per page of a list, the most the API gives.
const PAGE_ITEMS: usize = 1_000;

/// Where the admin API is and who asks.
#[derive(Debug, Clone, Args)]
pub(super) struct Access {
    /// The broker's admin listener, as an address or a URL
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "WASPMQ_ADMIN_URL",
        default_value = "127.0.0.1:9471",
        global = true
    )]
    pub(super) admin: String,
    /// The admin token; otherwise read from the file `admin-token` in the data directory
    #[arg(long, value_name = "TOKEN", env = "WASPMQ_ADMIN_TOKEN", hide_env_values = true, global = true)]
    pub(super) token: Option<String>,
    /// The broker's data directory, for its admin token
    #[arg(long, value_name = "DIR", env = "WASPMQ_DATA_DIR", default_value = "waspmq-data", global = true)]
    pub(super) data_dir: PathBuf,
    /// Print the API's answer as JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// A connection-less handle; every call is one request.
#[derive(Debug, Clone)]
pub(super) struct Api {
    agent: Agent,
    base: String,
    authorization: String,
}

/// The broker's answer was that it does not do it.
#[derive(Debug, thiserror::Error)]
#[error("{said}")]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) said: String,
}

impl Access {
    pub(super) fn open(&self) -> anyhow::Result<Api> {
        // A variable that is set to nothing is none.
        let token = match self.token.as_deref().map(str::trim).filter(|token| !token.is_empty()) {
            Some(token) => token.to_owned(),
            None => waspmq_store::read_admin_token(&self.data_dir)
                .context("no --token, no WASPMQ_ADMIN_TOKEN")?
                .into_string(),
        };
        Ok(Api::new(&self.admin, &token))
    }
}

impl Api {
    /// `admin` is `host:port` or a URL.
    pub(super) fn new(admin: &str, token: &str) -> Self {
        let base = if admin.contains("://") { admin.to_owned() } else { format!("http://{admin}") };
        let agent = agent(REQUEST_TIMEOUT);
        Self { agent, base: base.trim_end_matches('/').to_owned(), authorization: format!("Bearer {token}") }
    }

    /// The same with less patience, for what is asked again anyway.
    pub(super) fn within(self, timeout: Duration) -> Self {
        Self { agent: agent(timeout), ..self }
    }

    /// What is outside of `/v1` and no document, such as `/metrics`.
    pub(super) fn get_text(&self, path: &str) -> anyhow::Result<String> {
        let url = format!("{}{path}", self.base);
        let answer = self.agent.get(url).header("authorization", &self.authorization).call();
        let body = self.body(answer)?;
        String::from_utf8(body).with_context(|| format!("{} is not a WaspMQ admin API", self.base))
    }

    pub(super) fn get(&self, path: &[&str]) -> anyhow::Result<Value> {
        self.get_url(&self.url(path))
    }

    pub(super) fn get_query(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Value> {
        self.get_url(&(self.url(path) + &queried(query)))
    }

    /// Up to `limit` items of a list whose pages name the next one.
    pub(super) fn get_pages(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        items: &str,
        limit: u64,
    ) -> anyhow::Result<Value> {
        let mut all = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let left = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(all.len());
            let page_limit = left.min(PAGE_ITEMS).to_string();
            let mut asked: Vec<(&str, &str)> = query.to_vec();
            asked.push(("limit", &page_limit));
            if let Some(next) = &next {
                asked.retain(|(name, _)| *name != "after");
                asked.push(("after", next));
            }
            let url = self.url(path) + &queried(&asked);
            let mut page = self.get_url(&url)?;
            let found = page.get_mut(items).map(Value::take);
            let Some(Value::Array(mut found)) = found else { bail!("the answer of {url} has no `{items}`") };
            all.append(&mut found);
            next = page.get("next").and_then(Value::as_str).map(str::to_owned);
            if next.is_none() || all.len() as u64 >= limit {
                return Ok(Value::Array(all));
            }
        }
    }

    /// Every page of a list; `items` is the list's key in each page's document.
    pub(super) fn get_all(&self, path: &[&str], items: &str) -> anyhow::Result<Value> {
        let mut all = Vec::new();
        loop {
            let url = format!("{}?limit={PAGE_ITEMS}&offset={}", self.url(path), all.len());
            let mut page = self.get_url(&url)?;
            let found = page.get_mut(items).map(Value::take);
            let Some(Value::Array(mut found)) = found else { bail!("the answer of {url} has no `{items}`") };
            let is_last = found.len() < PAGE_ITEMS;
            all.append(&mut found);
            if is_last {
                return Ok(Value::Array(all));
            }
        }
    }

    pub(super) fn put(&self, path: &[&str], document: Option<&Value>) -> anyhow::Result<Value> {
        let request = self.agent.put(self.url(path)).header("authorization", &self.authorization);
        let answer = match document {
            Some(document) => request.content_type("application/json").send(document.to_string().as_bytes()),
            None => request.send_empty(),
        };
        self.read(answer)
    }

    pub(super) fn post(&self, path: &[&str], content_type: &str, body: &[u8]) -> anyhow::Result<Value> {
        let request = self.agent.post(self.url(path)).header("authorization", &self.authorization);
        self.read(request.content_type(content_type).send(body))
    }

    /// As above, with a query.
    pub(super) fn post_bytes(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Value> {
        let url = self.url(path) + &queried(query);
        let request = self.agent.post(url).header("authorization", &self.authorization);
        self.read(request.content_type("application/octet-stream").send(body))
    }

    /// A request without a body, such as a rollback.
    pub(super) fn post_empty(&self, path: &[&str]) -> anyhow::Result<Value> {
        let request = self.agent.post(self.url(path)).header("authorization", &self.authorization);
        self.read(request.send_empty())
    }

    pub(super) fn delete(&self, path: &[&str]) -> anyhow::Result<Value> {
        self.read(self.agent.delete(self.url(path)).header("authorization", &self.authorization).call())
    }

    /// A request without a body.
    pub(super) fn post_query(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Value> {
        let url = self.url(path) + &queried(query);
        let request = self.agent.post(url).header("authorization", &self.authorization);
        self.read(request.send_empty())
    }

    pub(super) fn delete_query(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Value> {
        let url = self.url(path) + &queried(query);
        self.read(self.agent.delete(url).header("authorization", &self.authorization).call())
    }

    /// As above; what is not there is removed, too.
    pub(super) fn delete_if_there(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<()> {
        let url = self.url(path) + &queried(query);
        match self.agent.delete(url).header("authorization", &self.authorization).call() {
            Ok(answer) if answer.status() == StatusCode::NOT_FOUND => Ok(()),
            answer => self.read(answer).map(|_| ()),
        }
    }

    /// Writes an answer that is no document elsewhere; of at most `bytes_max`.
    pub(super) fn download(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        bytes_max: u64,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let url = self.url(path) + &queried(query);
        let answer = self.agent.get(url).header("authorization", &self.authorization).call();
        let mut answer = match answer {
            Ok(answer) if answer.status().is_success() => answer,
            refused => return self.read(refused).map(|_| ()),
        };
        let mut body = answer.body_mut().with_config().limit(bytes_max).reader();
        std::io::copy(&mut body, out).with_context(|| format!("the answer of {} broke off", self.base))?;
        Ok(())
    }

    /// An answer that goes on: it is read as it comes, and is over when nothing came for [`SILENCE_MAX`].
    pub(super) fn stream(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> anyhow::Result<BufReader<BodyReader<'static>>> {
        let request = self.agent.get(self.url(path) + &queried(query));
        let request = request.header("authorization", &self.authorization).config();
        match request.timeout_global(None).timeout_per_read(Some(SILENCE_MAX)).build().call() {
            Ok(answer) if answer.status().is_success() => {
                Ok(BufReader::new(answer.into_body().into_reader()))
            }
            Ok(refused) => Err(self.read(Ok(refused)).err().unwrap_or_else(|| anyhow!("refused"))),
            Err(error) => Err(self.unreachable(&error)),
        }
    }

    fn get_url(&self, url: &str) -> anyhow::Result<Value> {
        self.read(self.agent.get(url).header("authorization", &self.authorization).call())
    }

    fn url(&self, path: &[&str]) -> String {
        path.iter().fold(format!("{}/v1", self.base), |url, segment| url + "/" + &escaped(segment))
    }

    fn unreachable(&self, error: &ureq::Error) -> anyhow::Error {
        let why = match error {
            ureq::Error::Io(error) => error.to_string(),
            ureq::Error::Timeout(_) => "it does not answer in time".to_owned(),
            error => error.to_string(),
        };
        anyhow!("cannot reach the admin API at {}: {why}; is the broker running?", self.base)
    }

    fn read(&self, answer: Result<Response<Body>, ureq::Error>) -> anyhow::Result<Value> {
        let body = self.body(answer)?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).with_context(|| format!("{} is not a WaspMQ admin API", self.base))
    }

    /// The bytes of an answer that is no refusal.
    fn body(&self, answer: Result<Response<Body>, ureq::Error>) -> anyhow::Result<Vec<u8>> {
        let mut answer = answer.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = body.with_context(|| format!("the answer of {} broke off", self.base))?;
        if !status.is_success() {
            let status = status.as_u16();
            return Err(Refusal { status, said: refusal(status, &body) }.into());
        }
        Ok(body)
    }
}

fn agent(timeout: Duration) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(timeout))
        .build()
        .new_agent()
}

/// A problem document (RFC 9457) in plain words.
fn refusal(status: u16, body: &[u8]) -> String {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| document.get(key).and_then(Value::as_str).map(super::output::printable);
    // A title that only names the status adds nothing to the detail.
    let of_status = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let mut said = match (text("title"), text("detail")) {
        (Some(title), Some(detail)) if of_status == Some(&*title) => detail,
        (Some(title), Some(detail)) => format!("{title}: {detail}"),
        (Some(title), None) => title,
        (None, _) => {
            return format!(
                "the answer is {status}, which is not that of a WaspMQ admin API; is --admin its address?"
            );
        }
    };
    if let Some(key) = text("key") {
        said.push_str(&format!(" (key {key})"));
    }
    said
}

/// A path segment (RFC 3986, 3.3): everything but unreserved characters is percent-encoded.
fn escaped(segment: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte);
    let escape = |byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    segment.bytes().map(escape).collect()
}

/// A query with its question mark; nothing for no parameters.
fn queried(query: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in query {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        text.push_str(&escaped(value));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_one_segment() {
        let api = Api::new("127.0.0.1:1", "t");
        assert_eq!(api.url(&["groups", "a/b?c ü%"]), "http://127.0.0.1:1/v1/groups/a%2Fb%3Fc%20%C3%BC%25");
        assert_eq!(Api::new("https://x.example/", "t").url(&["status"]), "https://x.example/v1/status");
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(queried(&[]), "");
        let query = [("to", "topic/a.>"), ("after", "01:user/a&b")];
        assert_eq!(queried(&query), "?to=topic%2Fa.%3E&after=01%3Auser%2Fa%26b");
    }

    #[test]
    fn problems_are_told_plainly() {
        let body =
            br#"{"type":"urn:x","title":"Not Found","status":404,"detail":"there is no group x","key":"g"}"#;
        assert_eq!(refusal(404, body), "there is no group x (key g)");
        assert_eq!(refusal(422, body), "Not Found: there is no group x (key g)");
        assert_eq!(refusal(404, br#"{"title":"Not Found"}"#), "Not Found");
        assert!(refusal(502, b"<html>").starts_with("the answer is 502"));
    }
}
