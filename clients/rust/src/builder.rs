//! How a client connects.

use crate::backoff::{Backoff, random};
use crate::client::Client;
use crate::codecs::Codecs;
use crate::driver::{self, Driver, HTTP, Route};
use crate::error::Error;
use crate::limits::{COMMANDS_MAX, MESSAGES_MAX};
use crate::messages::Messages;
use crate::shared::Shared;
use crate::token::Provider;
use crate::transport::Transport;
use crate::trust::Trust;
use rustls::ClientConfig;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use waspmq_protocol::client::{Connect, Frame, Resume};
use waspmq_protocol::{Profile, Secret, encode};

/// Made by [`Client::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    pub(crate) url: String,
    user: Option<String>,
    device: Option<String>,
    token: Option<Secret<'static>>,
    pub(crate) provider: Option<Provider>,
    manual_acks: bool,
    pub(crate) compression: bool,
    pub(crate) datagrams: bool,
    pub(crate) streams: bool,
    pub(crate) profile: Profile,
    pub(crate) backoff: Backoff,
    pub(crate) trust: Trust,
    /// Unless the URL says it.
    pub(crate) transport: Option<Transport>,
}

impl Builder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            user: None,
            device: None,
            token: None,
            provider: None,
            manual_acks: false,
            compression: false,
            datagrams: false,
            streams: false,
            profile: Profile::Binary,
            backoff: Backoff::default(),
            trust: Trust::default(),
            transport: None,
        }
    }

    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    #[must_use]
    pub fn device(mut self, device: impl Into<String>) -> Self {
        self.device = Some(device.into());
        self
    }

    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Secret::new(token.into()));
        self
    }

    /// Asks the program for a token before every connect, so that a client that comes back after a while has one that
    /// is still good. Takes the place of [`Self::token`]. With it, a session whose token ended is connected again
    /// instead of ending the client. An error is a text for people: at the first connect it is
    /// [`Error::Token`], later it is tried again after a backoff.
    #[must_use]
    pub fn token_provider<F>(mut self, ask: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<String, String>> + Send + 'static,
    {
        self.provider = Some(Provider::new(ask));
        self
    }

    /// Leaves acknowledging to the program: [`Client::ack`] and [`Client::nack`]. Otherwise taking a message
    /// acknowledges it.
    #[must_use]
    pub const fn manual_acks(mut self) -> Self {
        self.manual_acks = true;
        self
    }

    /// Asks the broker to compress what it sends, where that is worth it: fewer bytes for some time of both processors.
    /// Dictionaries that the broker has for an address are taken and kept over reconnects. Without effect with
    /// [`Profile::Json`].
    #[must_use]
    pub const fn compression(mut self) -> Self {
        self.compression = true;
        self
    }

    /// Over QUIC and WebTransport, messages that may be lost come and go as datagrams where they are short enough: those of
    /// [`Client::send`], and what others published with level `none` and the broker does not store. They wait for nothing
    /// that was lost before them, may come in another order than they were sent in, have no position, and are lost
    /// without a word; a session that was sent some is never `recovered` when it is resumed. Without effect over WebSocket.
    #[must_use]
    pub const fn datagrams(mut self) -> Self {
        self.datagrams = true;
        self
    }

    /// Over QUIC and WebTransport, long messages come and go on streams of their own, so that nothing waits for them: publishes of
    /// 16 KiB or more, and such messages of others that the broker does not store. They may come in another order than they were
    /// sent in, also with what is shorter, and those of others have no position; a session that was sent some is never `recovered`
    /// when it is resumed. Four publishes are under way so at a time; the next one goes with everything else. Receipts come as
    /// always. Without effect over WebSocket.
    #[must_use]
    pub const fn streams(mut self) -> Self {
        self.streams = true;
        self
    }

    /// The encoding; binary unless told otherwise. What clients can do does not depend on it.
    #[must_use]
    pub const fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    #[must_use]
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Takes another transport than the one of the URL, to the same host and port. With [`Transport::Auto`] and a certificate that was
    /// named, plain WebSocket is never used.
    #[must_use]
    pub const fn transport(mut self, transport: Transport) -> Self {
        self.transport = Some(transport);
        self
    }

    /// With TLS, which is every URL but `ws://`: the certificates in this PEM file vouch for the broker, instead of those of
    /// the system. The broker's own certificate may be among them.
    #[must_use]
    pub fn tls_ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.trust = Trust::Authorities(file.into());
        self
    }

    /// With TLS, which is every URL but `ws://`: the broker is who has the certificate with this SHA-256 (of its DER), in hexadecimal
    /// digits with or without colons. Its names and dates do not count. Takes the place of [`Self::tls_ca`].
    #[must_use]
    pub fn tls_fingerprint(mut self, sha256: impl Into<String>) -> Self {
        self.trust = Trust::Fingerprint(sha256.into());
        self
    }

    /// The TLS that this client would speak below WebSocket, for programs that make a connection of their own.
    ///
    /// # Errors
    /// Whom to trust cannot be read.
    pub fn tls_config(&self) -> Result<Arc<ClientConfig>, Error> {
        Ok(Arc::new(self.trust.verifier()?.config(HTTP)?))
    }

    /// Connects and waits for the broker's welcome. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The first attempt counts; reconnecting begins only once there was a connection.
    pub async fn connect(self) -> Result<(Client, Messages), Error> {
        let mut route = Route::new(&self)?;
        let mut codecs = self.codecs();
        let names = codecs.names();
        let link = match driver::connect(&self, &mut route, self.token.clone(), None, &names).await {
            Err(_) if route.has_another() => {
                driver::connect(&self, &mut route, self.token.clone(), None, &names).await?
            }
            first => first?,
        };
        let correlation = format!("{:016x}", random());
        let shared = Shared::new(
            (link.welcome.clone(), link.transport),
            self.token.clone(),
            self.manual_acks,
            correlation,
        );
        let (commands, commands_out) = mpsc::channel(COMMANDS_MAX);
        let (messages, messages_out) = mpsc::channel(MESSAGES_MAX);
        let (profile, user) = (self.profile, self.user.clone());
        let driver = Driver::new((self, route, codecs), commands_out, messages, shared.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "the client owns this one task: closing waits for it, dropping aborts it"
        )]
        let task = tokio::spawn(driver.run(link));
        let client = Client::new(profile, user, commands, shared.clone(), task);
        Ok((client, Messages { queue: messages_out, shared }))
    }

    /// What is asked for, before anything came.
    fn codecs(&self) -> Codecs {
        let mut codecs = Codecs::default();
        if !self.compression || self.profile == Profile::Json {
            codecs.give_up();
        }
        codecs
    }

    /// The encoded `connect` frame.
    pub(crate) fn connect_frame(
        &self,
        token: Option<Secret<'_>>,
        resume: Option<Resume<'_>>,
        codecs: &[String],
    ) -> Result<Vec<u8>, Error> {
        let connect = Connect {
            user: self.user.as_deref().map(Into::into),
            device: self.device.as_deref().map(Into::into),
            token,
            resume,
            codecs: codecs.iter().map(|name| name.as_str().into()).collect(),
            batch: true,
            datagrams: self.datagrams,
            streams: self.streams,
        };
        let mut bytes = Vec::new();
        encode::client(self.profile, &Frame::Connect(connect), &mut bytes)?;
        Ok(bytes)
    }
}
