//! The plan of a publish: everything that is decided about a message before anything is done with it.
//!
//! Order of decisions, here and nowhere else: session state, address, level and delay, rate, routing policies.
//! The plan says where the message goes; taking offsets, enqueuing and writing is the worker's part.

use crate::address::Address;
use crate::level::Level;
use crate::limits;
use crate::policy::{Message, Outcome, Route, Routing};
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
    /// The level to reach: what was asked for or what the address demands.
    pub level: Level,
}

/// Decides about one message.
pub fn plan(
    session: &mut Session,
    request: &Request<'_>,
    routing: &mut impl Routing,
) -> Result<Plan, Reject> {
    session.handle_request(session::Request::Publish)?;
    check(request)?;
    session.handle_publish(request.now_us)?;
    let from = session.identity().map_or("", |identity| identity.user.as_str());
    route(from, request, routing)
}

/// Decides about a message of the admin API, which has no session.
pub fn plan_for_operator(request: &Request<'_>, routing: &mut impl Routing) -> Result<Plan, Reject> {
    check(request)?;
    route("", request, routing)
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
    if level_of(request) == Level::Stored && request.settings.keep == Keep::Never {
        let message = format!("{} keeps no messages, so level `stored` cannot be reached", request.to);
        return Err(Reject::new(Code::NotStored, message));
    }
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

fn level_of(request: &Request<'_>) -> Level {
    request.level.max(request.settings.level)
}

fn route(from: &str, request: &Request<'_>, routing: &mut impl Routing) -> Result<Plan, Reject> {
    let level = level_of(request);
    if !routing.applies(request.to.as_str()) {
        return Ok(Plan { destination: Destination::AsAddressed(None), headers: None, level });
    }
    let mut headers: Vec<(String, String)> =
        request.headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let outcome = routing.route(&Message {
        from,
        to: request.to.as_str(),
        kind: request.to.kind(),
        key: request.key,
        payload: request.payload,
        is_json: request.is_json,
        headers: &headers,
        priority: request.priority,
        unix_ms: request.unix_ms,
    });
    let verdict = match outcome {
        Outcome::Decided(verdict) => verdict,
        Outcome::Refused(reason) => return Err(Reject::new(Code::PolicyFailed, reason).retry_after(1_000)),
    };
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
    if verdict.set_headers.is_empty() {
        return Ok(Plan { destination, headers: None, level });
    }
    for (name, value) in verdict.set_headers {
        match headers.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) => *old = value,
            None => headers.push((name, value)),
        }
    }
    Ok(Plan { destination, headers: Some(headers), level })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Name;
    use crate::id::SessionId;
    use crate::policy::{AsAddressed, Verdict};
    use crate::registry;

    struct Fixed(Outcome);

    impl Routing for Fixed {
        fn applies(&mut self, _to: &str) -> bool {
            true
        }

        fn route(&mut self, _message: &Message<'_>) -> Outcome {
            self.0.clone()
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
        let mut routing = Fixed(Outcome::Decided(Verdict { route, set_headers }));
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
    fn the_address_may_demand_a_higher_level() {
        let to = Address::parse("topic/a").unwrap();
        let demanding = Settings { level: Level::Stored, ..settings().clone() };
        let level = |asked, settings| {
            let request = Request { level: asked, settings, ..request(&to, &[]) };
            plan(&mut session(), &request, &mut AsAddressed).unwrap().level
        };
        assert_eq!(level(Level::Accepted, settings()), Level::Accepted);
        assert_eq!(level(Level::None, &demanding), Level::Stored);
        assert_eq!(level(Level::Delivered, &demanding), Level::Delivered);
    }

    #[test]
    fn refusals() {
        let to = Address::parse("topic/a").unwrap();
        let code = |request: Request<'_>| plan(&mut session(), &request, &mut AsAddressed).unwrap_err().code;
        let never = Settings { keep: Keep::Never, ..settings().clone() };
        let stored = Request { level: Level::Stored, settings: &never, ..request(&to, &[]) };
        assert_eq!(code(stored), Code::NotStored);
        let late = Request { delay_ms: limits::DELAY_MS_MAX + 1, ..request(&to, &[]) };
        assert_eq!(code(late), Code::InvalidFrame);
        assert_eq!(code(Request { reply_to: "topic/*", ..request(&to, &[]) }), Code::InvalidAddress);
        let large = vec![0; limits::MESSAGE_BYTES_MAX + 1];
        assert_eq!(code(Request { payload: &large, ..request(&to, &[]) }), Code::MessageTooLarge);
        let mut refusing = Fixed(Outcome::Refused("p".into()));
        let refused = plan(&mut session(), &request(&to, &[]), &mut refusing).unwrap_err();
        assert_eq!(refused.code, Code::PolicyFailed);
        let mut session = session();
        for expected in [None, None, Some(Code::RateLimited)] {
            let answer = plan(&mut session, &request(&to, &[]), &mut AsAddressed);
            assert_eq!(answer.err().map(|reject| reject.code), expected);
        }
        let unconnected = plan(&mut Session::new(None), &request(&to, &[]), &mut AsAddressed).unwrap_err();
        assert_eq!(unconnected.code, Code::NotConnected);
    }
}
