//! `waspmq sub`: messages as they come, one a line.

use super::DEFAULT_URL;
use super::failure::Failure;
use super::output;
use super::serve::Signals;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use waspmq_client::{Client, Content, Message};
use waspmq_core::{Kind, Pattern};

/// Receive messages, one a line
#[derive(Debug, Args)]
#[command(after_help = "\
A line is the address, the sender and the payload. Group addresses are joined, and the user stays a member.
Messages to the user's own address and to `all` come without being asked for.

Examples:
  waspmq sub 'topic/orders.>' user/alice --as alice
  waspmq sub topic/jobs --queue workers --json
  waspmq sub group/eng --as bob --count 1")]
pub(super) struct Arguments {
    /// user/NAME, group/NAME, topic/PATTERN or all
    #[arg(required = true)]
    addresses: Vec<String>,
    /// The user to receive as
    #[arg(long = "as", value_name = "USER", default_value = "cli")]
    user: String,
    /// Share the messages of the topics with the other members of this queue
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// End after this many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print each message as a JSON object
    #[arg(long)]
    json: bool,
    /// The broker
    #[arg(long, env = "WASPMQ_URL", default_value = DEFAULT_URL)]
    url: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut patterns = Vec::new();
    for address in &arguments.addresses {
        let pattern =
            Pattern::parse(address).map_err(|error| Failure::Usage(format!("{address}: {error}")))?;
        if arguments.queue.is_some() && pattern.kind() != Kind::Topic {
            return Err(Failure::Usage(format!("{address}: --queue is only possible with topics")));
        }
        patterns.push(pattern);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(receive(arguments, &patterns))
}

async fn receive(arguments: &Arguments, patterns: &[Pattern]) -> Result<(), Failure> {
    // From here on a signal ends the program in order, also one that comes before the first message.
    let mut signals = Signals::new()?;
    let (client, mut messages) = Client::builder(&arguments.url).user(&arguments.user).connect().await?;
    for pattern in patterns {
        ask(&client, pattern, arguments).await?;
    }
    output::note(format_args!("receiving from {} as {}; Ctrl-C ends it", arguments.url, arguments.user));
    let wanted = arguments.count.unwrap_or(u64::MAX);
    let mut received = 0;
    while received < wanted {
        // Biased, so that a flood of messages does not keep the program from ending. Both branches are cancel safe.
        let message = tokio::select! {
            biased;
            () = signals.next() => break,
            message = messages.recv() => message,
        };
        let Some(message) = message else { break };
        if is_wanted(&message, patterns) {
            output::line(format_args!(
                "{}",
                if arguments.json { as_json(&message) } else { as_text(&message) }
            ))?;
            received += 1;
        }
    }
    let stats = client.stats();
    if stats.overflowed > 0 {
        output::note(format_args!(
            "the broker dropped {} messages, because this reader was too slow",
            stats.overflowed
        ));
    }
    Ok(client.close().await?)
}

async fn ask(client: &Client, pattern: &Pattern, arguments: &Arguments) -> Result<(), waspmq_client::Error> {
    let (text, own) = (pattern.as_str(), format!("user/{}", arguments.user));
    match pattern.kind() {
        Kind::Group => client.join(text.trim_start_matches("group/")).await,
        Kind::All => Ok(()),
        Kind::User if text == own => Ok(()),
        // Another user's address is refused by the broker, in its words.
        Kind::User | Kind::Topic => client.subscribe(text, arguments.queue.as_deref()).await,
    }
}

/// The user's own messages and those to everyone come in any case, asked for or not. What a policy sent
/// elsewhere still carries the address it was published to, so only these two are left out.
fn is_wanted(message: &Message, patterns: &[Pattern]) -> bool {
    let is_asked = |kind| patterns.iter().any(|pattern| pattern.kind() == kind);
    match message.to.split_once('/').map_or(&*message.to, |(kind, _)| kind) {
        "user" => is_asked(Kind::User),
        "all" => is_asked(Kind::All),
        _ => true,
    }
}

fn as_text(message: &Message) -> String {
    let payload = match message.content {
        Content::Json => String::from_utf8_lossy(&message.payload).into_owned(),
        Content::Bytes => match str::from_utf8(&message.payload) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("base64:{}", STANDARD.encode(&message.payload)),
        },
    };
    let from = message.from.as_deref().unwrap_or("-");
    output::printable(&format!("{} {from} {payload}", message.to))
}

/// The fields of the protocol's JSON profile.
fn as_json(message: &Message) -> String {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("id", message.id.to_string().into());
    put("to", message.to.as_str().into());
    put("pos", message.position.to_string().into());
    put("ts", message.unix_ms.into());
    let texts = [
        ("from", &message.from),
        ("key", &message.key),
        ("reply_to", &message.reply_to),
        ("queue", &message.queue),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            put(name, text.as_str().into());
        }
    }
    if !message.headers.is_empty() {
        let headers = message.headers.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
        put("headers", Value::Object(headers.collect()));
    }
    let raw = match message.content {
        Content::Json => {
            String::from_utf8(message.payload.clone()).ok().and_then(|text| RawValue::from_string(text).ok())
        }
        Content::Bytes => None,
    };
    // A number of the payload must not lose digits, so JSON is put in as the text it is.
    let Some(raw) = raw else {
        put("payload_b64", STANDARD.encode(&message.payload).into());
        return Value::Object(fields).to_string();
    };
    let text = Value::Object(fields).to_string();
    format!("{},\"payload\":{raw}}}", text.strip_suffix('}').unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use waspmq_core::{MessageId, Position, Stream};

    fn message(to: &str, content: Content, payload: &[u8]) -> Message {
        Message {
            id: MessageId::from_bytes([1; 16]),
            to: to.to_owned(),
            from: Some("alice".to_owned()),
            position: Position { stream: Stream { shard: 3, epoch: 1 }, offset: 57 },
            content,
            payload: payload.to_vec(),
            headers: vec![("k".to_owned(), "v".to_owned())],
            key: None,
            priority: 0,
            reply_to: None,
            queue: Some("workers".to_owned()),
            attempt: None,
            unix_ms: 5,
        }
    }

    #[test]
    fn lines_are_lines() {
        let text = |content, payload: &[u8]| as_text(&message("topic/a", content, payload));
        assert_eq!(text(Content::Json, b"{\"a\":1}"), "topic/a alice {\"a\":1}");
        assert_eq!(text(Content::Bytes, b"a\nb\x1b"), "topic/a alice a\\nb\\u{1b}");
        assert_eq!(text(Content::Bytes, b"\xff"), "topic/a alice base64:/w==");
    }

    #[test]
    fn json_keeps_every_digit() {
        let text = as_json(&message("topic/a", Content::Json, b"[1.00000000000000000001]"));
        assert!(text.ends_with(",\"payload\":[1.00000000000000000001]}"), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&value["pos"], &value["queue"], &value["headers"]["k"]),
            (&json!("s3e1:57"), &json!("workers"), &json!("v"))
        );
        let bytes: Value =
            serde_json::from_str(&as_json(&message("topic/a", Content::Bytes, b"\xff"))).unwrap();
        assert_eq!((&bytes["payload_b64"], bytes.get("payload")), (&json!("/w=="), None));
    }

    #[test]
    fn what_comes_unasked_is_left_out() {
        let patterns = [Pattern::parse("topic/>").unwrap(), Pattern::parse("user/alice").unwrap()];
        let check = |to: &str, expected| {
            assert_eq!(is_wanted(&message(to, Content::Json, b"1"), &patterns), expected, "{to}");
        };
        check("user/alice", true);
        check("all", false);
        check("topic/elsewhere", true);
        check("group/eng", true);
    }
}
