//! The page that a browser finds at `/`: whether the broker runs, and where to go from there. No script, no token.

use super::Handlers;
use super::health::Status;
use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

/// Nothing is loaded from anywhere, and nobody may frame the page.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "
:root { color-scheme: light dark }
body { font: 1rem/1.6 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .5rem; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent) }
th { font-weight: 500; width: 40% }
code { font-family: ui-monospace, monospace }
";

/// A page for people. No token from loopback.
#[utoipa::path(get, path = "/", tag = "health", security((), ("token" = [])), responses((status = 200, description = "status page", content_type = "text/html")))]
pub(crate) async fn page(State(shared): Handlers) -> Response {
    let status = Status::of(&shared.state.control);
    ([(header::CONTENT_SECURITY_POLICY, CONTENT_POLICY)], Html(render(&status))).into_response()
}

fn render(status: &Status) -> String {
    let rows: String = [
        ("Phase", status.phase.to_owned()),
        ("Node", status.node.clone()),
        ("Version", status.version.to_owned()),
        ("Up for", duration(status.uptime_ms / 1_000)),
        ("Workers", status.workers.to_string()),
        ("Connections", status.connections.to_string()),
        ("Sessions", status.sessions.to_string()),
        ("Policy generation", status.generation.to_string()),
    ]
    .iter()
    .map(|(name, value)| format!("<tr><th>{name}</th><td>{}</td></tr>\n", escape(value)))
    .collect();
    format!(
        "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<meta http-equiv=\"refresh\" content=\"10\">
<title>WaspMQ: {phase}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>WaspMQ is running</h1>
<table>
{rows}</table>
<h2>For probes and Prometheus</h2>
<ul>
<li><a href=\"/healthz\">/healthz</a>: the process lives</li>
<li><a href=\"/readyz\">/readyz</a>: clients are served</li>
<li><a href=\"/metrics\">/metrics</a>: OpenMetrics</li>
</ul>
<h2>With the admin token</h2>
<p>The API is described at <code>/v1/openapi.json</code>; the command line uses it, too:</p>
<pre><code>waspmq session list
waspmq policy list
curl -H \"Authorization: Bearer $(cat waspmq-data/admin-token)\" http://127.0.0.1:9471/v1/status</code></pre>
</body>
</html>
",
        phase = escape(status.phase)
    )
}

/// Days, hours, minutes and seconds, without leading zeros.
fn duration(seconds: u64) -> String {
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let shown = parts.iter().skip_while(|(count, unit)| *count == 0 && *unit != "s");
    shown.map(|(count, unit)| format!("{count} {unit}")).collect::<Vec<_>>().join(" ")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |seconds, expected: &str| assert_eq!(duration(seconds), expected);
        check(0, "0 s");
        check(59, "59 s");
        check(3_600, "1 h 0 min 0 s");
        check(90_061, "1 d 1 h 1 min 1 s");
    }

    #[test]
    fn values_are_escaped() {
        let status = Status {
            node: "<script>&\"".to_owned(),
            version: "1",
            phase: "ready",
            uptime_ms: 0,
            workers: 1,
            connections: 0,
            sessions: 0,
            generation: 0,
            epoch: 1,
        };
        let page = render(&status);
        assert!(page.contains("&lt;script&gt;&amp;&quot;") && !page.contains("<script"));
    }
}
