//! The one task of a client: from connection to connection until it ends for good.
//!
//! | state | event | next |
//! | --- | --- | --- |
//! | serving | connection lost, close code 4100 to 4199 or any other | waiting for the backoff |
//! | serving | `goaway`, all answers in | waiting as long as the broker asked |
//! | serving | close code 4004 (`token_expired`), and there is a token provider | waiting for the backoff |
//! | serving | any other close code 4000 to 4099 | ended |
//! | serving, waiting | the program closes the client | ended |
//! | waiting | connected, the session goes on | serving, after asking for what this session was not given yet |
//! | waiting | connected, a new session | serving, after asking for all subscriptions, groups and watches again |
//! | waiting | refused for good; with a token provider, a fresh token refused twice | ended |

#[cfg(feature = "quic")]
mod lessons;
mod link;
#[cfg(feature = "quic")]
mod own;
#[cfg(feature = "quic")]
mod quic;
mod read;
mod route;
mod socket;
#[cfg(feature = "quic")]
mod stream;
mod websocket;
mod write;

pub(crate) use link::connect;
pub(crate) use route::Route;
pub(crate) use websocket::HTTP;

use crate::backoff::random;
use crate::builder::Builder;
use crate::codecs::Codecs;
use crate::error::Error;
use crate::limits::{CLOSE_TIMEOUT, STABLE_AFTER, TOKEN_ATTEMPTS_MAX};
use crate::shared::Shared;
use crate::waiting::Waiting;
use link::Link;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use waspmq_core::{Close, Code};
use waspmq_protocol::server::Message;

/// The close code of a session whose token ended.
const TOKEN_EXPIRED: u16 = Close::TokenExpired.number();

/// What the handle asks for.
#[derive(Debug)]
pub(crate) enum Command {
    Request {
        bytes: Vec<u8>,
        answer: (u64, Waiting),
    },
    /// Without an answer it may be lost.
    Publish {
        bytes: Vec<u8>,
        priority: u8,
        answer: Option<(u64, Waiting)>,
    },
    Ping(oneshot::Sender<Duration>),
    /// Everything before it has been written: say goodbye.
    Close,
}

/// Why a connection was left.
#[derive(Debug)]
enum Left {
    /// The other side is gone.
    Lost,
    /// The other side takes nothing any more. Why may be read behind what it sent before.
    Broken,
    /// Goodbye was said; the other side closes.
    Finished { for_good: bool },
    /// The broker closed with this code.
    Closed { code: u16, reason: String },
}

/// Owns everything about the connection.
#[derive(Debug)]
pub(crate) struct Driver {
    settings: Builder,
    route: Route,
    codecs: Codecs,
    commands: mpsc::Receiver<Command>,
    messages: mpsc::Sender<Message>,
    shared: Arc<Shared>,
}

impl Driver {
    pub(crate) fn new(
        (settings, route, codecs): (Builder, Route, Codecs),
        commands: mpsc::Receiver<Command>,
        messages: mpsc::Sender<Message>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { settings, route, codecs, commands, messages, shared }
    }

    /// Ends when the client does; the reason is in [`Shared::end`].
    pub(crate) async fn run(mut self, first: Link) {
        let mut link = first;
        let mut attempt = 0;
        let end = loop {
            let since = Instant::now();
            let left = self.serve(link).await;
            let (goaway_ms, complaint) = self.shared.take_farewell();
            match left {
                Left::Finished { for_good: true } => break Error::Ended,
                Left::Closed { code, .. } if code == TOKEN_EXPIRED && self.settings.provider.is_some() => {}
                Left::Closed { code: code @ 4000..=4099, reason } => {
                    break Error::Closed { code, reason, refusal: complaint };
                }
                Left::Lost | Left::Broken | Left::Finished { for_good: false } | Left::Closed { .. } => {}
            }
            self.shared.fail_all(&Error::ConnectionLost);
            if since.elapsed() >= STABLE_AFTER {
                attempt = 0;
            }
            link = match self.reconnect(goaway_ms, &mut attempt).await {
                Ok(link) => link,
                Err(error) => break error,
            };
        };
        self.commands.close();
        self.shared.handle_end(end);
    }

    /// Serves one connection until it is left.
    async fn serve(&mut self, link: Link) -> Left {
        let Self { settings, codecs, commands, messages, shared, .. } = self;
        codecs.begin();
        let (mut sender, mut receiver) = (link.sender, link.receiver);
        let heard = read::Heard::new();
        let mut reader = read::Reader {
            profile: settings.profile,
            codecs,
            messages,
            shared,
            heard: &heard,
            pending: link.rest.into(),
            said: None,
        };
        let may_be_silent = sender.notices_silence();
        let mut writer = write::Writer { profile: settings.profile, sender: &mut sender, shared };
        let heartbeat = Duration::from_millis(u64::from(link.welcome.heartbeat_ms.max(1)));
        // Silence is watched beside the writer, which may be waiting for a broker that is gone.
        let left = tokio::select! {
            left = reader.read(&mut receiver) => left,
            left = writer.write(commands, heartbeat) => left,
            () = heard.silence(2 * heartbeat), if !may_be_silent => Left::Lost,
        };
        let Left::Finished { for_good } = left else {
            // Who could not write may not have read why.
            let left = match (left, receiver.why_closed()) {
                (Left::Lost | Left::Broken, Some((code, reason))) => Left::Closed { code, reason },
                (Left::Broken, None) => reader.read_rest(&mut receiver).await,
                (left, _) => left,
            };
            return reader.explained(left);
        };
        // Until the broker has closed, what it sends still counts.
        sender.finish().await;
        let after = tokio::time::timeout(CLOSE_TIMEOUT, reader.read(&mut receiver)).await;
        if for_good {
            receiver.end().await;
            return left;
        }
        reader.explained(after.unwrap_or(left))
    }

    /// Connects again and again, and gives up only when the broker refuses for good or the program ends.
    async fn reconnect(&mut self, goaway_ms: Option<u32>, attempt: &mut u32) -> Result<Link, Error> {
        let mut asked_ms = goaway_ms;
        let mut tokens_refused = 0;
        loop {
            let wait = match asked_ms.take() {
                Some(ms) => Duration::from_millis(u64::from(ms)),
                None => self.settings.backoff.wait(*attempt, random()),
            };
            *attempt = attempt.saturating_add(1);
            let codecs = self.codecs.names();
            let (settings, route, shared) = (&self.settings, &mut self.route, &self.shared);
            let connecting = async {
                tokio::time::sleep(wait).await;
                connect(settings, route, shared.token(), shared.resume(), &codecs).await
            };
            let connected = tokio::select! {
                biased;
                () = self.shared.ending.notified() => return Err(Error::Ended),
                connected = connecting => connected,
            };
            match connected {
                Ok(link) => {
                    self.shared.handle_reconnected(link.welcome.clone(), link.transport);
                    return Ok(link);
                }
                Err(error @ Error::Closed { .. }) => return Err(error),
                Err(Error::Refused(refusal)) => {
                    let is_retryable = refusal.code().is_none_or(Code::is_retryable);
                    let is_about_token =
                        matches!(refusal.code(), Some(Code::TokenExpired | Code::Unauthorized));
                    tokens_refused += u32::from(is_about_token);
                    let has_other_token =
                        self.settings.provider.is_some() && tokens_refused < TOKEN_ATTEMPTS_MAX;
                    let comes_back = is_retryable || (is_about_token && has_other_token);
                    if !comes_back {
                        return Err(Error::Refused(refusal));
                    }
                    asked_ms = (refusal.retry_ms > 0).then_some(refusal.retry_ms);
                }
                Err(_) => {}
            }
        }
    }
}
