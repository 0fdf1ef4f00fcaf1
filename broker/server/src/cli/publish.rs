//! `waspmq pub`: one message.

use super::DEFAULT_URL;
use super::failure::Failure;
use super::identity::Identity;
use super::output;
use anyhow::Context;
use clap::Args;
use serde_json::json;
use std::io::Read;
use waspmq_client::{Client, Level, Payload, PublishOptions};
use waspmq_core::Address;
use waspmq_core::limits::MESSAGE_BYTES_MAX;

/// Publish a message
#[derive(Debug, Args)]
#[command(after_help = "\
A payload that is JSON is sent as it is, other text as a JSON string; --bytes sends it as bytes.

Examples:
  waspmq pub user/bob '{\"text\":\"hi\"}' --as alice
  waspmq pub topic/orders.eu 'created' --header source=shop --key order-7
  waspmq pub user/bob 'lunch?' --ack delivered --ttl-ms 60000
  waspmq pub topic/bills '{\"n\":7}' --ack stored --dedup bill-7 --delay-ms 5000
  waspmq pub all - --bytes < picture.png")]
pub(super) struct Arguments {
    /// user/NAME, group/NAME, topic/TOKENS or all
    address: String,
    /// The payload, or - to read it from standard input
    #[arg(allow_hyphen_values = true)]
    payload: String,
    #[command(flatten)]
    identity: Identity,
    /// How far the message must get before this command ends
    #[arg(long, value_parser = parse_level, default_value = "accepted", value_name = "none|accepted|stored|delivered")]
    ack: Level,
    /// The broker: ws://host:port/ws, wss://host:port/ws, quic://host:port or wt://host:port/wt
    #[arg(long, env = "WASPMQ_URL", default_value = DEFAULT_URL)]
    url: String,
    /// A header; may be given several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// The partition key: in a queue, messages with the same key go to the same member
    #[arg(long)]
    key: Option<String>,
    /// Publishes with the same key to the same address count once within the broker's window
    #[arg(long, value_name = "KEY")]
    dedup: Option<String>,
    /// Milliseconds after which the message is of no more use; 0 is none
    #[arg(long, value_name = "MS")]
    ttl_ms: Option<u64>,
    /// Milliseconds to wait before it is delivered
    #[arg(long, value_name = "MS", default_value_t = 0)]
    delay_ms: u64,
    /// 0 to 9 (first)
    #[arg(long, value_name = "0-9", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: u8,
    /// The address that replies go to
    #[arg(long, value_name = "ADDRESS")]
    reply_to: Option<String>,
    /// Over QUIC and with --ack none, send it as a datagram, which may be lost
    #[arg(long)]
    datagrams: bool,
    /// Over QUIC, send a long message on a stream of its own
    #[arg(long)]
    streams: bool,
    /// Send the payload as bytes, whatever it is
    #[arg(long)]
    bytes: bool,
    /// Print the receipt as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    Address::check(&arguments.address)
        .map_err(|error| Failure::Usage(format!("{}: {error}", arguments.address)))?;
    let payload = payload(read(&arguments.payload)?, arguments.bytes)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(publish(arguments, payload))
}

async fn publish(arguments: &Arguments, payload: Payload) -> Result<(), Failure> {
    let options = PublishOptions {
        ack: arguments.ack,
        headers: arguments.headers.clone(),
        key: arguments.key.clone(),
        dedup: arguments.dedup.clone(),
        ttl_ms: arguments.ttl_ms,
        delay_ms: arguments.delay_ms,
        priority: arguments.priority,
        reply_to: arguments.reply_to.clone(),
        ..PublishOptions::default()
    };
    if arguments.datagrams && arguments.ack != Level::None {
        return Err(Failure::Usage(
            "--datagrams needs --ack none: nobody knows whether a datagram came".to_owned(),
        ));
    }
    let builder = arguments.identity.tell(Client::builder(&arguments.url));
    let builder = if arguments.datagrams { builder.datagrams() } else { builder };
    let builder = if arguments.streams { builder.streams() } else { builder };
    let (client, messages) = builder.connect().await?;
    // Messages to this user are for other programs.
    drop(messages);
    let publishing = async {
        if arguments.ack == Level::None {
            client.send(&arguments.address, payload, options).await?;
            if arguments.datagrams {
                // The goodbye would be heard before a datagram that is not looked at yet.
                client.ping().await?;
            }
            return Ok(None);
        }
        client.publish(&arguments.address, payload, options).await?.await.map(Some)
    };
    let published = publishing.await;
    // Whatever came of it, the broker is told: over QUIC nothing else does that for a program that ends.
    let closed = client.close().await;
    let published = published?;
    closed?;
    let Some(receipt) = published else { return Ok(()) };
    let (id, level, recipients) = (receipt.id, receipt.level.as_str(), receipt.recipients);
    if arguments.json {
        let document = json!({ "id": id.to_string(), "level": level, "recipients": recipients });
        output::line(format_args!("{document}"))?;
    } else {
        output::line(format_args!("{level} {id}, recipients: {recipients}"))?;
    }
    Ok(())
}

/// The bytes that were asked for. One more than may be sent is enough to be told so.
pub(super) fn read(payload: &str) -> anyhow::Result<Vec<u8>> {
    if payload != "-" {
        return Ok(payload.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    let limit = MESSAGE_BYTES_MAX as u64 + 1;
    std::io::stdin().lock().take(limit).read_to_end(&mut bytes).context("cannot read standard input")?;
    Ok(bytes)
}

pub(super) fn payload(bytes: Vec<u8>, is_bytes: bool) -> Result<Payload, Failure> {
    if is_bytes {
        return Ok(Payload::bytes(bytes));
    }
    if serde_json::from_slice::<&serde_json::value::RawValue>(&bytes).is_ok() {
        return Ok(Payload::json_text(bytes));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::Usage("the payload is not text; send it with --bytes".to_owned()))?;
    Ok(Payload::json(text.trim_end_matches('\n'))?)
}

fn parse_level(text: &str) -> Result<Level, String> {
    Level::parse(text).ok_or_else(|| "expected none, accepted, stored or delivered".to_owned())
}

pub(super) fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    if name.is_empty() {
        Err("the name is empty".to_owned())
    } else {
        Ok((name.to_owned(), value.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_goes_as_it_is_and_text_as_a_string() {
        let check =
            |text: &str, expected| assert_eq!(payload(text.into(), false).unwrap(), expected, "{text:?}");
        check(r#"{"a": 1}"#, Payload::json_text(r#"{"a": 1}"#));
        check("42", Payload::json_text("42"));
        check("hi", Payload::json_text("\"hi\""));
        check("two words\n", Payload::json_text("\"two words\""));
        check("", Payload::json_text("\"\""));
        assert_eq!(payload(b"42".to_vec(), true).unwrap(), Payload::bytes("42"));
        assert!(matches!(payload(vec![0xff], false), Err(Failure::Usage(_))));
    }

    #[test]
    fn headers_have_a_name() {
        assert_eq!(parse_header("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse_header("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse_header("a").is_err() && parse_header("=a").is_err());
    }
}
