//! Short ways to write an answer.

use crate::{Admittance, Audience, Cache, Choice, Codec, Codecs, Pick, Refusal, Route, Verdict};

impl Verdict {
    /// Ask the next policy; behind the last one, deliver as addressed.
    pub const fn pass() -> Self {
        Self::to(Route::Continue)
    }

    /// Deliver as addressed and ask no further policy.
    pub const fn deliver() -> Self {
        Self::to(Route::Deliver)
    }

    /// Deliver to this address instead.
    pub fn redirect(address: impl Into<String>) -> Self {
        Self::to(Route::Redirect(address.into()))
    }

    /// Deliver to these 1 to 64 addresses; the original counts only when named.
    pub fn fan_out<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> Self {
        Self::to(Route::FanOut(addresses.into_iter().map(Into::into).collect()))
    }

    /// As addressed, and of the queue with this version of members take the member at this index.
    pub const fn pick(version: u64, index: u32) -> Self {
        Self::to(Route::Pick(Pick { version, index }))
    }

    /// Deliver to nobody and tell the publisher why, in at most 1024 bytes.
    pub fn refuse(reason: impl Into<String>) -> Self {
        Self::to(Route::Drop(reason.into()))
    }

    /// Also sets a header; later policies see it.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.set_headers.push((name.into(), value.into()));
        self
    }

    /// Also holds for later messages: see [`Cache`].
    #[must_use]
    pub fn cached(mut self, cache: Cache) -> Self {
        self.cache = cache;
        self
    }

    const fn to(route: Route) -> Self {
        Self { route, set_headers: Vec::new(), cache: Cache::Never }
    }
}

impl Audience {
    /// Whether all of these codecs are taken.
    pub fn takes(&self, codecs: Codecs) -> bool {
        self.codecs & codecs == codecs
    }
}

impl Choice {
    /// Ask the next policy; behind the last one, the broker chooses.
    pub const fn pass() -> Self {
        Self::of(Codec::Continue)
    }

    /// Send the message as it is.
    pub const fn none() -> Self {
        Self::of(Codec::None)
    }

    /// Send the message with this codec.
    pub const fn of(codec: Codec) -> Self {
        Self { codec, cache: Cache::Never }
    }

    /// Also holds for later messages to the address, for the same audience, where `cache` is [`Cache::Address`].
    #[must_use]
    pub fn cached(mut self, cache: Cache) -> Self {
        self.cache = cache;
        self
    }
}

impl Admittance {
    /// Do not take the message in; it may be tried again in `retry_ms` milliseconds, or never when that is 0.
    pub fn refuse(reason: impl Into<String>, retry_ms: u32) -> Self {
        Self::Refuse(Refusal { reason: reason.into(), retry_ms })
    }
}
