//! The plan of a publish: everything that is decided about a message before anything is done with it.
//!
//! Order of decisions, here and nowhere else: session state, address, level and delay, rate, admission policies,
//! routing policies, ack policies.
//! The plan says where the message goes; taking offsets, enqueuing and writing is the worker's part.

use crate::address::Address;
use crate::delivery::AckPlan;
use crate::id::SessionId;
use crate::level::Level;
use crate::limits;
use crate::policy::{Admittance, Bound, Message, Outcome, Policies, Route, TraceId, Verdict};
use crate::registry::Pick;
use crate::reject::{Code, Reject};
use crate::session::{self, Session};
use crate::settings::{Keep, Settings};
use std::borrow::Cow;

/// Header names and values, in the order they were sent.
pub type Headers<'a> = [(Cow<'a, str>, Cow<'a, str>)];

/// A message that somebody wants published.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub to: &'a Address,
    pub payload: &'a [u8],
    pub is_json: bool,
    pub headers: &'a Headers<'a>,
    pub key: &'a str,
    pub reply_to: &'a str,
    pub priority: u8,
    /// What the publisher asks for; the address may demand more.
    pub level: Level,
    pub settings: &'a Settings,
    pub delay_ms: u64,
    /// Publish time, milliseconds since 1970, and on the monotonic clock in microseconds.
    pub unix_ms: u64,
    pub now_us: u64,
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    AsAddressed(Option<Pick>),
    /// In this order; never empty.
    Instead(Vec<Address>),
}

/// What is to be done with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub destination: Destination,
    /// The headers to deliver with, when policies changed them.
    pub headers: Option<Vec<(String, String)>>,
    /// The level to reach: the highest of what was asked for, what the address and what a policy demands.
    pub level: Level,
    /// What a policy planned, for whatever addresses the message goes to; `None` where their own settings hold. That
    /// includes a message that goes as addressed with what its settings say anyway, so that it shares a batch.
    pub ack: Option<AckPlan>,
    /// The record of what policies decided; whoever gives the message its id says so to them.
    pub trace: Option<TraceId>,
}

/// Decides about one message.
pub fn plan(
    session: &mut Session,
    request: &Request<'_>,
    policies: &mut impl Policies,
) -> Result<Plan, Reject> {
    session.handle_request(session::Request::Publish)?;
    check(request)?;
    session.handle_publish(request.now_us)?;
    let publisher = session.identity().map_or(("", None), |of| (of.user.as_str(), Some(of.id)));
    decide(publisher, request, policies)
}

/// Decides about a message of the admin API, which has no session.
pub fn plan_for_operator(request: &Request<'_>, policies: &mut impl Policies) -> Result<Plan, Reject> {
    check(request)?;
    decide(("", None), request, policies)
}

fn check(request: &Request<'_>) -> Result<(), Reject> {
    if request.payload.len() > limits::MESSAGE_BYTES_MAX {
        let message = format!(
            "payload has {} bytes, the limit is {}",
            request.payload.len(),
            limits::MESSAGE_BYTES_MAX
        );
        return Err(Reject::new(Code::MessageTooLarge, message));
    }
    check_level(request, level_of(request))?;
    if request.delay_ms > limits::DELAY_MS_MAX {
        let message = format!("delay_ms is {}, the limit is {}", request.delay_ms, limits::DELAY_MS_MAX);
        return Err(Reject::new(Code::InvalidFrame, message));
    }
    if !request.reply_to.is_empty() {
        Address::check(request.reply_to)
            .map_err(|error| Reject::new(Code::InvalidAddress, format!("reply_to: {error}")))?;
    }
    Ok(())
}

fn check_level(request: &Request<'_>, level: Level) -> Result<(), Reject> {
    if level == Level::Stored && request.settings.keep == Keep::Never {
        let message = format!("{} keeps no messages, so level `stored` cannot be reached", request.to);
        return Err(Reject::new(Code::NotStored, message));
    }
    Ok(())
}

fn level_of(request: &Request<'_>) -> Level {
    request.level.max(request.settings.level)
}

/// The user who publishes, and the session.
type Publisher<'a> = (&'a str, Option<SessionId>);

fn decide(
    publisher: Publisher<'_>,
    request: &Request<'_>,
    policies: &mut impl Policies,
) -> Result<Plan, Reject> {
    let bound = policies.bound(request.to.as_str());
    if bound.on_publish() {
        return ask(publisher, request, (policies, bound));
    }
    let destination = Destination::AsAddressed(None);
    // What is decided at the delivery is found by the record of the publish.
    let trace = if bound.compression { policies.trace() } else { None };
    Ok(Plan { destination, headers: None, level: level_of(request), ack: None, trace })
}

/// Asks the policies that are bound to the address.
fn ask(
    publisher: Publisher<'_>,
    request: &Request<'_>,
    (policies, bound): (&mut impl Policies, Bound),
) -> Result<Plan, Reject> {
    let mut headers: Vec<(String, String)> =
        request.headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let mut plan = Plan {
        destination: Destination::AsAddressed(None),
        headers: None,
        level: level_of(request),
        ack: None,
        trace: None,
    };
    if bound.captured {
        policies.capture(&message(publisher, request, &headers), request.settings);
    }
    if bound.admission {
        match policies.admit(&message(publisher, request, &headers)) {
            Admittance::Admitted => {}
            Admittance::Refused { reason, retry_ms } => {
                return Err(Reject::new(Code::RefusedByPolicy, reason).retry_after(retry_ms));
            }
            Admittance::Failed(reason) => return Err(policy_failed(reason)),
        }
    }
    let mut is_changed = false;
    if bound.routing {
        let verdict = match policies.route(&message(publisher, request, &headers)) {
            Outcome::Decided(verdict) => verdict,
            Outcome::Refused(reason) => return Err(policy_failed(reason)),
        };
        is_changed = !verdict.set_headers.is_empty();
        plan.destination = destination(verdict, &mut headers)?;
    }
    if bound.acking
        && let Some(asked) = policies.plan(&message(publisher, request, &headers), request.settings)
    {
        plan.level = plan.level.max(asked.level);
        let is_elsewhere = matches!(plan.destination, Destination::Instead(_));
        plan.ack = Some(asked.plan).filter(|ack| is_elsewhere || *ack != request.settings.ack);
        check_level(request, plan.level)?;
    }
    plan.headers = is_changed.then_some(headers);
    plan.trace = policies.trace();
    Ok(plan)
}

fn message<'a>(
    (from, session): Publisher<'a>,
    request: &Request<'a>,
    headers: &'a [(String, String)],
) -> Message<'a> {
    Message {
        from,
        session,
        to: request.to.as_str(),
        kind: request.to.kind(),
        key: request.key,
        payload: request.payload,
        is_json: request.is_json,
        headers,
        priority: request.priority,
        unix_ms: request.unix_ms,
    }
}

fn policy_failed(reason: String) -> Reject {
    Reject::new(Code::PolicyFailed, reason).retry_after(1_000)
}

/// Where a verdict sends the message; its headers are set on the way.
fn destination(verdict: Verdict, headers: &mut Vec<(String, String)>) -> Result<Destination, Reject> {
    let destination = match verdict.route {
        Route::Continue | Route::Deliver => Destination::AsAddressed(None),
        Route::Pick { version, index } => Destination::AsAddressed(Some(Pick { version, index })),
        Route::Redirect(address) => Destination::Instead(vec![address]),
        Route::FanOut(addresses) if addresses.is_empty() => {
            return Err(Reject::new(Code::DroppedByPolicy, "fan-out to no address"));
        }
        Route::FanOut(addresses) => Destination::Instead(addresses),
        Route::Drop(reason) => return Err(Reject::new(Code::DroppedByPolicy, reason)),
    };
    for (name, value) in verdict.set_headers {
        match headers.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) => *old = value,
            None => headers.push((name, value)),
        }
    }
    Ok(destination)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Name;
    use crate::id::SessionId;
    use crate::policy::{Acking, Acknowledgement, Admission, BySettings, Decision, Failure, Routing};
    use crate::registry;

    /// Policies of all hooks with constant answers.
    #[derive(Clone)]
    struct Fixed {
        admittance: Admittance,
        outcome: Outcome,
        /// What the ack policies say, where there are any.
        ack: Option<Option<Acknowledgement>>,
    }

    impl Fixed {
        fn routing(outcome: Outcome) -> Self {
            Self { admittance: Admittance::Admitted, outcome, ack: None }
        }
    }

    impl Policies for Fixed {
        fn bound(&mut self, _to: &str) -> Bound {
            Bound { admission: true, routing: true, acking: self.ack.is_some(), ..Bound::default() }
        }
    }

    impl Admission for Fixed {
        fn admit(&mut self, _message: &Message<'_>) -> Admittance {
            self.admittance.clone()
        }
    }

    impl Routing for Fixed {
        fn route(&mut self, _message: &Message<'_>) -> Outcome {
            self.outcome.clone()
        }
    }

    impl Acking for Fixed {
        fn plan(&mut self, message: &Message<'_>, _settings: &Settings) -> Option<Acknowledgement> {
            assert_eq!(message.headers.len(), 1, "with the headers that routing set");
            self.ack.unwrap()
        }

        fn failed(&mut self, _failure: &Failure<'_>) -> Decision {
            Decision::GiveUp
        }
    }

    fn session() -> Session {
        let mut session = Session::new(crate::admission::Rate::new(1, 2));
        session.handle_connected(registry::Session {
            id: SessionId::new(1, 0, 1),
            worker: 0,
            user: Name::parse("alice").unwrap(),
            device: None,
        });
        session
    }

    fn settings() -> &'static Settings {
        static SETTINGS: std::sync::OnceLock<Settings> = std::sync::OnceLock::new();
        SETTINGS.get_or_init(|| Settings::of_kind(crate::Kind::Topic))
    }

    fn request<'a>(to: &'a Address, headers: &'a Headers<'a>) -> Request<'a> {
        Request {
            to,
            payload: b"1",
            is_json: true,
            headers,
            key: "",
            reply_to: "",
            priority: 0,
            level: Level::None,
            settings: settings(),
            delay_ms: 0,
            unix_ms: 0,
            now_us: 0,
        }
    }

    fn routed(route: Route, set_headers: &[(&str, &str)]) -> Result<Plan, Code> {
        let to = Address::parse("topic/a").unwrap();
        let headers = [("k".into(), "old".into())];
        let set_headers = set_headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let mut routing = Fixed::routing(Outcome::Decided(Verdict { route, set_headers }));
        plan(&mut session(), &request(&to, &headers), &mut routing).map_err(|reject| reject.code)
    }

    #[test]
    fn verdicts_become_destinations() {
        let other = || Address::parse("user/b").unwrap();
        let destination = |route| routed(route, &[]).map(|plan| plan.destination);
        assert_eq!(destination(Route::Continue), Ok(Destination::AsAddressed(None)));
        assert_eq!(destination(Route::Deliver), Ok(Destination::AsAddressed(None)));
        assert_eq!(destination(Route::Redirect(other())), Ok(Destination::Instead(vec![other()])));
        assert_eq!(destination(Route::FanOut(vec![])), Err(Code::DroppedByPolicy));
        assert_eq!(destination(Route::Drop("spam".into())), Err(Code::DroppedByPolicy));
        let pick = Pick { version: 3, index: 1 };
        assert_eq!(
            destination(Route::Pick { version: 3, index: 1 }),
            Ok(Destination::AsAddressed(Some(pick)))
        );
    }

    #[test]
    fn headers_replace_and_add() {
        let plan = routed(Route::Continue, &[("k", "new"), ("n", "1")]).unwrap();
        let expected = [("k", "new"), ("n", "1")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(plan.headers.unwrap(), expected);
    }

    #[test]
    fn a_captured_message_is_taken_down_once_and_decided_as_ever() {
        #[derive(Default)]
        struct Capturing(Vec<String>);
        impl Policies for Capturing {
            fn bound(&mut self, _to: &str) -> Bound {
                Bound { captured: true, ..Bound::default() }
            }
            fn capture(&mut self, message: &Message<'_>, settings: &Settings) {
                assert_eq!(settings.keep, Keep::Requested);
                self.0.push(format!("{} to {}", message.from, message.to));
            }
        }
        impl Admission for Capturing {
            fn admit(&mut self, _message: &Message<'_>) -> Admittance {
                panic!("not bound")
            }
        }
        impl Routing for Capturing {
            fn route(&mut self, _message: &Message<'_>) -> Outcome {
                panic!("not bound")
            }
        }
        impl Acking for Capturing {
            fn plan(&mut self, _message: &Message<'_>, _settings: &Settings) -> Option<Acknowledgement> {
                panic!("not bound")
            }
            fn failed(&mut self, _failure: &Failure<'_>) -> Decision {
                panic!("not bound")
            }
        }
        let (to, mut policies) = (Address::parse("topic/a").unwrap(), Capturing::default());
        let captured = plan(&mut session(), &request(&to, &[]), &mut policies).unwrap();
        assert_eq!(captured, plan(&mut session(), &request(&to, &[]), &mut BySettings).unwrap());
        assert_eq!(policies.0, ["alice to topic/a"]);
    }

    #[test]
    fn the_address_may_demand_a_higher_level() {
        let to = Address::parse("topic/a").unwrap();
        let demanding = Settings { level: Level::Stored, ..settings().clone() };
        let level = |asked, settings| {
            let request = Request { level: asked, settings, ..request(&to, &[]) };
            plan(&mut session(), &request, &mut BySettings).unwrap().level
        };
        assert_eq!(level(Level::Accepted, settings()), Level::Accepted);
        assert_eq!(level(Level::None, &demanding), Level::Stored);
        assert_eq!(level(Level::Delivered, &demanding), Level::Delivered);
    }

    #[test]
    fn admission_comes_first_and_says_when_to_try_again() {
        let to = Address::parse("topic/a").unwrap();
        let drop = Outcome::Decided(Verdict { route: Route::Drop("spam".into()), set_headers: Vec::new() });
        let refused = |admittance| {
            let mut policies = Fixed { admittance, ..Fixed::routing(drop.clone()) };
            let reject = plan(&mut session(), &request(&to, &[]), &mut policies).unwrap_err();
            (reject.code, reject.message, reject.retry_ms)
        };
        assert_eq!(refused(Admittance::Admitted).0, Code::DroppedByPolicy);
        let full = Admittance::Refused { reason: "full".into(), retry_ms: 50 };
        assert_eq!(refused(full), (Code::RefusedByPolicy, "full".into(), 50));
        assert_eq!(refused(Admittance::Failed("p".into())).0, Code::PolicyFailed);
    }

    #[test]
    fn an_ack_policy_raises_the_level_and_replaces_the_plan() {
        let to = Address::parse("topic/a").unwrap();
        let twice = AckPlan { attempts: 2, ..settings().ack };
        let planned = |asked, level, ack, settings| {
            let set_headers = vec![("k".to_owned(), "v".to_owned())];
            let outcome = Outcome::Decided(Verdict { route: Route::Continue, set_headers });
            let acknowledgement = Acknowledgement { level, plan: ack };
            let mut policies = Fixed { ack: Some(Some(acknowledgement)), ..Fixed::routing(outcome) };
            let request = Request { level: asked, settings, ..request(&to, &[]) };
            let plan = plan(&mut session(), &request, &mut policies);
            plan.map(|plan| (plan.level, plan.ack)).map_err(|reject| reject.code)
        };
        let of = |asked, level| planned(asked, level, twice, settings()).unwrap();
        assert_eq!(of(Level::None, Level::Delivered), (Level::Delivered, Some(twice)));
        assert_eq!(of(Level::Delivered, Level::None), (Level::Delivered, Some(twice)));
        let same = planned(Level::None, Level::Accepted, settings().ack, settings());
        assert_eq!(same, Ok((Level::Accepted, None)), "the settings' plan is none of a policy's");
        let never = Settings { keep: Keep::Never, ..settings().clone() };
        assert_eq!(planned(Level::None, Level::Stored, twice, &never), Err(Code::NotStored));
    }

    #[test]
    fn a_policys_plan_goes_with_a_message_to_other_addresses() {
        let to = Address::parse("topic/a").unwrap();
        let planned = |route: Route, ack| {
            let set_headers = vec![("k".to_owned(), "v".to_owned())];
            let outcome = Outcome::Decided(Verdict { route, set_headers });
            let mut policies = Fixed { ack: Some(ack), ..Fixed::routing(outcome) };
            plan(&mut session(), &request(&to, &[]), &mut policies).unwrap().ack
        };
        let other = || Route::Redirect(Address::parse("topic/b").unwrap());
        let configured = settings().ack;
        let same = Some(Acknowledgement { level: Level::None, plan: configured });
        assert_eq!(planned(Route::Continue, same), None, "as the settings of the address say");
        assert_eq!(planned(other(), same), Some(configured), "the other address may have others");
        assert_eq!(planned(other(), None), None, "no policy decided");
    }

    #[test]
    fn refusals() {
        let to = Address::parse("topic/a").unwrap();
        let code = |request: Request<'_>| plan(&mut session(), &request, &mut BySettings).unwrap_err().code;
        let never = Settings { keep: Keep::Never, ..settings().clone() };
        let stored = Request { level: Level::Stored, settings: &never, ..request(&to, &[]) };
        assert_eq!(code(stored), Code::NotStored);
        let late = Request { delay_ms: limits::DELAY_MS_MAX + 1, ..request(&to, &[]) };
        assert_eq!(code(late), Code::InvalidFrame);
        assert_eq!(code(Request { reply_to: "topic/*", ..request(&to, &[]) }), Code::InvalidAddress);
        let large = vec![0; limits::MESSAGE_BYTES_MAX + 1];
        assert_eq!(code(Request { payload: &large, ..request(&to, &[]) }), Code::MessageTooLarge);
        let mut refusing = Fixed::routing(Outcome::Refused("p".into()));
        let refused = plan(&mut session(), &request(&to, &[]), &mut refusing).unwrap_err();
        assert_eq!(refused.code, Code::PolicyFailed);
        let mut session = session();
        for expected in [None, None, Some(Code::RateLimited)] {
            let answer = plan(&mut session, &request(&to, &[]), &mut BySettings);
            assert_eq!(answer.err().map(|reject| reject.code), expected);
        }
        let unconnected = plan(&mut Session::new(None), &request(&to, &[]), &mut BySettings).unwrap_err();
        assert_eq!(unconnected.code, Code::NotConnected);
    }
}
