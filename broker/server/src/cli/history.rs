//! `waspmq history`: stored messages of an address, through the admin API.

use super::api::Access;
use super::failure::Failure;
use super::output;
use clap::Args;
use serde_json::Value;

/// Show stored messages of an address
#[derive(Debug, Args)]
#[command(after_help = "\
A line is the position, the time, the sender and the payload. `--after` takes the position of the
last line seen.

Examples:
  waspmq history user/bob
  waspmq history topic/orders.eu --after s3e1:57 --limit 1000 --json")]
pub(super) struct Arguments {
    /// user/NAME, group/NAME, topic/TOKENS or all
    address: String,
    /// Only messages behind this position
    #[arg(long, value_name = "POSITION")]
    after: Option<String>,
    /// Messages at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    #[command(flatten)]
    access: Access,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let api = arguments.access.open()?;
    let after: Vec<_> = arguments.after.iter().map(|after| ("after", after.as_str())).collect();
    let messages = api.get_pages(&["history", &arguments.address], &after, "messages", arguments.limit)?;
    if arguments.access.json {
        return Ok(output::json(&messages)?);
    }
    for message in messages.as_array().into_iter().flatten() {
        output::line(format_args!("{}", line(message)))?;
    }
    Ok(())
}

fn line(message: &Value) -> String {
    let field = |name: &str| output::cell(message.get(name).unwrap_or_default());
    let payload = match (message.get("payload"), message.get("payload_b64")) {
        (Some(payload), _) => payload.to_string(),
        (None, Some(Value::String(base64))) => format!("base64:{base64}"),
        (None, _) => "-".to_owned(),
    };
    let time = output::time(message.get("ts").unwrap_or_default());
    output::printable(&format!("{} {time} {} {payload}", field("pos"), field("from")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_message_is_a_line() {
        let ts = 1_790_000_000_000_u64;
        let json = json!({"pos": "s1e2:3", "ts": ts, "from": "a", "payload": {"x": "1\n"}});
        assert_eq!(line(&json), "s1e2:3 2026-09-21T14:13:20Z a {\"x\":\"1\\n\"}");
        let bytes = json!({"pos": "s1e2:3", "ts": ts, "from": null, "payload_b64": "/w=="});
        assert_eq!(line(&bytes), "s1e2:3 2026-09-21T14:13:20Z - base64:/w==");
    }
}
