//! What the broker says of itself in its metrics: its memory and its sessions, where the admin API can be read.

use super::super::exposition::{Exposition, whole};
use super::limits::METRICS_BYTES_MAX;
use super::options::Admin;
use std::time::Duration;
use ureq::Agent;

/// How long one reading may take: it is not worth more to a run.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) memory_bytes: u64,
    pub(super) sessions: u64,
}

/// Reads them once.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    agent: Agent,
    url: String,
    authorization: Option<String>,
}

impl Reader {
    /// A token is needed where the admin listener is not on loopback; what is not there is not an error.
    pub(super) fn new(admin: &Admin) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(TIMEOUT))
            .build()
            .new_agent();
        let base =
            if admin.admin.contains("://") { admin.admin.clone() } else { format!("http://{}", admin.admin) };
        let given = admin.admin_token.as_deref().map(str::trim).filter(|token| !token.is_empty());
        let token = given.map(str::to_owned).or_else(|| {
            waspmq_store::read_admin_token(&admin.data_dir).ok().map(|token| token.into_string())
        });
        let authorization = token.map(|token| format!("Bearer {token}"));
        Self { agent, url: format!("{}/metrics", base.trim_end_matches('/')), authorization }
    }

    /// Why there are none, in words. Blocks.
    pub(super) fn read(&self) -> Result<Figures, String> {
        let request = self.agent.get(&self.url);
        let request = match &self.authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        };
        let mut answer = request.call().map_err(|error| format!("{} cannot be read: {error}", self.url))?;
        if !answer.status().is_success() {
            return Err(format!("{} answers {}", self.url, answer.status().as_u16()));
        }
        let text = answer.body_mut().with_config().limit(METRICS_BYTES_MAX).read_to_string();
        let text = text.map_err(|error| format!("{} cannot be read: {error}", self.url))?;
        parse(&text).ok_or_else(|| format!("{} is not that of a WaspMQ broker", self.url))
    }
}

fn parse(text: &str) -> Option<Figures> {
    let metrics = Exposition::parse(text);
    let value = |name: &str| metrics.total(name).map(whole);
    Some(Figures {
        memory_bytes: value("process_resident_memory_bytes")?,
        sessions: value("waspmq_sessions")?,
    })
}

/// The memory of each of `opened` connections; an error where the sessions did not grow by as many, so that other clients, or another
/// broker, are in the figures.
pub(super) fn bytes_per_connection(before: Figures, after: Figures, opened: u64) -> Result<u64, String> {
    let grown = after.sessions.saturating_sub(before.sessions);
    if opened == 0 {
        return Err("no connection was opened".to_owned());
    }
    if grown < opened || grown > opened + opened / 20 {
        return Err(format!(
            "the sessions of the broker at --admin grew by {grown}, not {opened}; is it another broker, or are others connecting?"
        ));
    }
    Ok(after.memory_bytes.saturating_sub(before.memory_bytes) / grown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_their_whole_names() {
        let text = "# TYPE waspmq_sessions gauge\nwaspmq_sessions_opened_total 9\nwaspmq_sessions 7\n\
                    process_resident_memory_bytes 123456.0\n# EOF\n";
        assert_eq!(parse(text), Some(Figures { memory_bytes: 123_456, sessions: 7 }));
        assert_eq!(parse("waspmq_sessions 7\n"), None);
        assert_eq!(parse("<html>"), None);
    }

    #[test]
    fn only_what_these_connections_took_is_divided_among_them() {
        let figures = |memory_bytes, sessions| Figures { memory_bytes, sessions };
        let check = |after, opened, expected: Option<u64>| {
            let found = bytes_per_connection(figures(1_000_000, 5), after, opened);
            assert_eq!(found.as_ref().ok().copied(), expected, "{found:?}");
        };
        check(figures(1_400_000, 105), 100, Some(4_000));
        check(figures(1_400_000, 106), 100, Some(3_960));
        check(figures(900_000, 105), 100, Some(0));
        check(figures(1_400_000, 104), 100, None);
        check(figures(1_400_000, 205), 100, None);
        check(figures(1_400_000, 5), 0, None);
    }
}
