//! From what a guest answered to a decision the broker can carry out: every address parsed, every bound
//! checked. What does not pass is the guest's failure, never a smaller decision.

use crate::bindings;
use crate::limits::{ADDRESSES_KNOWN, DROP_REASON_BYTES_MAX};
use std::borrow::Cow;
use waspmq_core::address::{Address, AddressError, Name};
use waspmq_core::limits::{FANOUT_MAX, HEADER_BYTES_MAX, HEADERS_MAX};
use waspmq_core::policy::{Route, Verdict};

/// What is wrong with a verdict.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadVerdict {
    #[error("{address:?} is not an address: {source}")]
    Address { address: String, source: AddressError },
    #[error("fan-out to {count} addresses, allowed are 1 to {FANOUT_MAX}")]
    FanOut { count: usize },
    #[error("drop reason of {len} bytes, the limit is {DROP_REASON_BYTES_MAX}")]
    Reason { len: usize },
    #[error("{count} headers set, the limit is {HEADERS_MAX}")]
    Headers { count: usize },
    #[error("{len} bytes of headers set, the limit is {HEADER_BYTES_MAX}")]
    HeaderBytes { len: usize },
    #[error("a header without a name")]
    HeaderName,
}

/// A checked verdict on its way to the message. It goes through half a dozen functions, each of which would copy what is
/// larger, and most verdicts are one of the first; only what has a list anyway is behind a pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ruling {
    Continue,
    Deliver,
    Redirect(Address),
    Pick {
        version: u64,
        index: u32,
    },
    /// Another route, or headers.
    More(Box<Verdict>),
}

const _: () = assert!(size_of::<Ruling>() <= 24, "a verdict is passed on in three words");

impl From<Verdict> for Ruling {
    fn from(verdict: Verdict) -> Self {
        if !verdict.set_headers.is_empty() {
            return Self::More(Box::new(verdict));
        }
        match verdict.route {
            Route::Continue => Self::Continue,
            Route::Deliver => Self::Deliver,
            Route::Redirect(to) => Self::Redirect(to),
            Route::Pick { version, index } => Self::Pick { version, index },
            route @ (Route::FanOut(_) | Route::Drop(_)) => {
                Self::More(Box::new(Verdict { route, set_headers: Vec::new() }))
            }
        }
    }
}

impl From<Ruling> for Verdict {
    fn from(ruling: Ruling) -> Self {
        let route = match ruling {
            Ruling::Continue => Route::Continue,
            Ruling::Deliver => Route::Deliver,
            Ruling::Redirect(to) => Route::Redirect(to),
            Ruling::Pick { version, index } => Route::Pick { version, index },
            Ruling::More(verdict) => return *verdict,
        };
        Self { route, set_headers: Vec::new() }
    }
}

/// A checked verdict, and what it holds for.
#[derive(Debug)]
pub(crate) struct Routed {
    pub(crate) ruling: Ruling,
    pub(crate) cache: bindings::Cache,
}

/// A verdict as the guest gave it, by whichever lane; text may lie in the guest's memory.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) route: AnsweredRoute<'a>,
    pub(crate) set_headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pub(crate) cache: bindings::Cache,
}

/// See [`Answer`].
#[derive(Debug)]
pub(crate) enum AnsweredRoute<'a> {
    Continue,
    Deliver,
    Redirect(Cow<'a, str>),
    FanOut(Vec<Cow<'a, str>>),
    Pick { version: u64, index: u32 },
    Drop(Cow<'a, str>),
}

impl From<bindings::Verdict> for Answer<'_> {
    fn from(verdict: bindings::Verdict) -> Self {
        let route = match verdict.route {
            bindings::Route::Continue => AnsweredRoute::Continue,
            bindings::Route::Deliver => AnsweredRoute::Deliver,
            bindings::Route::Redirect(to) => AnsweredRoute::Redirect(Cow::Owned(to)),
            bindings::Route::FanOut(all) => AnsweredRoute::FanOut(all.into_iter().map(Cow::Owned).collect()),
            bindings::Route::Pick(pick) => AnsweredRoute::Pick { version: pick.version, index: pick.index },
            bindings::Route::Drop(reason) => AnsweredRoute::Drop(Cow::Owned(reason)),
        };
        let headers = verdict.set_headers.into_iter();
        let set_headers = headers.map(|(name, value)| (name.into(), value.into())).collect();
        Self { route, set_headers, cache: verdict.cache }
    }
}

/// What one instance named lately, as most policies name few: finding an address is a quarter of parsing it.
#[derive(Debug, Default)]
pub(crate) struct Known {
    addresses: [Option<Address>; ADDRESSES_KNOWN],
    /// The place of the next new one.
    next: usize,
    /// A dictionary's name.
    name: Option<Name>,
}

impl Known {
    fn address(&mut self, text: &str) -> Result<Address, BadVerdict> {
        if let Some(known) = self.addresses.iter().flatten().find(|known| known.as_str() == text) {
            return Ok(known.clone());
        }
        let parsed =
            Address::parse(text).map_err(|source| BadVerdict::Address { address: shorten(text), source })?;
        if let Some(place) = self.addresses.get_mut(self.next) {
            *place = Some(parsed.clone());
        }
        self.next = (self.next + 1) % ADDRESSES_KNOWN;
        Ok(parsed)
    }

    /// Finds or parses the name of a dictionary.
    pub(crate) fn name(&mut self, text: &str) -> Result<Name, AddressError> {
        if let Some(known) = self.name.as_ref().filter(|known| known.as_str() == text) {
            return Ok(known.clone());
        }
        let parsed = Name::parse(text)?;
        self.name = Some(parsed.clone());
        Ok(parsed)
    }
}

/// Checks one verdict by itself; the sum of all headers of a message is checked where they come together.
pub(crate) fn check(answer: Answer<'_>, known: &mut Known) -> Result<Routed, BadVerdict> {
    check_headers(&answer.set_headers)?;
    let route = match answer.route {
        AnsweredRoute::Continue => Route::Continue,
        AnsweredRoute::Deliver => Route::Deliver,
        AnsweredRoute::Redirect(to) => Route::Redirect(known.address(&to)?),
        AnsweredRoute::FanOut(all) => Route::FanOut(addresses(&all, known)?),
        AnsweredRoute::Pick { version, index } => Route::Pick { version, index },
        AnsweredRoute::Drop(reason) if reason.len() > DROP_REASON_BYTES_MAX => {
            return Err(BadVerdict::Reason { len: reason.len() });
        }
        AnsweredRoute::Drop(reason) => Route::Drop(reason.into_owned()),
    };
    let mut set_headers = Vec::new();
    if !answer.set_headers.is_empty() {
        let headers = answer.set_headers.into_iter();
        set_headers.extend(headers.map(|(name, value)| (name.into_owned(), value.into_owned())));
    }
    Ok(Routed { ruling: Verdict { route, set_headers }.into(), cache: answer.cache })
}

/// Checks count and bytes of a set of headers.
pub(crate) fn check_headers<S: AsRef<str>>(headers: &[(S, S)]) -> Result<(), BadVerdict> {
    if headers.is_empty() {
        return Ok(());
    }
    if headers.len() > HEADERS_MAX {
        return Err(BadVerdict::Headers { count: headers.len() });
    }
    if headers.iter().any(|(name, _)| name.as_ref().is_empty()) {
        return Err(BadVerdict::HeaderName);
    }
    let len = headers.iter().map(|(name, value)| name.as_ref().len() + value.as_ref().len()).sum();
    if len > HEADER_BYTES_MAX {
        return Err(BadVerdict::HeaderBytes { len });
    }
    Ok(())
}

/// Whether these headers are within the bounds even if no name is twice among them.
pub(crate) fn fit_together(lists: [&[(String, String)]; 3]) -> bool {
    let all = || lists.into_iter().flatten();
    all().count() <= HEADERS_MAX
        && all().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= HEADER_BYTES_MAX
}

/// Each address once, in the order given.
fn addresses(all: &[Cow<'_, str>], known: &mut Known) -> Result<Vec<Address>, BadVerdict> {
    if all.is_empty() || all.len() > FANOUT_MAX {
        return Err(BadVerdict::FanOut { count: all.len() });
    }
    let mut checked = Vec::with_capacity(all.len());
    for text in all {
        let address = known.address(text)?;
        if !checked.contains(&address) {
            checked.push(address);
        }
    }
    Ok(checked)
}

fn shorten(text: &str) -> String {
    const SHOWN_BYTES_MAX: usize = 80;
    if text.len() <= SHOWN_BYTES_MAX {
        text.to_owned()
    } else {
        format!("{}…", bindings::cut(text, SHOWN_BYTES_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_addresses_are_those_that_were_named() {
        let mut known = Known::default();
        for turn in 0..3 {
            // More than are kept, so that each of them leaves and comes back.
            for number in 0..ADDRESSES_KNOWN + 2 {
                let text = format!("topic/{number}");
                for _ in 0..2 {
                    assert_eq!(known.address(&text).map(|to| to.to_string()).ok(), Some(text.clone()));
                }
                assert!(known.address("no address").is_err(), "turn {turn}");
            }
        }
        let kept: Vec<_> = known.addresses.iter().flatten().collect();
        assert!(kept.len() == ADDRESSES_KNOWN && kept.iter().all(|to| to.as_str().starts_with("topic/")));
    }
}
