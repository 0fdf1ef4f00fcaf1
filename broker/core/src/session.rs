//! The session state machine: what a peer may do when, and what it is subscribed to.
//!
//! | state | `connect` | other frames | drain | close |
//! | --- | --- | --- | --- | --- |
//! | handshake | ready | `not_connected`, close | draining | closed |
//! | ready | `already_connected`, close | done | draining | closed |
//! | draining | `draining` | publish `draining`, else done | draining | closed |
//! | closed | – | – | closed | closed |
//!
//! Only after `connect` succeeds does a session exist. Not here: transports, frames, delivery.

use crate::address::{Address, Kind, Name, Pattern};
use crate::admission::Rate;
use crate::limits;
use crate::registry;
use crate::reject::{Code, Reject};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Handshake,
    Ready,
    Draining,
    Closed,
}

/// What a frame asks for, as far as the state decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Connect,
    Publish,
    Other,
}

/// A plain subscription, or a place in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub pattern: Pattern,
    pub queue: Option<Name>,
}

/// One peer's session, from the accepted connection to its end.
#[derive(Debug)]
pub struct Session {
    state: State,
    /// Who this is, once `connect` succeeded.
    identity: Option<registry::Session>,
    subscriptions: Vec<Subscription>,
    rate: Option<Rate>,
}

impl Session {
    /// `rate` limits publishes; `None` is unlimited.
    pub const fn new(rate: Option<Rate>) -> Self {
        Self { state: State::Handshake, identity: None, subscriptions: Vec::new(), rate }
    }

    /// Whether `request` is in order now.
    pub fn handle_request(&self, request: Request) -> Result<(), Reject> {
        match (self.state, request) {
            (State::Handshake, Request::Connect) | (State::Ready, Request::Publish | Request::Other) => {
                Ok(())
            }
            (State::Draining, Request::Other) if self.identity.is_some() => Ok(()),
            (State::Handshake, _) => Err(Reject::new(Code::NotConnected, "send `connect` first")),
            (State::Ready, Request::Connect) => {
                Err(Reject::new(Code::AlreadyConnected, "this connection has a session already"))
            }
            (State::Draining | State::Closed, _) => {
                Err(Reject::new(Code::Draining, "the broker is leaving service").retry_after(1_000))
            }
        }
    }

    pub fn handle_connected(&mut self, identity: registry::Session) {
        self.identity = Some(identity);
        self.state = State::Ready;
    }

    pub fn handle_drain(&mut self) {
        if self.state != State::Closed {
            self.state = State::Draining;
        }
    }

    /// Ends the session; gives who it was and what it was subscribed to, once.
    pub fn handle_close(&mut self) -> Option<(registry::Session, Vec<Subscription>)> {
        self.state = State::Closed;
        Some((self.identity.take()?, std::mem::take(&mut self.subscriptions)))
    }

    /// Counts one publish against the rate.
    pub fn handle_publish(&mut self, now_us: u64) -> Result<(), Reject> {
        let Some(rate) = &mut self.rate else { return Ok(()) };
        rate.admit(now_us).map_err(|wait_ms| {
            Reject::new(Code::RateLimited, "more messages a second than this session may publish")
                .retry_after(wait_ms)
        })
    }

    /// Whether the session may have this subscription and does not have it yet. `is_member` answers whether
    /// the user is in a group. A subscription that is implied (the user's own address, `all`, a joined
    /// group) is accepted and not kept.
    pub fn handle_subscribe(
        &self,
        wanted: &Subscription,
        is_member: impl FnOnce(&str) -> bool,
    ) -> Result<Subscribe, Reject> {
        let own = self.identity.as_ref().map_or("", |identity| identity.user.as_str());
        let address = wanted.pattern.to_address();
        let name = address.as_ref().map_or("", Address::name);
        let implied = match wanted.pattern.kind() {
            Kind::Topic => false,
            _ if wanted.queue.is_some() => {
                return Err(Reject::new(Code::InvalidAddress, "queues are only possible on topics"));
            }
            Kind::All => true,
            Kind::User if name == own => true,
            Kind::User => return Err(Reject::new(Code::Forbidden, "another user's address")),
            Kind::Group if is_member(name) => true,
            Kind::Group => {
                return Err(Reject::new(Code::Forbidden, "not a member of this group; send `join` first"));
            }
        };
        if implied || self.subscriptions.contains(wanted) {
            return Ok(Subscribe::Already);
        }
        if self.subscriptions.len() >= limits::SUBSCRIPTIONS_PER_SESSION_MAX {
            let message = format!("the session has {} subscriptions already", self.subscriptions.len());
            return Err(Reject::new(Code::TooManySubscriptions, message));
        }
        Ok(Subscribe::New)
    }

    pub fn handle_subscribed(&mut self, subscription: Subscription) {
        self.subscriptions.push(subscription);
    }

    /// Forgets a subscription; `not_found` when there is none.
    pub fn handle_unsubscribe(&mut self, wanted: &Subscription) -> Result<(), Reject> {
        let index = self.subscriptions.iter().position(|subscription| subscription == wanted);
        let Some(index) = index else {
            return Err(Reject::new(Code::NotFound, self.what_is_missing(wanted)));
        };
        self.subscriptions.swap_remove(index);
        Ok(())
    }

    /// Names what is there under the same pattern, which is often what was meant.
    fn what_is_missing(&self, wanted: &Subscription) -> String {
        let pattern = &wanted.pattern;
        match self.subscriptions.iter().find(|subscription| subscription.pattern == *pattern) {
            None => format!("no subscription to {pattern}"),
            Some(Subscription { queue: Some(queue), .. }) => {
                format!("no such subscription to {pattern}; there is one with the queue {queue}")
            }
            Some(Subscription { queue: None, .. }) => {
                format!("no such subscription to {pattern}; there is one without a queue")
            }
        }
    }

    pub const fn state(&self) -> State {
        self.state
    }

    /// What was subscribed to, without what is implied.
    pub fn subscriptions(&self) -> &[Subscription] {
        &self.subscriptions
    }

    pub const fn identity(&self) -> Option<&registry::Session> {
        self.identity.as_ref()
    }
}

/// The answer to [`Session::handle_subscribe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscribe {
    New,
    Already,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SessionId;

    fn ready() -> Session {
        let mut session = Session::new(None);
        session.handle_connected(registry::Session {
            id: SessionId::new(1, 0, 1),
            worker: 0,
            user: Name::parse("alice").unwrap(),
            device: None,
        });
        session
    }

    fn subscription(text: &str, queue: Option<&str>) -> Subscription {
        Subscription { pattern: Pattern::parse(text).unwrap(), queue: queue.map(|q| Name::parse(q).unwrap()) }
    }

    #[test]
    fn transitions() {
        let check = |session: &Session, request, expected: Option<Code>| {
            assert_eq!(session.handle_request(request).err().map(|reject| reject.code), expected);
        };
        let fresh = Session::new(None);
        check(&fresh, Request::Connect, None);
        check(&fresh, Request::Publish, Some(Code::NotConnected));
        let mut session = ready();
        check(&session, Request::Publish, None);
        check(&session, Request::Connect, Some(Code::AlreadyConnected));
        session.handle_drain();
        check(&session, Request::Publish, Some(Code::Draining));
        check(&session, Request::Other, None);
        assert!(session.handle_close().is_some());
        assert!(session.handle_close().is_none());
        session.handle_drain();
        assert_eq!(session.state(), State::Closed);
    }

    #[test]
    fn who_may_subscribe_to_what() {
        let session = ready();
        let check = |text: &str, queue, expected: Result<Subscribe, Code>| {
            let answer = session.handle_subscribe(&subscription(text, queue), |group| group == "eng");
            assert_eq!(answer.map_err(|reject| reject.code), expected, "{text}");
        };
        check("topic/a.*", None, Ok(Subscribe::New));
        check("topic/a", Some("q"), Ok(Subscribe::New));
        check("user/alice", None, Ok(Subscribe::Already));
        check("all", None, Ok(Subscribe::Already));
        check("group/eng", None, Ok(Subscribe::Already));
        check("group/ops", None, Err(Code::Forbidden));
        check("user/bob", None, Err(Code::Forbidden));
        check("all", Some("q"), Err(Code::InvalidAddress));
    }

    #[test]
    fn subscriptions_are_bounded_and_idempotent() {
        let mut session = ready();
        for i in 0..limits::SUBSCRIPTIONS_PER_SESSION_MAX {
            session.handle_subscribed(subscription(&format!("topic/t{i}"), None));
        }
        let again = session.handle_subscribe(&subscription("topic/t0", None), |_| false);
        assert_eq!(again, Ok(Subscribe::Already));
        let more = session.handle_subscribe(&subscription("topic/x", None), |_| false);
        assert_eq!(more.unwrap_err().code, Code::TooManySubscriptions);
        assert_eq!(session.handle_unsubscribe(&subscription("topic/t0", None)), Ok(()));
        let missing = session.handle_unsubscribe(&subscription("topic/t0", None));
        assert_eq!(missing.unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn who_unsubscribes_from_another_subscription_is_told_which_there_is() {
        let mut session = ready();
        session.handle_subscribed(subscription("topic/jobs", Some("workers")));
        session.handle_subscribed(subscription("topic/news", None));
        let missing = |session: &mut Session, pattern, queue| {
            session.handle_unsubscribe(&subscription(pattern, queue)).unwrap_err().message
        };
        assert!(missing(&mut session, "topic/jobs", None).ends_with("one with the queue workers"));
        assert!(missing(&mut session, "topic/news", Some("workers")).ends_with("one without a queue"));
        assert_eq!(missing(&mut session, "topic/x", None), "no subscription to topic/x");
        assert_eq!(session.subscriptions().len(), 2);
    }
}
