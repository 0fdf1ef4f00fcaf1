//! The clients of a run: who they are, how many are made at a time, and what their errors mean to whoever started the run.

use super::limits::CONNECTING_MAX;
use super::options::Common;
use crate::cli::failure::Failure;
use crate::cli::token::SigningKey;
use anyhow::anyhow;
use serde_json::{Map, Value, json};
use std::future::Future;
use std::sync::Arc;
use tokio::task::JoinSet;
use waspmq_client::{Builder, Client, Code, Error, Messages};

/// What tells a run from others.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// Part of addresses and users.
    pub(super) name: String,
    /// In every message.
    pub(super) tag: u32,
}

impl Run {
    pub(super) fn new() -> anyhow::Result<Self> {
        let mut bytes = [0; 8];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow!("the system has no randomness"))?;
        let number = u64::from_be_bytes(bytes);
        let tag = u32::try_from(number & u64::from(u32::MAX)).unwrap_or_default();
        Ok(Self { name: format!("{number:016x}"), tag })
    }

    fn user(&self, number: usize) -> String {
        format!("bench-{}-{number}", self.name)
    }

    pub(super) fn address(&self, publisher: usize) -> String {
        format!("topic/bench.{}.{publisher}", self.name)
    }
}

/// Makes the builders of all clients.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    builder: Builder,
    run: Run,
    who: Who,
}

/// Who a client is, and what lets it in.
#[derive(Debug, Clone)]
enum Who {
    /// Whoever it says.
    Named,
    /// The one user of a token.
    Holder,
    /// A user with a token of its own, for this run's topics only.
    Signed(SigningKey, Map<String, Value>),
}

impl Origin {
    pub(super) fn new(common: &Common, run: &Run, now_s: u64) -> Result<Self, Failure> {
        let who = if common.signer.is_given() {
            let mut claims = common.signer.claims(&run.user(0), now_s)?;
            let topics = format!("topic/bench.{}.>", run.name);
            claims.insert("acl".to_owned(), json!([{"match": [topics], "allow": ["publish", "subscribe"]}]));
            Who::Signed(common.signer.open()?, claims)
        } else if common.reach.token().is_some() {
            Who::Holder
        } else {
            Who::Named
        };
        let builder = common.reach.tell(Client::builder(&common.url)).profile(common.profile());
        Ok(Self { builder, run: run.clone(), who })
    }

    /// Messages are acknowledged by who receives them: what comes besides is left to others.
    fn builder(&self, number: usize) -> anyhow::Result<Builder> {
        let builder = self.builder.clone().manual_acks();
        match &self.who {
            Who::Named => Ok(builder.user(self.run.user(number))),
            Who::Holder => Ok(builder),
            Who::Signed(key, claims) => {
                let mut claims = claims.clone();
                claims.insert("sub".to_owned(), self.run.user(number).into());
                Ok(builder.token(key.sign(&claims)?))
            }
        }
    }

    /// Connects one of the clients.
    pub(super) async fn connect(&self, number: usize) -> Result<(Client, Messages), Failed> {
        let builder = self.builder(number).map_err(Failed::Here)?;
        builder.connect().await.map_err(Failed::There)
    }
}

/// Why a client is not connected.
#[derive(Debug)]
pub(super) enum Failed {
    /// Its token could not be signed.
    Here(anyhow::Error),
    There(Error),
}

impl Failed {
    pub(super) fn explained(self, what: &str) -> anyhow::Error {
        match self {
            Self::Here(error) => error.context(what.to_owned()),
            Self::There(error) => explained(error, what),
        }
    }

    pub(super) fn cause(&self) -> String {
        match self {
            Self::Here(error) => format!("{error:#}"),
            Self::There(error) => cause(error),
        }
    }
}

/// Makes `count` of something, a bounded number at a time, in the order of their numbers. The first error ends it.
pub(super) async fn make_all<T, F>(
    count: usize,
    make: impl Fn(usize) -> F,
    mut made: impl FnMut(usize),
) -> anyhow::Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let mut making = JoinSet::new();
    let mut done: Vec<(usize, T)> = Vec::with_capacity(count);
    let mut next = 0;
    while done.len() < count {
        while next < count && making.len() < CONNECTING_MAX {
            let (number, one) = (next, make(next));
            making.spawn(async move { one.await.map(|it| (number, it)) });
            next += 1;
        }
        let Some(one) = making.join_next().await else { break };
        done.push(one??);
        made(done.len());
    }
    done.sort_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, it)| it).collect())
}

/// Says goodbye, all at once. Nobody else may hold them any more; who does keeps the connection until the process ends.
pub(super) async fn close_all(clients: Vec<Arc<Client>>) {
    let mut closing = JoinSet::new();
    for client in clients.into_iter().filter_map(Arc::into_inner) {
        // That the broker ended it before is told by what was counted.
        closing.spawn(async move { drop(client.close().await) });
    }
    closing.join_all().await;
}

/// What could not be done, why, and where the broker lacks a right or has no room, what to change.
pub(super) fn explained(error: Error, what: &str) -> anyhow::Error {
    let what = match advice(&error) {
        Some(advice) => format!("{what} ({advice})"),
        None => what.to_owned(),
    };
    anyhow::Error::new(error).context(what)
}

fn advice(error: &Error) -> Option<&'static str> {
    let Error::Refused(refusal) = error else { return None };
    match refusal.code()? {
        Code::Forbidden if !refusal.message.contains("token") => Some(
            "a rule of the broker's or of the token's has to allow `publish` and `subscribe` for topic/bench.>",
        ),
        Code::TooManySessions => Some(
            "with one token all clients are one user; sign one for each with --key, or see access.sessions_per_user",
        ),
        _ => None,
    }
}

/// A failure without what differs from client to client, to be counted.
pub(super) fn cause(error: &Error) -> String {
    match error {
        Error::Refused(refusal) => format!("{} ({})", refusal.name, refusal.number),
        Error::Connect { message, .. } => format!("cannot connect: {message}"),
        Error::Timeout { seconds, .. } => format!("no answer within {seconds} s"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_client::Refusal;

    fn refused(code: Code, message: &str) -> Error {
        let (number, name) = (code.number(), code.name().to_owned());
        Error::Refused(Refusal { number, name, message: message.to_owned(), retry_ms: 0 })
    }

    #[test]
    fn a_missing_right_is_named() {
        let check = |error: Error, expected: &str| {
            let shown = format!("{:#}", explained(error, "cannot subscribe to topic/bench.1.0"));
            assert!(shown.starts_with("cannot subscribe to topic/bench.1.0"), "{shown}");
            assert!(shown.contains(expected), "{shown}");
        };
        check(
            refused(Code::Forbidden, "no rule allows it"),
            "allow `publish` and `subscribe` for topic/bench.>",
        );
        check(refused(Code::Forbidden, "no rule allows it"), "forbidden (1403): no rule allows it");
        check(refused(Code::Forbidden, "a name needs a token"), "0: forbidden");
        check(refused(Code::TooManySessions, "64"), "access.sessions_per_user");
        check(Error::Ended, "0: the client is closed");
    }

    #[test]
    fn causes_are_the_same_for_all_clients() {
        assert_eq!(cause(&refused(Code::RateLimited, "of user a-1")), "rate_limited (1429)");
        let connect = Error::Connect { url: "ws://a:1".to_owned(), message: "refused".to_owned() };
        assert_eq!(cause(&connect), "cannot connect: refused");
    }

    #[tokio::test]
    async fn all_are_made_in_order_or_none() {
        let make = |number: usize| async move {
            if number == 700 { Err(anyhow!("number {number}")) } else { Ok(number) }
        };
        let mut last = 0;
        let made = make_all(600, make, |count| last = count).await.unwrap();
        assert!(made.is_sorted() && made.len() == 600 && last == 600);
        assert_eq!(make_all(800, make, |_| {}).await.unwrap_err().to_string(), "number 700");
    }
}
