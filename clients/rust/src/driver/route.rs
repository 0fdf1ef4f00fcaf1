//! Which transport leads to the broker, and what was learned of that.
//!
//! | [`Transport::Auto`] | event | next |
//! | --- | --- | --- |
//! | the first alone | connected | done |
//! | the first alone | failed, such as a certificate that is not trusted | the second alone |
//! | the first alone | its head start is over | both |
//! | both | the first is connected | done |
//! | both | one failed | the other alone |
//!
//! Which is the first says [`Lessons`]; it begins as QUIC, with a head start of [`QUIC_HEAD_START`].

#[cfg(feature = "quic")]
use super::lessons::{Begin, Lessons};
#[cfg(feature = "quic")]
use super::quic::Dialer;
use super::socket::{Receiver, Sender};
#[cfg(feature = "quic")]
use super::stream::Wants;
use super::websocket::{self, HTTP};
use crate::builder::Builder;
use crate::error::Error;
#[cfg(feature = "quic")]
use crate::limits::{QUIC_HEAD_START, WEBSOCKET_HEAD_START};
use crate::target::Target;
use crate::transport::Transport;
use rustls::ClientConfig;
use std::sync::Arc;
#[cfg(feature = "quic")]
use std::time::Duration;
#[cfg(feature = "quic")]
use tokio::time::Instant;
use waspmq_protocol::Profile;

/// Why plain WebSocket is not used.
const NOT_PLAIN: &str = "a ws:// URL is without TLS, and a certificate authority or a fingerprint was named: use wss:// or quic://, or name \
                         neither";

/// A connection on which nothing was said yet.
#[derive(Debug)]
pub(super) struct Opened {
    /// What was connected to.
    pub(super) url: String,
    pub(super) transport: Transport,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
}

/// The way to one broker.
#[derive(Debug)]
pub(crate) struct Route {
    websocket_url: String,
    profile: Profile,
    /// For WebSocket.
    tls: Option<Arc<ClientConfig>>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    WebSocket,
    /// And what there is to say beside why it failed.
    #[cfg(feature = "quic")]
    Quic(Dialer, Option<&'static str>),
    /// Both.
    #[cfg(feature = "quic")]
    Auto(Dialer, Lessons),
}

impl Route {
    /// # Errors
    /// The URL is none, asks for what cannot be done or must not be, or whom to trust cannot be read.
    pub(crate) fn new(settings: &Builder) -> Result<Self, Error> {
        let wrong = |message: String| Error::Url { url: settings.url.clone(), message };
        let target = Target::parse(&settings.url).map_err(wrong)?;
        let transport = settings.transport.unwrap_or_else(|| target.transport());
        let is_json = settings.profile == Profile::Json;
        if is_json && matches!(transport, Transport::Quic | Transport::WebTransport) {
            return Err(wrong(format!("{transport} carries the binary profile only, not JSON")));
        }
        // Who names a certificate and leaves the transport open does not want to go without one where nothing else works.
        let is_plain_refused =
            transport == Transport::Auto && !target.is_secure() && !settings.trust.is_of_system();
        if is_plain_refused && (is_json || !cfg!(feature = "quic")) {
            return Err(wrong(NOT_PLAIN.to_owned()));
        }
        let transport = if is_json { Transport::WebSocket } else { transport };
        let way = Self::way(settings, &target, transport)?;
        #[cfg(feature = "quic")]
        let needs_tls = !matches!(way, Way::Quic(..));
        #[cfg(not(feature = "quic"))]
        let needs_tls = true;
        let tls = if needs_tls && target.is_secure() {
            Some(Arc::new(settings.trust.verifier()?.config(HTTP)?))
        } else {
            None
        };
        Ok(Self { websocket_url: target.websocket_url(), profile: settings.profile, tls, way })
    }

    #[cfg(not(feature = "quic"))]
    fn way(settings: &Builder, _target: &Target, transport: Transport) -> Result<Way, Error> {
        match transport {
            Transport::Auto | Transport::WebSocket => Ok(Way::WebSocket),
            Transport::Quic | Transport::WebTransport => Err(Error::Url {
                url: settings.url.clone(),
                message: "this client was built without QUIC (the feature `quic`)".to_owned(),
            }),
        }
    }

    #[cfg(feature = "quic")]
    fn way(settings: &Builder, target: &Target, transport: Transport) -> Result<Way, Error> {
        let wants = Wants { datagrams: settings.datagrams, streams: settings.streams };
        let dialer = |transport| Dialer::new(target.clone(), transport, settings.trust.verifier()?, wants);
        match transport {
            Transport::WebSocket => Ok(Way::WebSocket),
            Transport::Quic | Transport::WebTransport => Ok(Way::Quic(dialer(transport)?, None)),
            Transport::Auto if !target.is_secure() && !settings.trust.is_of_system() => {
                Ok(Way::Quic(dialer(Transport::Quic)?, Some(NOT_PLAIN)))
            }
            Transport::Auto => match dialer(Transport::Quic) {
                Ok(dialer) => Ok(Way::Auto(dialer, Lessons::default())),
                // Nobody asked for TLS, and this system has nothing to check certificates with.
                Err(error) if !target.is_secure() => {
                    tracing::debug!(url = settings.url, %error, "without QUIC");
                    Ok(Way::WebSocket)
                }
                Err(error) => Err(error),
            },
        }
    }

    /// One attempt.
    #[cfg(not(feature = "quic"))]
    pub(super) async fn open(&mut self) -> Result<Opened, Error> {
        match self.way {
            Way::WebSocket => websocket(&self.websocket_url, self.profile, self.tls.clone()).await,
        }
    }

    /// One attempt.
    #[cfg(feature = "quic")]
    pub(super) async fn open(&mut self) -> Result<Opened, Error> {
        // Both are large, and polled rarely.
        let websocket = Box::pin(websocket(&self.websocket_url, self.profile, self.tls.clone()));
        match &mut self.way {
            Way::WebSocket => websocket.await,
            Way::Quic(dialer, remark) => {
                let opened = Box::pin(dialer.open()).await;
                match (opened, remark) {
                    (Err(error), Some(remark)) => Err(with(error, remark)),
                    (opened, _) => opened,
                }
            }
            Way::Auto(dialer, lessons) => {
                let begun = lessons.begin(Instant::now());
                let opened = match begun {
                    Begin::WebSocketAlone => websocket.await?,
                    Begin::Quic => {
                        let raced = race(Box::pin(dialer.open()), websocket, QUIC_HEAD_START).await;
                        raced.map_err(|errors| both(&errors.0, errors.1))?
                    }
                    Begin::WebSocket => {
                        let raced = race(websocket, Box::pin(dialer.open()), WEBSOCKET_HEAD_START).await;
                        raced.map_err(|errors| both(&errors.1, errors.0))?
                    }
                };
                lessons.handle_connected(begun, opened.transport);
                Ok(opened)
            }
        }
    }

    /// The broker has said something on the connection that was opened last.
    pub(super) fn handle_answer(&mut self) {
        #[cfg(feature = "quic")]
        if let Way::Auto(_, lessons) = &mut self.way {
            lessons.handle_answer();
        }
    }

    /// Whether the last attempt failed on a connection that a second one would not begin with.
    pub(crate) fn has_another(&self) -> bool {
        #[cfg(feature = "quic")]
        if let Way::Auto(_, lessons) = &self.way {
            return lessons.is_unanswered();
        }
        false
    }
}

async fn websocket(url: &str, profile: Profile, tls: Option<Arc<ClientConfig>>) -> Result<Opened, Error> {
    let (sender, receiver) = websocket::open(url, profile, tls).await?;
    Ok(Opened { url: url.to_owned(), transport: Transport::WebSocket, sender, receiver })
}

/// Who is connected first; nothing was said on the other. An error is why both are not.
#[cfg(feature = "quic")]
async fn race(
    mut first: impl Future<Output = Result<Opened, Error>> + Unpin,
    mut second: impl Future<Output = Result<Opened, Error>> + Unpin,
    head_start: Duration,
) -> Result<Opened, Box<(Error, Error)>> {
    let failed = match tokio::time::timeout(head_start, &mut first).await {
        Ok(Ok(opened)) => return Ok(opened),
        Ok(Err(error)) => error,
        // Both are cancel safe: who loses has said nothing.
        Err(_) => tokio::select! {
            biased;
            opened = &mut first => match opened {
                Ok(opened) => return Ok(opened),
                Err(error) => error,
            },
            opened = &mut second => return match opened {
                Ok(opened) => {
                    tracing::debug!(transport = %opened.transport, "the other transport is slower");
                    Ok(opened)
                }
                Err(error) => first.await.map_err(|other| Box::new((other, error))),
            },
        },
    };
    tracing::debug!(error = %failed, "one transport is of no use: going on over the other");
    second.await.map_err(|other| Box::new((failed, other)))
}

/// Why there is no connection, and a remark on it.
#[cfg(feature = "quic")]
fn with(error: Error, remark: &str) -> Error {
    match error {
        Error::Connect { url, message } => {
            Error::Connect { url, message: format!("{message} (over QUIC; {remark})") }
        }
        error => error,
    }
}

/// Why neither is connected. What is wrong with the WebSocket says what kind of error it is.
#[cfg(feature = "quic")]
fn both(quic: &Error, websocket: Error) -> Error {
    match (quic, websocket) {
        (Error::Connect { message: quic, .. }, Error::Connect { url, message }) => {
            Error::Connect { url, message: format!("{message} (over QUIC: {quic})") }
        }
        (_, websocket) => websocket,
    }
}
