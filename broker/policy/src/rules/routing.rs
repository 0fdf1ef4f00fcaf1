//! What a rule says about where a message goes.

use super::reader::{At, BadRule, Texts};
use crate::bindings::Cache;
use crate::verdict::{self, Answer, AnsweredRoute, Known};
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use waspmq_core::address::Address;
use waspmq_core::limits::FANOUT_MAX;
use waspmq_core::policy::{Route, Verdict};

/// A checked verdict, but for the address of the message itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Routed {
    Fixed(Verdict),
    /// As addressed, and to these as well.
    Mirror(Verdict, Box<[Address]>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    route: Option<String>,
    to: Option<Texts>,
    mirror: Option<Texts>,
    drop: Option<String>,
    set_headers: BTreeMap<String, String>,
}

impl Routed {
    pub(crate) fn parse(at: At<'_>, then: &Value) -> Result<Self, BadRule> {
        let document = match then {
            Value::String(route) => Document { route: Some(route.clone()), ..Document::default() },
            then => at.read(then)?,
        };
        let Document { route, to, mirror, drop, set_headers } = &document;
        let choices = [route.is_some(), to.is_some(), mirror.is_some(), drop.is_some()];
        let chosen = choices.into_iter().filter(|&chosen| chosen).count();
        if chosen > 1 || (chosen == 0 && set_headers.is_empty()) {
            return Err(at.bad("has one of `route`, `to`, `mirror` and `drop`, or only `set_headers`"));
        }
        let (key, answered) = match (route, to, mirror, drop) {
            (Some(word), ..) => {
                let words = [("continue", Word::Continue), ("deliver", Word::Deliver)];
                let here = if then.is_string() { at.0.to_owned() } else { format!("{}.route", at.0) };
                match At(&here).word(word, &words)? {
                    Word::Continue => ("route", AnsweredRoute::Continue),
                    Word::Deliver => ("route", AnsweredRoute::Deliver),
                }
            }
            (_, Some(to), ..) => ("to", deliver_to(to.as_slice())),
            (.., Some(mirror), _) => ("mirror", deliver_to(mirror.as_slice())),
            (.., Some(reason)) => ("drop", AnsweredRoute::Drop(Cow::Borrowed(reason))),
            (None, None, None, None) => ("set_headers", AnsweredRoute::Continue),
        };
        check_headers(at, set_headers)?;
        let borrow = |(name, value): (&'_ String, &'_ String)| (name.clone().into(), value.clone().into());
        let answer = Answer {
            route: answered,
            set_headers: set_headers.iter().map(borrow).collect(),
            cache: Cache::Never,
        };
        let checked = verdict::check(answer, &mut Known::default());
        let checked = Verdict::from(checked.map_err(|bad| at.bad_key(key, bad.to_string()))?.ruling);
        if mirror.is_none() {
            return Ok(Self::Fixed(checked));
        }
        let Verdict { route, set_headers } = checked;
        let copies = match route {
            Route::Redirect(to) => vec![to],
            Route::FanOut(all) if all.len() < FANOUT_MAX => all,
            _ => {
                let most = FANOUT_MAX - 1;
                return Err(
                    at.bad_key(key, format!("has more than {most} addresses beside the message's own"))
                );
            }
        };
        Ok(Self::Mirror(Verdict { route: Route::Continue, set_headers }, copies.into()))
    }

    /// The verdict on a message to this address. One that goes only where its copies go is passed on.
    pub(crate) fn verdict(&self, to: &str) -> Verdict {
        let (verdict, copies) = match self {
            Self::Fixed(verdict) => return verdict.clone(),
            Self::Mirror(verdict, copies) => (verdict.clone(), copies),
        };
        let Ok(original) = Address::parse(to) else { return verdict };
        let others = || copies.iter().filter(|copy| **copy != original).cloned();
        if others().next().is_none() {
            return verdict;
        }
        let all = std::iter::once(original.clone()).chain(others()).collect();
        Verdict { route: Route::FanOut(all), ..verdict }
    }
}

#[derive(Debug, Clone, Copy)]
enum Word {
    Continue,
    Deliver,
}

fn deliver_to(to: &[String]) -> AnsweredRoute<'_> {
    match to {
        [one] => AnsweredRoute::Redirect(Cow::Borrowed(one)),
        all => AnsweredRoute::FanOut(all.iter().map(|to| Cow::Borrowed(to.as_str())).collect()),
    }
}

fn check_headers(at: At<'_>, headers: &BTreeMap<String, String>) -> Result<(), BadRule> {
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    verdict::check_headers(&headers).map_err(|bad| at.bad_key("set_headers", bad.to_string()))
}
