//! Where access tokens come from.

use crate::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use waspmq_protocol::Secret;

type Asked = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// The program's way to a token that is good now.
#[derive(Clone)]
pub(crate) struct Provider(Arc<dyn Fn() -> Asked + Send + Sync>);

impl Provider {
    pub(crate) fn new<F>(ask: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<String, String>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(ask())))
    }

    pub(crate) async fn token(&self) -> Result<Secret<'static>, Error> {
        let asked = (self.0)().await;
        asked.map(Secret::new).map_err(|message| Error::Token { message })
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Provider")
    }
}
