//! What a user may do with which addresses: rules with variables, and the rights they give one user.
//!
//! Rules only grant; what no rule grants is refused. Rules are written as [`Template`]s and become [`Grants`] once
//! per session, when the user, the device and the claims are known.
//!
//! *Invariants.* A wildcard subscription is allowed only if one rule covers every address it can match. The value
//! of a variable is one name, or one token of a topic: it never adds a token or a wildcard, and a value that would
//! makes its pattern grant nothing. Deliberately not here: who the user is and where rules come from.

mod template;
#[cfg(test)]
mod tests;

pub use template::{Template, TemplateError};

use crate::address::{Address, Kind, Name, Pattern};
use crate::reject::{Code, Reject};

/// What a rule can grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send messages to an address.
    Publish,
    /// Receive the messages of a topic, alone or in a queue.
    Subscribe,
    /// Become a member of a group.
    Join,
    /// Read what an address keeps.
    History,
    /// See who of an address is connected.
    Presence,
}

impl Action {
    pub const ALL: [Self; 5] = [Self::Publish, Self::Subscribe, Self::Join, Self::History, Self::Presence];

    /// The word in a rule's `allow`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Join => "join",
            Self::History => "history",
            Self::Presence => "presence",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }
}

/// A set of actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Actions(u8);

impl Actions {
    pub const fn contains(self, action: Action) -> bool {
        self.0 & 1 << action as u8 != 0
    }
}

impl FromIterator<Action> for Actions {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        Self(actions.into_iter().fold(0, |set, action| set | 1 << action as u8))
    }
}

/// Whom rights are worked out for.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub user: &'a Name,
    pub device: Option<&'a Name>,
    /// Names and values of the claims that are text.
    pub claims: &'a [(Box<str>, Box<str>)],
}

/// One grant: these actions on all addresses of these patterns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub patterns: Vec<Template>,
    pub allow: Actions,
}

/// What one session may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Rights {
    /// Nobody's rights are restricted.
    #[default]
    Everything,
    Granted(Grants),
}

/// The rules as they apply to one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    /// The user's own address, whose messages and history are theirs.
    own: Address,
    grants: Box<[(Pattern, Actions)]>,
}

impl Grants {
    /// Patterns whose variables have no usable value for this subject are left out.
    pub fn new<'a>(rules: impl IntoIterator<Item = &'a Rule>, subject: &Subject<'_>) -> Self {
        let expand = |rule: &'a Rule| {
            let patterns = rule.patterns.iter().filter_map(|template| template.expand(subject));
            patterns.map(|pattern| (pattern, rule.allow))
        };
        let grants = rules.into_iter().flat_map(expand).collect();
        Self { own: Address::user(subject.user), grants }
    }

    fn allows(&self, action: Action, address: &Address) -> bool {
        let is_own = matches!(action, Action::Subscribe | Action::History) && *address == self.own;
        is_own
            || self.grants.iter().any(|(pattern, allow)| allow.contains(action) && pattern.matches(address))
    }

    fn covers(&self, action: Action, wanted: &Pattern) -> bool {
        self.grants.iter().any(|(pattern, allow)| allow.contains(action) && covers(pattern, wanted))
    }
}

impl Rights {
    /// Whether `action` is allowed on this address.
    pub fn allows(&self, action: Action, address: &Address) -> bool {
        match self {
            Self::Everything => true,
            Self::Granted(grants) => grants.allows(action, address),
        }
    }

    /// Whether `action` is allowed on every address that `wanted` can match.
    pub fn covers(&self, action: Action, wanted: &Pattern) -> bool {
        match (self, wanted.to_address()) {
            (Self::Everything, _) => true,
            (Self::Granted(grants), Some(address)) => grants.allows(action, &address),
            (Self::Granted(grants), None) => grants.covers(action, wanted),
        }
    }

    /// [`Self::allows`], with the refusal for the peer.
    pub fn check(&self, action: Action, address: &Address) -> Result<(), Reject> {
        if self.allows(action, address) { Ok(()) } else { Err(forbidden(action, address.as_str())) }
    }

    /// [`Self::covers`], with the refusal for the peer.
    pub fn check_pattern(&self, action: Action, wanted: &Pattern) -> Result<(), Reject> {
        if self.covers(action, wanted) { Ok(()) } else { Err(forbidden(action, wanted.as_str())) }
    }
}

fn forbidden(action: Action, on: &str) -> Reject {
    Reject::new(Code::Forbidden, format!("no rule allows this session to {} on {on}", action.as_str()))
}

/// Whether every address that `wanted` matches is matched by `pattern`. True answers are exact; that several
/// patterns cover something only together is not looked for.
fn covers(pattern: &Pattern, wanted: &Pattern) -> bool {
    if pattern == wanted {
        return true;
    }
    if let Some(address) = wanted.to_address() {
        return pattern.matches(&address);
    }
    pattern.is_wildcard()
        && pattern.kind() == Kind::Topic
        && wanted.kind() == Kind::Topic
        && tokens_cover(pattern.name(), wanted.name())
}

fn tokens_cover(pattern: &str, wanted: &str) -> bool {
    let mut wanted_tokens = wanted.split('.');
    for token in pattern.split('.') {
        match (token, wanted_tokens.next()) {
            (">", Some(_)) => return true,
            // One token is not enough for one or more.
            (_, Some(">")) => return false,
            ("*", Some(_)) => {}
            (literal, Some(other)) if literal == other => {}
            _ => return false,
        }
    }
    wanted_tokens.next().is_none()
}
