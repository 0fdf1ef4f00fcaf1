//! What a policy answered, in a form that is cheap to keep: plain data, and texts in a buffer of bounded size.
//!
//! A text in the buffer is its length in two bytes, of which the highest bit says that it was cut, and its bytes.

use crate::codecs::Coded;
use crate::limits::TRACE_TEXT_BYTES_MAX;
use crate::question::{Admitted, Missed, Planned, Question};
use crate::verdict::Ruling;
use serde_json::{Map, Value, json};
use waspmq_core::compression::Codec;
use waspmq_core::policy::{Acknowledgement, Admittance, Decision, Route};

/// An answer; texts are elsewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Said {
    /// The policy failed.
    Nothing,
    /// It left the matter to the next one; a verdict says so itself, because of its headers.
    Continue,
    Admitted,
    Refused {
        reason: Place,
        retry_ms: u32,
    },
    Routed(Routed),
    Planned(Acknowledgement),
    Decided(Decision),
    /// The name of the dictionary, where there is one, is a text.
    Chosen(Coded, Option<Place>),
}

/// A verdict.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Routed {
    kind: Kind,
    /// First the reason or the addresses, then the names and values of the headers.
    texts: Place,
    addresses: u8,
    headers: u8,
    addresses_left: u8,
    headers_left: u8,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Continue,
    Deliver,
    Redirect,
    FanOut,
    Pick { version: u64, index: u32 },
    Drop,
}

/// Where texts begin.
type Place = u32;

/// Set in the length of a text that was cut.
const CUT: u16 = 1 << 15;
/// What is behind a text that was cut, and stands for what was left out.
const TRUNCATED: &str = "…truncated";

/// Where a verdict has its headers.
pub(super) const SET_HEADERS: &str = "set_headers";

/// Bytes of texts that need no memory of their own: an address and a short text.
const SHORT: usize = 64;

/// Texts of bounded size, one behind the other. Their bytes are in `short` as long as all of them fit, then in `long`.
#[derive(Debug, Clone)]
pub(crate) struct Texts {
    short: [u8; SHORT],
    long: Vec<u8>,
    len: Place,
    /// Bytes of the address in front of all texts.
    address: u16,
    is_unbounded: bool,
}

impl Default for Texts {
    fn default() -> Self {
        Self { short: [0; SHORT], long: Vec::new(), len: 0, address: 0, is_unbounded: false }
    }
}

impl Texts {
    /// Takes everything as it is; for answers that are shown at once.
    fn unbounded() -> Self {
        Self { is_unbounded: true, ..Self::default() }
    }

    #[inline]
    pub(super) fn begin(&mut self, address: &str) {
        (self.len, self.address) = (0, u16::try_from(address.len()).unwrap_or(0));
        self.extend(address.as_bytes());
    }

    pub(super) fn address(&self) -> String {
        String::from_utf8_lossy(self.bytes().get(..usize::from(self.address)).unwrap_or_default())
            .into_owned()
    }

    fn bytes(&self) -> &[u8] {
        self.short.get(..self.len()).unwrap_or(&self.long)
    }

    #[inline]
    const fn len(&self) -> usize {
        self.len as usize
    }

    #[inline]
    fn extend(&mut self, bytes: &[u8]) {
        let (before, len) = (self.len(), self.len() + bytes.len());
        match self.short.get_mut(before..len) {
            Some(place) => place.copy_from_slice(bytes),
            None => self.extend_long(bytes),
        }
        self.len = Place::try_from(len).unwrap_or(Place::MAX);
    }

    fn extend_long(&mut self, bytes: &[u8]) {
        if let Some(short) = self.short.get(..self.len as usize) {
            self.long.clear();
            self.long.extend_from_slice(short);
        }
        self.long.extend_from_slice(bytes);
    }

    /// Bytes behind the address.
    #[cfg(test)]
    pub(super) const fn text_bytes(&self) -> usize {
        self.len() - self.address as usize
    }

    /// Puts down a text, or as much of it as there is room for. False when nothing of it is there.
    #[inline]
    fn put(&mut self, text: &str) -> bool {
        let bytes_max = if self.is_unbounded { usize::MAX } else { TRACE_TEXT_BYTES_MAX };
        let room = bytes_max.saturating_sub(self.len() - usize::from(self.address));
        let Some(room) = room.checked_sub(size_of::<u16>()).filter(|&room| room > 0 || text.is_empty())
        else {
            return false;
        };
        let room = room.min(usize::from(CUT - 1));
        let (kept, cut) = if text.len() > room { (crate::bindings::cut(text, room), CUT) } else { (text, 0) };
        let length = u16::try_from(kept.len()).unwrap_or(0) | cut;
        self.extend(&length.to_le_bytes());
        self.extend(kept.as_bytes());
        true
    }

    /// The texts from a place on.
    fn at(&self, place: Place) -> impl Iterator<Item = String> {
        let mut rest = self.bytes().get(place as usize..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first_chunk()?;
            let length = u16::from_le_bytes(*length);
            let (text, behind) = behind.split_at_checked(usize::from(length & !CUT))?;
            rest = behind;
            let text = String::from_utf8_lossy(text);
            Some(if length & CUT == 0 { text.into_owned() } else { format!("{text}{TRUNCATED}") })
        })
    }
}

impl Said {
    #[inline]
    pub(crate) fn ruling(ruling: &Ruling, texts: &mut Texts) -> Self {
        let place = texts.len;
        let mut put = |all: &[waspmq_core::Address]| {
            let kept = all.iter().take_while(|address| texts.put(address.as_str())).count();
            (count(kept), count(all.len() - kept))
        };
        let none = (0, 0);
        let (kind, (addresses, addresses_left)) = match ruling {
            Ruling::Continue => (Kind::Continue, none),
            Ruling::Deliver => (Kind::Deliver, none),
            Ruling::Pick { version, index } => (Kind::Pick { version: *version, index: *index }, none),
            Ruling::Redirect(to) => (Kind::Redirect, put(std::slice::from_ref(to))),
            Ruling::More(verdict) => match &verdict.route {
                Route::Continue => (Kind::Continue, none),
                Route::Deliver => (Kind::Deliver, none),
                Route::Pick { version, index } => (Kind::Pick { version: *version, index: *index }, none),
                Route::Redirect(to) => (Kind::Redirect, put(std::slice::from_ref(to))),
                Route::FanOut(all) => (Kind::FanOut, put(all)),
                Route::Drop(reason) => (Kind::Drop, if texts.put(reason) { (1, 0) } else { (0, 1) }),
            },
        };
        let all = match ruling {
            Ruling::More(verdict) => verdict.set_headers.as_slice(),
            _ => &[],
        };
        let kept = all.iter().take_while(|(name, value)| texts.put(name) && texts.put(value)).count();
        let (headers, headers_left) = (count(kept), count(all.len() - kept));
        Self::Routed(Routed { kind, texts: place, addresses, headers, addresses_left, headers_left })
    }

    pub(crate) fn admittance(answer: Option<&Admittance>, texts: &mut Texts) -> Self {
        match answer {
            None => Self::Continue,
            Some(Admittance::Admitted) => Self::Admitted,
            Some(Admittance::Refused { reason, retry_ms }) => {
                let place = texts.len;
                texts.put(reason);
                Self::Refused { reason: place, retry_ms: *retry_ms }
            }
            // Not an answer of a policy.
            Some(Admittance::Failed(_)) => Self::Nothing,
        }
    }

    #[inline]
    pub(crate) fn codec(codec: &Codec, texts: &mut Texts) -> Self {
        let (coded, dictionary) = Coded::of(codec);
        let place = texts.len;
        Self::Chosen(
            coded,
            dictionary.map(|name| {
                texts.put(name);
                place
            }),
        )
    }

    /// Whether the matter ends with this answer.
    pub(super) const fn is_final(&self) -> bool {
        match self {
            Self::Nothing | Self::Continue => false,
            Self::Routed(routed) => !matches!(routed.kind, Kind::Continue),
            _ => true,
        }
    }

    /// The answer for people; nothing for a failure.
    pub(super) fn show(&self, texts: &Texts) -> Option<Value> {
        Some(match self {
            Self::Nothing => return None,
            Self::Continue => json!("continue"),
            Self::Admitted => Admitted::show(&Some(Admittance::Admitted)),
            Self::Refused { reason, retry_ms } => {
                let reason = texts.at(*reason).next().unwrap_or_else(|| TRUNCATED.to_owned());
                Admitted::show(&Some(Admittance::Refused { reason, retry_ms: *retry_ms }))
            }
            Self::Routed(routed) => routed.show(texts),
            Self::Planned(acknowledgement) => Planned::show(&Some(*acknowledgement)),
            Self::Decided(decision) => Missed::show(&Some(*decision)),
            Self::Chosen(coded, None) => coded.show(None),
            Self::Chosen(coded, Some(name)) => {
                let name = texts.at(*name).next().unwrap_or_else(|| TRUNCATED.to_owned());
                coded.show(Some(&name))
            }
        })
    }
}

impl Routed {
    fn show(&self, texts: &Texts) -> Value {
        let mut texts = texts.at(self.texts);
        let mut all: Vec<_> = texts.by_ref().take(usize::from(self.addresses)).collect();
        if self.addresses_left > 0 {
            all.push(left_out(self.addresses_left));
        }
        let mut first = || all.pop().unwrap_or_default();
        let route = match self.kind {
            Kind::Continue => json!("continue"),
            Kind::Deliver => json!("deliver"),
            Kind::Redirect => json!({ "redirect": first() }),
            Kind::Drop => json!({ "drop": first() }),
            Kind::FanOut => json!({ "fan_out": all }),
            Kind::Pick { version, index } => json!({ "pick": { "version": version, "index": index } }),
        };
        let mut headers = Map::new();
        for _ in 0..self.headers {
            if let (Some(name), Some(value)) = (texts.next(), texts.next()) {
                headers.insert(name, value.into());
            }
        }
        if self.headers_left > 0 {
            headers.insert(TRUNCATED.to_owned(), left_out(self.headers_left).into());
        }
        json!({ "route": route, SET_HEADERS: headers })
    }
}

/// A verdict for people, as long as it is.
pub(crate) fn show(ruling: &Ruling) -> Value {
    let mut texts = Texts::unbounded();
    Said::ruling(ruling, &mut texts).show(&texts).unwrap_or_default()
}

fn left_out(count: u8) -> String {
    format!("{TRUNCATED}: {count} more")
}

/// A number of addresses or headers; core's limits are smaller than what fits.
fn count(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

const _: () = assert!(
    waspmq_core::limits::FANOUT_MAX <= u8::MAX as usize
        && waspmq_core::limits::HEADERS_MAX <= u8::MAX as usize,
    "they are counted in one byte"
);
