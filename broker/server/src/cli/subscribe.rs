//! `waspmq sub`: messages as they come, one a line.

use super::DEFAULT_URL;
use super::failure::Failure;
use super::identity::Identity;
use super::output;
use super::publish;
use super::serve::Signals;
use anyhow::anyhow;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use waspmq_client::{
    CORRELATION_ID, Client, Content, Event, From, Message, Messages, Payload, PublishOptions,
};
use waspmq_core::{Kind, Pattern};

/// Bytes of lines that are written in one go. Who stops reading has not been given much more than they read.
const LINES_BYTES: usize = 4 * 1024;

/// Receive messages, one a line
#[derive(Debug, Args)]
#[command(after_help = "\
A line is the address, the sender and the payload. Group addresses are joined, and the user stays
a member. --from begins with stored messages: with the oldest, with the last one, at a time (RFC
3339, or milliseconds since 1970), or behind a position as in `pos`. A message that the broker
repeats is printed once. When the broker has taken away everything that was asked for, because the
rules have changed, the command fails.

A message is acknowledged once its line is written. Messages to the user's own address, to groups
that the user is in and to `all` come in any case and are only printed when that is asked for; else
they are left to the user's other sessions, are not acknowledged, and what is stored of them waits.

--reply answers messages that have a `reply_to`, as `waspmq req` sends them: it publishes this
payload there, with the request's `correlation-id`.

Examples:
  waspmq sub 'topic/orders.>' user/alice --as alice
  waspmq sub topic/jobs --queue workers --json
  waspmq sub group/eng --as bob --count 1
  waspmq sub topic/orders.eu --from 2026-01-31T12:00:00Z
  waspmq sub user/bob --as bob --device phone --from earliest
  waspmq sub topic/time.now --queue clocks --reply '\"noon\"'")]
pub(super) struct Arguments {
    /// user/NAME, group/NAME, topic/PATTERN or all
    #[arg(required = true)]
    addresses: Vec<String>,
    #[command(flatten)]
    identity: Identity,
    /// Share the messages of the topics with the other members of this queue
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// Where to begin; with --queue, where a queue begins that is not known yet
    #[arg(long, value_name = "now|earliest|last|TIME|POSITION", default_value = "now", value_parser = From::parse, hide_default_value = true)]
    from: From,
    /// Answer requests with this payload
    #[arg(long, value_name = "PAYLOAD")]
    reply: Option<String>,
    /// Ask for compressed messages
    #[arg(long)]
    compress: bool,
    /// Over QUIC, take messages that may be lost as datagrams
    #[arg(long)]
    datagrams: bool,
    /// Over QUIC, take long messages that are not stored on streams of their own
    #[arg(long)]
    streams: bool,
    /// End after this many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print each message as a JSON object
    #[arg(long)]
    json: bool,
    /// The broker: ws://host:port/ws, wss://host:port/ws, quic://host:port or wt://host:port/wt
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
        if matches!(arguments.from, From::Position(_)) && pattern.is_wildcard() {
            return Err(Failure::Usage(format!("{address}: a position is in one address; begin at a time")));
        }
        patterns.push(pattern);
    }
    let reply = arguments.reply.as_ref().map(|text| publish::payload(text.clone().into_bytes(), false));
    let reply = reply.transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let received = runtime.block_on(receive(arguments, &patterns, reply.as_ref()));
    // A write that nobody reads is not waited for.
    runtime.shutdown_background();
    received
}

async fn receive(
    arguments: &Arguments,
    patterns: &[Pattern],
    reply: Option<&Payload>,
) -> Result<(), Failure> {
    // From here on a signal ends the program in order, also one that comes before the first message.
    let mut signals = Signals::new()?;
    let builder = arguments.identity.tell(Client::builder(&arguments.url)).manual_acks();
    let builder = if arguments.compress { builder.compression() } else { builder };
    let builder = if arguments.datagrams { builder.datagrams() } else { builder };
    let builder = if arguments.streams { builder.streams() } else { builder };
    // Each is cancel safe, or nothing of it is needed any more. Biased, so that what was written is acknowledged.
    let connected = tokio::select! {
        biased;
        connected = builder.connect() => connected?,
        () = signals.next() => return Ok(()),
    };
    let (client, mut messages) = connected;
    let received = tokio::select! {
        biased;
        received = print(arguments, (patterns, reply), (&client, &mut messages)) => received,
        () = signals.next() => Ok(()),
    };
    let stats = client.stats();
    if stats.overflowed > 0 {
        output::note(format_args!(
            "the broker dropped {} messages, because this reader was too slow",
            stats.overflowed
        ));
    }
    // What was not printed is not acknowledged. It must not stand before the broker's last word.
    drop(messages);
    // Whatever came of it, the broker is told: over QUIC nothing else does that for a program that ends.
    let closed = tokio::select! {
        biased;
        closed = client.close() => closed,
        // A broker that is gone is not waited for by who is in a hurry.
        () = signals.next() => Ok(()),
    };
    received?;
    // An error that ended the session was one of these, and is told by itself.
    closed?;
    Ok(())
}

/// Asks for what is wanted, and prints it until there was enough of it or the client has ended. A write that is left alone ends with the
/// program at the latest.
async fn print(
    arguments: &Arguments,
    (patterns, reply): (&[Pattern], Option<&Payload>),
    (client, messages): (&Client, &mut Messages),
) -> Result<(), Failure> {
    let mut events = client.events();
    let mut asking = pin!(ask_all(client, patterns, arguments));
    let mut is_asked = false;
    let mut left: Vec<_> = patterns.iter().collect();
    let wanted = arguments.count.unwrap_or(u64::MAX);
    let mut printed = 0;
    while printed < wanted {
        // Biased, so that a flood of messages hides no answer and no event. All branches are cancel safe. Answers come behind what is
        // stored and was asked for first, so messages are taken meanwhile.
        let message = tokio::select! {
            biased;
            asked = &mut asking, if !is_asked => {
                asked?;
                is_asked = true;
                let user = arguments.identity.user().unwrap_or("the token's user");
                output::note(format_args!("receiving from {} as {user}; Ctrl-C ends it", arguments.url));
                continue;
            }
            Some(event) = events.recv() => {
                tell(&event);
                if let Event::Refused { of: Some(address), .. } = &event {
                    left.retain(|pattern| pattern.as_str() != address);
                }
                if left.is_empty() {
                    return Err(Failure::Failed(anyhow!("the broker has taken away everything that was asked for")));
                }
                continue;
            }
            message = messages.recv() => message,
        };
        let Some(message) = message else { break };
        let (taken, lines) = gather(arguments, patterns, (message, messages), (client, wanted - printed));
        // Not on the thread that keeps the connection alive and hears signals, for who reads the lines may take their time.
        tokio::task::spawn_blocking(move || output::lines(&lines)).await??;
        printed += taken.len() as u64;
        for message in taken {
            if let Some(payload) = reply {
                answer(client, &message, payload).await?;
            }
            // All of its address that came before it was printed, too.
            client.ack_in_order(&message);
        }
    }
    Ok(())
}

/// What is written in one go: of the messages that are here, so many at most, as many as fill [`LINES_BYTES`].
fn gather(
    arguments: &Arguments,
    patterns: &[Pattern],
    (first, messages): (Message, &mut Messages),
    (client, most): (&Client, u64),
) -> (Vec<Message>, String) {
    let (mut taken, mut lines) = (Vec::new(), String::new());
    let mut next = Some(first);
    while let Some(message) = next {
        if is_wanted(&message, patterns) {
            lines.push_str(&if arguments.json { as_json(&message) } else { as_text(&message) });
            lines.push('\n');
            taken.push(message);
        } else {
            client.pass_over(&message);
        }
        let is_full = taken.len() as u64 >= most || lines.len() >= LINES_BYTES;
        next = if is_full { None } else { messages.try_recv() };
    }
    (taken, lines)
}

/// Says what happened besides messages: that the connection was another one for a while, so that what came meanwhile may be missing,
/// and what the broker refused or took away.
fn tell(event: &Event) {
    match event {
        Event::Reconnected { recovered, .. } => {
            let missed = if *recovered { "nothing was missed" } else { "messages may have been missed" };
            output::note(format_args!("the connection was lost and made again; {missed}"));
        }
        Event::Refused { of, refusal } => {
            output::note(format_args!("{}", refused(of.as_deref(), refusal.clone())));
        }
        Event::Presence(_) | Event::Read(_) | Event::Overflow(_) | Event::Missed(_) => {}
    }
}

/// What the broker refused or took away; without an address it may be a reply, or the session itself.
fn refused(of: Option<&str>, refusal: waspmq_client::Refusal) -> String {
    let refused = waspmq_client::Error::Refused(refusal);
    match of {
        Some(of) => format!("the broker refused {of}: {refused}"),
        None => format!("the broker says: {refused}"),
    }
}

/// Replies to a request; a message that is none is left alone. Without a receipt, because receipts are read in turn
/// with messages, which nobody takes meanwhile.
async fn answer(client: &Client, request: &Message, payload: &Payload) -> Result<(), waspmq_client::Error> {
    let Some(to) = &request.reply_to else { return Ok(()) };
    let correlation = request.headers.iter().find(|(name, _)| name == CORRELATION_ID);
    let options =
        PublishOptions { headers: correlation.into_iter().cloned().collect(), ..PublishOptions::default() };
    client.send(to, payload.clone(), options).await
}

/// Asks for everything in one go: what several patterns match comes once then.
async fn ask_all(
    client: &Client,
    patterns: &[Pattern],
    arguments: &Arguments,
) -> Result<(), waspmq_client::Error> {
    let mut asks: Vec<_> = patterns.iter().map(|pattern| Box::pin(ask(client, pattern, arguments))).collect();
    poll_fn(|context| {
        let mut asked = Ok(());
        asks.retain_mut(|ask| match ask.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(refused) => {
                asked = refused;
                false
            }
        });
        if asked.is_ok() && !asks.is_empty() { Poll::Pending } else { Poll::Ready(asked) }
    })
    .await
}

async fn ask(client: &Client, pattern: &Pattern, arguments: &Arguments) -> Result<(), waspmq_client::Error> {
    let text = pattern.as_str();
    let own = arguments.identity.user().map(|user| format!("user/{user}"));
    let comes_unasked = match pattern.kind() {
        Kind::Group => {
            client.join(text.trim_start_matches("group/")).await?;
            true
        }
        Kind::All => true,
        // Another user's address is refused by the broker, in its words.
        Kind::User => own.is_some_and(|own| own == text),
        Kind::Topic => false,
    };
    if comes_unasked && arguments.from == From::Now {
        return Ok(());
    }
    client.subscribe_from(text, arguments.queue.as_deref(), arguments.from).await
}

/// The user's own messages, those of the user's groups and those to everyone come in any case: what is not asked for is for other programs.
fn is_wanted(message: &Message, patterns: &[Pattern]) -> bool {
    patterns.iter().any(|pattern| pattern.covers(&message.to))
}

fn as_text(message: &Message) -> String {
    let from = message.from.as_deref().unwrap_or("-");
    format!("{} {}", output::printable(&format!("{} {from}", message.to)), payload_text(message))
}

/// The payload on one line.
pub(super) fn payload_text(message: &Message) -> String {
    let payload = match message.content {
        Content::Json => String::from_utf8_lossy(&message.payload).into_owned(),
        Content::Bytes => match str::from_utf8(&message.payload) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("base64:{}", STANDARD.encode(&message.payload)),
        },
    };
    output::printable(&payload)
}

/// The fields of the protocol's JSON profile.
pub(super) fn as_json(message: &Message) -> String {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("id", message.id.to_string().into());
    put("to", message.to.as_str().into());
    put("pos", message.position.to_string().into());
    put("ts", message.unix_ms.into());
    if message.wants_ack {
        put("ack", true.into());
    }
    if let Some(attempt) = message.attempt {
        put("attempt", attempt.into());
    }
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
            packed: None,
            headers: vec![("k".to_owned(), "v".to_owned())],
            key: None,
            priority: 0,
            reply_to: None,
            queue: Some("workers".to_owned()),
            attempt: None,
            wants_ack: false,
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
    fn json_tells_repeats_and_acks() {
        let json = |message: &Message| serde_json::from_str::<Value>(&as_json(message)).unwrap();
        let first = json(&message("topic/a", Content::Json, b"1"));
        assert_eq!((first.get("attempt"), first.get("ack")), (None, None));
        let repeat = Message { attempt: Some(2), wants_ack: true, ..message("topic/a", Content::Json, b"1") };
        assert_eq!((&json(&repeat)["attempt"], &json(&repeat)["ack"]), (&json!(2), &json!(true)));
    }

    #[test]
    fn a_refusal_without_an_address_is_of_nothing_in_particular() {
        let (name, message) = ("token_expired".to_owned(), "it has ended".to_owned());
        let refusal = waspmq_client::Refusal { number: 1403, name, message, retry_ms: 0 };
        assert_eq!(refused(None, refusal.clone()), "the broker says: token_expired (1403): it has ended");
        let of = refused(Some("topic/a"), refusal);
        assert_eq!(of, "the broker refused topic/a: token_expired (1403): it has ended");
    }

    #[test]
    fn what_comes_unasked_is_left_out() {
        let patterns = ["topic/a.>", "user/alice", "group/eng"].map(|text| Pattern::parse(text).unwrap());
        let check = |to: &str, expected| {
            assert_eq!(is_wanted(&message(to, Content::Json, b"1"), &patterns), expected, "{to}");
        };
        check("user/alice", true);
        check("all", false);
        check("topic/a.b", true);
        check("group/eng", true);
        check("group/ops", false);
    }
}
