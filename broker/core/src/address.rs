//! Addresses (where a message goes) and patterns (what a session subscribes to).
//!
//! Text forms: `user/<name>`, `group/<name>`, `topic/<token>.<token>…` and `all`. A pattern is an address, or
//! a topic in which a token is `*` (exactly one token) or the last token is `>` (one or more tokens).
//! Both are parsed once, where they enter; everything behind that point carries the checked value.
//! Deliberately not here: who may use an address.

use crate::limits;
use std::fmt;
use std::sync::{Arc, LazyLock};

/// What an address names. Used as a closed label in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    User,
    Group,
    Topic,
    All,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::User, Self::Group, Self::Topic, Self::All];

    /// The word used before the slash, and as a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Topic => "topic",
            Self::All => "all",
        }
    }
}

/// Why a text is not an address, a pattern or a name. The message is written for the person who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("address must be `user/<name>`, `group/<name>`, `topic/<tokens>` or `all`")]
    UnknownKind,
    #[error("name is empty")]
    EmptyName,
    #[error("name has {len} bytes, the limit is {max}")]
    NameTooLong { len: usize, max: usize },
    #[error("name contains {character:?}, which names may not contain")]
    BadCharacter { character: char },
    #[error("name is {name:?}, which paths of URLs have a meaning of their own for")]
    Dots { name: &'static str },
    #[error("topic has an empty token")]
    EmptyToken,
    #[error("topic has {count} tokens, the limit is {max}")]
    TooManyTokens { count: usize, max: usize },
    #[error("wildcards are for subscriptions; an address has none")]
    WildcardInAddress,
    #[error("`>` stands for the rest of a topic and must be its last token")]
    RestNotLast,
    #[error("wildcards are only possible in topics")]
    WildcardOutsideTopic,
}

/// A checked user, group, device or queue name: 1 to [`limits::NAME_BYTES_MAX`] bytes of UTF-8 without white
/// space, characters that are hidden ([`is_hidden`]), `/`, `*`, `>`, `#`, `"` or `\`; not `.` or `..`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        check_name(text)?;
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A checked address in its canonical text form.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(Arc<str>);

impl Address {
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }

    /// Checks without keeping, for the path on which the caller already holds an equal address.
    pub fn check(text: &str) -> Result<Kind, AddressError> {
        match check(text)? {
            (kind, false) => Ok(kind),
            (_, true) => Err(AddressError::WildcardInAddress),
        }
    }

    pub fn user(name: &Name) -> Self {
        Self(format!("user/{name}").into())
    }

    pub fn group(name: &Name) -> Self {
        Self(format!("group/{name}").into())
    }

    /// The address of everyone.
    pub fn all() -> Self {
        static ALL: LazyLock<Arc<str>> = LazyLock::new(|| "all".into());
        Self(ALL.clone())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn kind(&self) -> Kind {
        kind_of(&self.0)
    }

    /// The part behind the slash; empty for `all`.
    pub fn name(&self) -> &str {
        name_of(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A checked subscription pattern: an address, or a topic with `*` and `>` tokens.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern {
    text: Arc<str>,
    wildcard: bool,
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (_, wildcard) = check(text)?;
        Ok(Self { text: text.into(), wildcard })
    }

    /// Parses what a policy may be bound to: a pattern, or `user/*` or `group/*` for all users or all groups.
    pub fn parse_scope(text: &str) -> Result<Self, AddressError> {
        match text {
            "user/*" | "group/*" => Ok(Self { text: text.into(), wildcard: true }),
            _ => Self::parse(text),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn kind(&self) -> Kind {
        kind_of(&self.text)
    }

    /// The part behind the slash; empty for `all`.
    pub fn name(&self) -> &str {
        name_of(&self.text)
    }

    pub const fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// The pattern as an address, when it has no wildcard.
    pub fn to_address(&self) -> Option<Address> {
        (!self.wildcard).then(|| Address(self.text.clone()))
    }

    /// Whether a message to `address` belongs to this pattern.
    pub fn matches(&self, address: &Address) -> bool {
        self.covers(&address.0)
    }

    /// The same for the text of a checked address.
    pub fn covers(&self, address: &str) -> bool {
        if !self.wildcard {
            return *self.text == *address;
        }
        let kind = self.kind();
        kind_of(address) == kind
            && (kind != Kind::Topic || tokens_match(name_of(&self.text), name_of(address)))
    }

    /// Whether some address belongs to both patterns.
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.kind() != other.kind() {
            return false;
        }
        match self.kind() {
            Kind::Topic => tokens_overlap(self.name(), other.name()),
            _ => self.wildcard || other.wildcard || self.text == other.text,
        }
    }
}

impl From<&Address> for Pattern {
    fn from(address: &Address) -> Self {
        Self { text: address.0.clone(), wildcard: false }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn tokens_match(pattern: &str, topic: &str) -> bool {
    let mut topic_tokens = topic.split('.');
    for token in pattern.split('.') {
        match (token, topic_tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (literal, Some(other)) if literal == other => {}
            _ => return false,
        }
    }
    topic_tokens.next().is_none()
}

fn tokens_overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

fn kind_of(text: &str) -> Kind {
    match text.as_bytes().first() {
        Some(b'u') => Kind::User,
        Some(b'g') => Kind::Group,
        Some(b't') => Kind::Topic,
        _ => Kind::All,
    }
}

fn name_of(text: &str) -> &str {
    text.split_once('/').map_or("", |(_, name)| name)
}

/// Checks `text` and says what it is and whether it holds a wildcard.
fn check(text: &str) -> Result<(Kind, bool), AddressError> {
    if text == "all" {
        return Ok((Kind::All, false));
    }
    let (kind, name) = text.split_once('/').ok_or(AddressError::UnknownKind)?;
    match kind {
        "user" => check_plain(name).map(|()| (Kind::User, false)),
        "group" => check_plain(name).map(|()| (Kind::Group, false)),
        "topic" => check_topic(name).map(|wildcard| (Kind::Topic, wildcard)),
        _ => Err(AddressError::UnknownKind),
    }
}

fn check_plain(name: &str) -> Result<(), AddressError> {
    if name == "*" || name == ">" {
        return Err(AddressError::WildcardOutsideTopic);
    }
    check_name(name)
}

fn check_name(name: &str) -> Result<(), AddressError> {
    check_length(name)?;
    if let Some(name) = [".", ".."].into_iter().find(|dots| *dots == name) {
        return Err(AddressError::Dots { name });
    }
    match name.chars().find(|&c| !is_name_character(c)) {
        Some(character) => Err(AddressError::BadCharacter { character }),
        None => Ok(()),
    }
}

fn check_length(name: &str) -> Result<(), AddressError> {
    if name.is_empty() {
        return Err(AddressError::EmptyName);
    }
    if name.len() > limits::NAME_BYTES_MAX {
        return Err(AddressError::NameTooLong { len: name.len(), max: limits::NAME_BYTES_MAX });
    }
    Ok(())
}

fn check_topic(name: &str) -> Result<bool, AddressError> {
    check_length(name)?;
    let (mut count, mut wildcard, mut rest_seen) = (0, false, false);
    for token in name.split('.') {
        count += 1;
        if rest_seen {
            return Err(AddressError::RestNotLast);
        }
        match token {
            "" => return Err(AddressError::EmptyToken),
            "*" => wildcard = true,
            ">" => (wildcard, rest_seen) = (true, true),
            _ => {
                if let Some(character) = token.chars().find(|&c| !is_name_character(c)) {
                    return Err(AddressError::BadCharacter { character });
                }
            }
        }
    }
    if count > limits::TOPIC_TOKENS_MAX {
        return Err(AddressError::TooManyTokens { count, max: limits::TOPIC_TOKENS_MAX });
    }
    Ok(wildcard)
}

fn is_name_character(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_graphic() && !matches!(c, '/' | '*' | '>' | '#' | '"' | '\\');
    }
    !c.is_whitespace() && !is_hidden(c)
}

/// Whether a character is not to be seen and changes how the text around it is shown: control characters, those that turn the
/// direction of writing, and others without a width, but for the joiners that words of some languages need.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_case(text: &str, expected: &Result<(Kind, bool), AddressError>) {
        assert_eq!(&check(text), expected, "{text:?}");
    }

    #[test]
    fn addresses_and_patterns() {
        check_case("all", &Ok((Kind::All, false)));
        check_case("user/alice", &Ok((Kind::User, false)));
        check_case("user/alice@example.org", &Ok((Kind::User, false)));
        check_case("group/büro", &Ok((Kind::Group, false)));
        check_case("topic/orders.eu.created", &Ok((Kind::Topic, false)));
        check_case("topic/orders.*.created", &Ok((Kind::Topic, true)));
        check_case("topic/>", &Ok((Kind::Topic, true)));
        check_case("", &Err(AddressError::UnknownKind));
        check_case("alice", &Err(AddressError::UnknownKind));
        check_case("queue/x", &Err(AddressError::UnknownKind));
        check_case("user/", &Err(AddressError::EmptyName));
        check_case("user/a b", &Err(AddressError::BadCharacter { character: ' ' }));
        check_case("user/a\nb", &Err(AddressError::BadCharacter { character: '\n' }));
        check_case("group/a\u{202e}b", &Err(AddressError::BadCharacter { character: '\u{202e}' }));
        check_case("topic/a\u{feff}", &Err(AddressError::BadCharacter { character: '\u{feff}' }));
        check_case("group/می\u{200c}خواهم", &Ok((Kind::Group, false)));
        check_case("group/.", &Err(AddressError::Dots { name: "." }));
        check_case("user/..", &Err(AddressError::Dots { name: ".." }));
        check_case("user/...", &Ok((Kind::User, false)));
        check_case("user/*", &Err(AddressError::WildcardOutsideTopic));
        check_case("topic/a..b", &Err(AddressError::EmptyToken));
        check_case("topic/a.>.b", &Err(AddressError::RestNotLast));
        check_case("topic/a*", &Err(AddressError::BadCharacter { character: '*' }));
        let long = format!("user/{}", "x".repeat(limits::NAME_BYTES_MAX + 1));
        check_case(
            &long,
            &Err(AddressError::NameTooLong { len: limits::NAME_BYTES_MAX + 1, max: limits::NAME_BYTES_MAX }),
        );
        let deep = format!("topic/{}", vec!["t"; limits::TOPIC_TOKENS_MAX + 1].join("."));
        check_case(
            &deep,
            &Err(AddressError::TooManyTokens {
                count: limits::TOPIC_TOKENS_MAX + 1,
                max: limits::TOPIC_TOKENS_MAX,
            }),
        );
    }

    #[test]
    fn wildcards_are_not_addresses() {
        assert_eq!(Address::parse("topic/a.*"), Err(AddressError::WildcardInAddress));
    }

    #[test]
    fn scopes_cover_all_users_or_groups() {
        let users = Pattern::parse_scope("user/*").unwrap();
        assert!(users.matches(&Address::parse("user/a").unwrap()));
        assert!(!users.matches(&Address::parse("group/a").unwrap()));
        assert!(Pattern::parse_scope("group/*").unwrap().matches(&Address::parse("group/a").unwrap()));
        assert!(Pattern::parse_scope("topic/>").unwrap().matches(&Address::parse("topic/a").unwrap()));
        assert_eq!(Pattern::parse_scope("user/a*"), Pattern::parse("user/a*"));
    }

    #[test]
    fn pattern_matching() {
        let check = |pattern: &str, topic: &str, expected: bool| {
            let matched = Pattern::parse(pattern).unwrap().matches(&Address::parse(topic).unwrap());
            assert_eq!(matched, expected, "{pattern} {topic}");
        };
        check("topic/a.b", "topic/a.b", true);
        check("topic/a.*", "topic/a.b", true);
        check("topic/a.*", "topic/a.b.c", false);
        check("topic/a.>", "topic/a.b.c", true);
        check("topic/a.>", "topic/a", false);
        check("topic/>", "topic/a", true);
        check("topic/*.b", "topic/a.c", false);
        check("topic/>", "user/a", false);
        check("user/a", "user/a", true);
    }

    #[test]
    fn patterns_overlap_where_an_address_is_in_both() {
        let check = |one: &str, other: &str, expected: bool| {
            let [one, other] = [one, other].map(|text| Pattern::parse_scope(text).unwrap());
            assert_eq!(one.overlaps(&other), expected, "{one} {other}");
            assert_eq!(other.overlaps(&one), expected, "{other} {one}");
        };
        check("topic/a.b", "topic/a.b", true);
        check("topic/a.b", "topic/a.c", false);
        check("topic/a.*", "topic/*.b", true);
        check("topic/a.*", "topic/b.>", false);
        check("topic/a.>", "topic/a.*.c", true);
        check("topic/a.>", "topic/a", false);
        check("topic/>", "topic/a", true);
        check("topic/>", "user/*", false);
        check("user/*", "user/a", true);
        check("user/b", "user/a", false);
        check("all", "all", true);
    }
}
