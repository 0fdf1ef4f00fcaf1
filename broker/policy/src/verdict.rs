//! From what a guest answered to a decision the broker can carry out: every address parsed, every bound
//! checked. What does not pass is the guest's failure, never a smaller decision.

use crate::bindings;
use crate::limits::DROP_REASON_BYTES_MAX;
use waspmq_core::address::{Address, AddressError};
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

/// A checked verdict, and what it holds for.
#[derive(Debug)]
pub(crate) struct Routed {
    pub(crate) verdict: Verdict,
    pub(crate) cache: bindings::Cache,
}

/// Checks one verdict by itself; the sum of all headers of a message is checked where they come together.
pub(crate) fn check(verdict: bindings::Verdict) -> Result<Routed, BadVerdict> {
    check_headers(&verdict.set_headers)?;
    let route = match verdict.route {
        bindings::Route::Continue => Route::Continue,
        bindings::Route::Deliver => Route::Deliver,
        bindings::Route::Redirect(to) => Route::Redirect(address(to)?),
        bindings::Route::FanOut(all) => Route::FanOut(addresses(all)?),
        bindings::Route::Pick(pick) => Route::Pick { version: pick.version, index: pick.index },
        bindings::Route::Drop(reason) if reason.len() > DROP_REASON_BYTES_MAX => {
            return Err(BadVerdict::Reason { len: reason.len() });
        }
        bindings::Route::Drop(reason) => Route::Drop(reason),
    };
    Ok(Routed { verdict: Verdict { route, set_headers: verdict.set_headers }, cache: verdict.cache })
}

/// Checks count and bytes of a set of headers.
pub(crate) fn check_headers(headers: &[(String, String)]) -> Result<(), BadVerdict> {
    if headers.is_empty() {
        return Ok(());
    }
    if headers.len() > HEADERS_MAX {
        return Err(BadVerdict::Headers { count: headers.len() });
    }
    if headers.iter().any(|(name, _)| name.is_empty()) {
        return Err(BadVerdict::HeaderName);
    }
    let len = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
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

fn address(text: String) -> Result<Address, BadVerdict> {
    Address::parse(&text).map_err(|source| BadVerdict::Address { address: shorten(text), source })
}

/// Each address once, in the order given.
fn addresses(all: Vec<String>) -> Result<Vec<Address>, BadVerdict> {
    if all.is_empty() || all.len() > FANOUT_MAX {
        return Err(BadVerdict::FanOut { count: all.len() });
    }
    let mut checked = Vec::with_capacity(all.len());
    for text in all {
        let address = address(text)?;
        if !checked.contains(&address) {
            checked.push(address);
        }
    }
    Ok(checked)
}

fn shorten(text: String) -> String {
    const SHOWN_BYTES_MAX: usize = 80;
    if text.len() <= SHOWN_BYTES_MAX { text } else { format!("{}…", bindings::cut(&text, SHOWN_BYTES_MAX)) }
}
