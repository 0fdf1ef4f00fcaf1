//! Which transport leads to the broker, and what was learned of that.
//!
//! | [`Transport::Auto`] | event | next |
//! | --- | --- | --- |
//! | QUIC alone | connected | done: QUIC, which is the first choice of the next attempt, too |
//! | QUIC alone | failed, such as a certificate that is not trusted | WebSocket alone |
//! | QUIC alone | [`QUIC_HEAD_START`] is over | both |
//! | both | the first is connected | done; after WebSocket, [`QUIC_SKIPS`] attempts go without QUIC |
//! | both | one failed | the other alone |

#[cfg(feature = "quic")]
use super::quic::Dialer;
use super::socket::{Receiver, Sender};
use super::websocket::{self, HTTP};
use crate::builder::Builder;
use crate::error::Error;
#[cfg(feature = "quic")]
use crate::limits::{QUIC_HEAD_START, QUIC_SKIPS};
use crate::target::Target;
use crate::transport::Transport;
#[cfg(feature = "quic")]
use crate::trust::Trust;
use rustls::ClientConfig;
use std::sync::Arc;
use waspmq_protocol::Profile;

/// A connection on which nothing was said yet.
#[derive(Debug)]
pub(super) struct Opened {
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
    #[cfg(feature = "quic")]
    Quic(Dialer),
    /// Both, and the attempts that are to go without QUIC.
    #[cfg(feature = "quic")]
    Auto(Dialer, u32),
}

impl Route {
    /// # Errors
    /// The URL is none, asks for what cannot be done, or whom to trust cannot be read.
    pub(crate) fn new(settings: &Builder) -> Result<Self, Error> {
        let wrong = |message: String| Error::Url { url: settings.url.clone(), message };
        let target = Target::parse(&settings.url).map_err(wrong)?;
        let transport = settings.transport.unwrap_or_else(|| target.transport());
        let is_json = settings.profile == Profile::Json;
        if is_json && matches!(transport, Transport::Quic | Transport::WebTransport) {
            return Err(wrong(format!("{transport} carries the binary profile only, not JSON")));
        }
        let transport = if is_json { Transport::WebSocket } else { transport };
        let way = Self::way(settings, &target, transport)?;
        #[cfg(feature = "quic")]
        let needs_tls = !matches!(way, Way::Quic(_));
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
        let dialer = |transport| Dialer::new(target.clone(), transport, settings.trust.verifier()?);
        match transport {
            Transport::WebSocket => Ok(Way::WebSocket),
            Transport::Quic | Transport::WebTransport => Ok(Way::Quic(dialer(transport)?)),
            Transport::Auto => match dialer(Transport::Quic) {
                Ok(dialer) => Ok(Way::Auto(dialer, 0)),
                // Nobody asked for TLS, and this system has nothing to check certificates with.
                Err(error) if !target.is_secure() && matches!(settings.trust, Trust::System) => {
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
            Way::Quic(dialer) => Box::pin(dialer.open()).await,
            Way::Auto(_, skips) if *skips > 0 => {
                *skips -= 1;
                websocket.await
            }
            Way::Auto(dialer, skips) => {
                let opened = race(Box::pin(dialer.open()), websocket).await?;
                if opened.transport == Transport::WebSocket {
                    *skips = QUIC_SKIPS;
                }
                Ok(opened)
            }
        }
    }
}

async fn websocket(url: &str, profile: Profile, tls: Option<Arc<ClientConfig>>) -> Result<Opened, Error> {
    let (sender, receiver) = websocket::open(url, profile, tls).await?;
    Ok(Opened { transport: Transport::WebSocket, sender, receiver })
}

/// The first that is connected; nothing was said on the other.
#[cfg(feature = "quic")]
async fn race(
    mut quic: impl Future<Output = Result<Opened, Error>> + Unpin,
    mut websocket: impl Future<Output = Result<Opened, Error>> + Unpin,
) -> Result<Opened, Error> {
    let mut failed = match tokio::time::timeout(QUIC_HEAD_START, &mut quic).await {
        Ok(Ok(opened)) => return Ok(opened),
        Ok(Err(error)) => Some(error),
        Err(_) => None,
    };
    if failed.is_none() {
        // Both are cancel safe: who loses has said nothing.
        tokio::select! {
            biased;
            opened = &mut quic => match opened {
                Ok(opened) => return Ok(opened),
                Err(error) => failed = Some(error),
            },
            opened = &mut websocket => match opened {
                Ok(opened) => {
                    tracing::debug!("QUIC is slower than WebSocket: going on over WebSocket");
                    return Ok(opened);
                }
                Err(error) => return quic.await.map_err(|other| both(&other, error)),
            },
        }
    }
    let opened = websocket.await;
    match failed {
        Some(error) => {
            tracing::debug!(%error, "QUIC is of no use: going on over WebSocket");
            opened.map_err(|other| both(&error, other))
        }
        None => opened,
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
