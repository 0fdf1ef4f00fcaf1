//! How a client connects.

use crate::backoff::Backoff;
use crate::client::Client;
use crate::driver::{self, Driver};
use crate::error::Error;
use crate::limits::{COMMANDS_MAX, MESSAGES_MAX};
use crate::messages::Messages;
use crate::shared::Shared;
use tokio::sync::mpsc;
use waspmq_protocol::client::{Connect, Frame};
use waspmq_protocol::{Profile, Secret, encode};

/// Made by [`Client::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    pub(crate) url: String,
    user: Option<String>,
    device: Option<String>,
    token: Option<Secret<'static>>,
    pub(crate) profile: Profile,
    pub(crate) backoff: Backoff,
}

impl Builder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            user: None,
            device: None,
            token: None,
            profile: Profile::Binary,
            backoff: Backoff::default(),
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

    /// Connects and waits for the broker's welcome. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The first attempt counts; reconnecting begins only once there was a connection.
    pub async fn connect(self) -> Result<(Client, Messages), Error> {
        let link = driver::connect(&self).await?;
        let shared = Shared::new(link.welcome.clone());
        let (commands, commands_out) = mpsc::channel(COMMANDS_MAX);
        let (messages, messages_out) = mpsc::channel(MESSAGES_MAX);
        let profile = self.profile;
        let driver = Driver::new(self, commands_out, messages, shared.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "the client owns this one task: closing waits for it, dropping aborts it"
        )]
        let task = tokio::spawn(driver.run(link));
        Ok((Client::new(profile, commands, shared, task), Messages { queue: messages_out }))
    }

    /// The encoded `connect` frame.
    pub(crate) fn connect_frame(&self) -> Result<Vec<u8>, Error> {
        let connect = Connect {
            user: self.user.as_deref().map(Into::into),
            device: self.device.as_deref().map(Into::into),
            token: self.token.clone(),
            batch: true,
            ..Connect::default()
        };
        let mut bytes = Vec::new();
        encode::client(self.profile, &Frame::Connect(connect), &mut bytes)?;
        Ok(bytes)
    }
}
