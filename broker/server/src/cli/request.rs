//! `waspmq req`: a request to another client, and its reply.

use super::DEFAULT_URL;
use super::failure::Failure;
use super::identity::Identity;
use super::output;
use super::publish;
use super::subscribe;
use clap::Args;
use std::time::Duration;
use waspmq_client::{Client, PublishOptions};
use waspmq_core::Address;

/// Publish a request and print the first reply
#[derive(Debug, Args)]
#[command(after_help = "\
The request carries `reply_to`, this user's own address, and the header `correlation-id`. Whoever
answers publishes to the one and carries the other back: the client libraries do with `reply`, the
command line with `waspmq sub --reply`. In a queue, one member gets the request.

Examples:
  waspmq req topic/time.now '{}' --timeout 2
  waspmq sub topic/time.now --queue clocks --reply '\"noon\"'")]
pub(super) struct Arguments {
    /// user/NAME, group/NAME, topic/TOKENS or all
    address: String,
    /// The payload, or - to read it from standard input
    #[arg(allow_hyphen_values = true)]
    payload: String,
    #[command(flatten)]
    identity: Identity,
    /// Seconds to wait for the reply
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// A header; may be given several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = publish::parse_header)]
    headers: Vec<(String, String)>,
    /// The partition key: in a queue, requests with the same key go to the same member
    #[arg(long)]
    key: Option<String>,
    /// Send the payload as bytes, whatever it is
    #[arg(long)]
    bytes: bool,
    /// Print the whole reply as a JSON object
    #[arg(long)]
    json: bool,
    /// The broker: ws://host:port/ws, wss://host:port/ws, quic://host:port or wt://host:port/wt
    #[arg(long, env = "WASPMQ_URL", default_value = DEFAULT_URL)]
    url: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    Address::check(&arguments.address)
        .map_err(|error| Failure::Usage(format!("{}: {error}", arguments.address)))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask(arguments))
}

async fn ask(arguments: &Arguments) -> Result<(), Failure> {
    let payload = publish::payload(publish::read(&arguments.payload)?, arguments.bytes)?;
    let options = PublishOptions {
        headers: arguments.headers.clone(),
        key: arguments.key.clone(),
        ..PublishOptions::default()
    };
    let (client, messages) = arguments.identity.tell(Client::builder(&arguments.url)).connect().await?;
    // Other messages to this user are for other programs.
    drop(messages);
    let timeout = Duration::from_secs(arguments.timeout);
    let asked = client.request(&arguments.address, payload, options, timeout).await;
    let closed = client.close().await;
    let reply = asked?;
    closed?;
    let text = if arguments.json { subscribe::as_json(&reply) } else { subscribe::payload_text(&reply) };
    Ok(output::line(format_args!("{text}"))?)
}
