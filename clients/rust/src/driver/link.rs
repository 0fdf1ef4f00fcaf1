//! From a URL to a welcome.

use super::route::{Opened, Route};
use super::socket::{Inbound, Receiver, Sender};
use crate::builder::Builder;
use crate::error::Error;
use crate::limits::CONNECT_TIMEOUT;
use crate::transport::Transport;
use waspmq_protocol::client::Resume;
use waspmq_protocol::server::{Received, Welcome};
use waspmq_protocol::{Profile, Secret, decode};

/// A connection whose `connect` was accepted.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) transport: Transport,
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    pub(crate) welcome: Welcome,
    /// Frames that came in the same message as the welcome.
    pub(crate) rest: Vec<Received>,
}

/// One attempt.
///
/// # Errors
/// When there is no token, no connection, or no welcome.
pub(crate) async fn connect(
    settings: &Builder,
    route: &mut Route,
    token: Option<Secret<'static>>,
    resume: Option<Resume<'static>>,
    codecs: &[String],
) -> Result<Link, Error> {
    let url = &settings.url;
    let timeout = || Error::Timeout { url: url.clone(), seconds: CONNECT_TIMEOUT.as_secs() };
    tokio::time::timeout(CONNECT_TIMEOUT, attempt(settings, route, token, resume, codecs))
        .await
        .unwrap_or_else(|_| Err(timeout()))
}

async fn attempt(
    settings: &Builder,
    route: &mut Route,
    token: Option<Secret<'static>>,
    resume: Option<Resume<'static>>,
    codecs: &[String],
) -> Result<Link, Error> {
    let token = match &settings.provider {
        Some(provider) => Some(provider.token().await?),
        None => token,
    };
    let connect_frame = settings.connect_frame(token, resume, codecs)?;
    let mut opened = route.open().await?;
    // A broker that has no room says so and closes without having read: what it said is found by reading.
    let sent = opened.sender.send(settings.profile, connect_frame).await;
    match welcomed(settings, route, opened).await {
        Err(Error::Connect { url, message }) => {
            Err(Error::Connect { url, message: sent.err().map_or(message, |broken| broken.0) })
        }
        welcomed => welcomed,
    }
}

/// Reads up to the answer to `connect`.
async fn welcomed(settings: &Builder, route: &mut Route, opened: Opened) -> Result<Link, Error> {
    let Opened { url, transport, sender, mut receiver } = opened;
    let failed = |message: String| Error::Connect { url: url.clone(), message };
    let (mut complaint, mut said) = (None, None);
    loop {
        let frames = match receiver.next().await.explained(said.clone()) {
            Inbound::Message(bytes) => {
                route.handle_answer();
                decoded(settings.profile, &bytes)
            }
            Inbound::SignOfLife => continue,
            Inbound::Closed { code, reason } => {
                route.handle_answer();
                return Err(match complaint {
                    Some(refusal) => Error::Refused(refusal),
                    None if (4000..4100).contains(&code) => Error::Closed { code, reason, refusal: None },
                    None => failed(format!("the broker closed with code {code}: {reason}")),
                });
            }
            Inbound::Ended(message) => {
                return Err(complaint.map_or_else(|| failed(message), Error::Refused));
            }
        };
        let mut frames = frames.into_iter();
        while let Some(frame) = frames.next() {
            match frame {
                Received::Welcome(welcome) => {
                    let rest = frames.collect();
                    receiver.begin_session();
                    return Ok(Link { transport, sender, receiver, welcome, rest });
                }
                Received::Error { refusal, .. } if refusal.code().is_some_and(|code| code.closes()) => {
                    complaint = Some(refusal);
                }
                // The connection stays open, but this `connect` will not be accepted.
                Received::Error { refusal, .. } => return Err(Error::Refused(refusal)),
                Received::Close(close) => said = Some(close),
                _ => {}
            }
        }
    }
}

/// The frames of a message. What cannot be decoded is left out with the rest of its message: the broker may be newer than
/// this library.
pub(super) fn decoded(profile: Profile, mut bytes: &[u8]) -> Vec<Received> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let decoded = match profile {
            Profile::Json => decode::server_json(bytes),
            Profile::Binary => decode::server_binary(bytes),
        };
        let Ok((frame, consumed)) = decoded else { break };
        frames.push(frame);
        bytes = bytes.get(consumed.max(1)..).unwrap_or_default();
    }
    frames
}
