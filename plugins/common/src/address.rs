//! Where messages are sent to, and which they are.

use serde::Deserialize;

const NAME_BYTES_MAX: usize = 256;
const TOKENS_MAX: usize = 32;
/// Stands for what is behind the slash of the message's address.
const NAME: &str = "{name}";

/// An address, or one made of a message's: in `topic/vip.{name}` the name is that of the message's address, so
/// `topic/jobs.x` becomes `topic/vip.jobs.x`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Target {
    before: String,
    /// What comes behind the name, when there is one.
    behind: Option<String>,
}

impl TryFrom<String> for Target {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        check(&text.replacen(NAME, "name", 1)).map_err(|why| {
            format!("an address such as topic/audit or topic/vip.{NAME} is expected, not {text:?}: {why}")
        })?;
        Ok(match text.split_once(NAME) {
            Some((before, behind)) => Self { before: before.to_owned(), behind: Some(behind.to_owned()) },
            None => Self { before: text, behind: None },
        })
    }
}

impl Target {
    /// Where a message to `address` goes; nothing when that is no address: it is too long, or the message's has no name.
    pub fn of(&self, address: &str) -> Option<String> {
        let Some(behind) = &self.behind else { return Some(self.before.clone()) };
        let (_, name) = address.split_once('/')?;
        let target = format!("{}{name}{behind}", self.before);
        fits(&target).then_some(target)
    }
}

/// Whether a text put together from good parts is an address: their characters are those of one.
fn fits(target: &str) -> bool {
    let Some((kind, name)) = target.split_once('/') else { return false };
    let mut tokens = name.as_bytes().split(|byte| *byte == b'.');
    let are_tokens = kind != "topic"
        || tokens.by_ref().take(TOKENS_MAX).all(|token| !token.is_empty()) && tokens.next().is_none();
    name.len() <= NAME_BYTES_MAX && are_tokens
}

/// Whether a text is the address of messages, as the broker sees it.
fn check(text: &str) -> Result<(), &'static str> {
    if text == "all" {
        return Ok(());
    }
    let Some((kind, name)) = text.split_once('/') else { return Err("it has no kind") };
    if !matches!(kind, "topic" | "user" | "group") {
        return Err("its kind is none of topic, user and group");
    }
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err("its name has not 1 to 256 bytes");
    }
    if name.contains(['*', '>']) {
        return Err("it is a pattern");
    }
    let is_good = |c: char| match c.is_ascii() {
        true => c.is_ascii_graphic() && !matches!(c, '/' | '#' | '"' | '\\' | '{' | '}'),
        false => !c.is_whitespace() && !c.is_control(),
    };
    if !name.chars().all(is_good) {
        return Err("its name has a character that it may not have");
    }
    if kind == "topic" && (name.split('.').any(str::is_empty) || name.split('.').count() > TOKENS_MAX) {
        return Err("a topic has 1 to 32 tokens, none of them empty");
    }
    Ok(())
}

/// A pattern of addresses, as subscriptions write them; also `user/*` and `group/*`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_all_of_a_kind = matches!(text.as_str(), "user/*" | "group/*");
        let rest_is_last = text.find('>').is_none_or(|at| at + 1 == text.len());
        let stars_are_tokens =
            text.split(['.', '/']).all(|token| !token.contains(['*', '>']) || token.len() == 1);
        let is_topic = text.starts_with("topic/") && rest_is_last && stars_are_tokens;
        let as_address = if is_topic { text.replace(['*', '>'], "x") } else { text.clone() };
        match check(&as_address) {
            Err(why) if !is_all_of_a_kind => {
                Err(format!("a pattern such as topic/orders.> or user/* is expected, not {text:?}: {why}"))
            }
            _ => Ok(Self(text)),
        }
    }
}

impl Pattern {
    pub fn matches(&self, address: &str) -> bool {
        match self.0.strip_suffix("/*") {
            Some(kind @ ("user" | "group")) => {
                address.strip_prefix(kind).is_some_and(|rest| rest.starts_with('/'))
            }
            _ => waspmq_plugin_sdk::matches(&self.0, address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Result<Target, String> {
        Target::try_from(text.to_owned())
    }

    #[test]
    fn targets() {
        let of = |text: &str, address: &str| target(text).unwrap().of(address);
        assert_eq!(of("topic/audit", "topic/a.b").as_deref(), Some("topic/audit"));
        assert_eq!(of("topic/vip.{name}", "topic/jobs.x").as_deref(), Some("topic/vip.jobs.x"));
        assert_eq!(of("topic/{name}.late", "user/ann").as_deref(), Some("topic/ann.late"));
        assert_eq!(of("user/{name}", "topic/ann").as_deref(), Some("user/ann"));
        assert_eq!(of("all", "topic/a").as_deref(), Some("all"));
        assert_eq!(of("topic/vip.{name}", "all"), None);
        assert_eq!(of("topic/vip.{name}", &format!("topic/{}", "x".repeat(253))), None);
        assert_eq!(of("topic/vip.{name}", "user/.ann"), None);
        assert_eq!(of("user/{name}", "topic/a.b").as_deref(), Some("user/a.b"));
        let tokens = |count: usize| format!("topic/{}", vec!["t"; count].join("."));
        assert!(of("topic/vip.{name}", &tokens(31)).is_some());
        assert_eq!(of("topic/vip.{name}", &tokens(32)), None);
    }

    #[test]
    fn what_is_not_one_address_is_refused() {
        for (text, expected) in [
            ("audit", "no kind"),
            ("", "no kind"),
            ("queue/x", "none of topic, user and group"),
            ("topic/", "1 to 256 bytes"),
            ("topic/a.>", "pattern"),
            ("topic/a b", "character"),
            ("topic/{address}", "character"),
            ("topic/{name}.{name}", "character"),
            ("topic/a..b", "none of them empty"),
        ] {
            let error = target(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn patterns() {
        let pattern = |text: &str| Pattern::try_from(text.to_owned());
        let check = |text: &str, address, expected| {
            assert_eq!(pattern(text).unwrap().matches(address), expected, "{text} {address}");
        };
        check("topic/a.>", "topic/a.b.c", true);
        check("topic/a.>", "topic/a", false);
        check("topic/*.x", "topic/a.x", true);
        check("user/*", "user/a", true);
        check("user/*", "group/a", false);
        check("user/a", "user/a", true);
        check("all", "all", true);
        for bad in ["", "orders", "topic/a*", "topic/>.a", "topic/a..b", "user/>", "group/a*", "topic/*>"] {
            assert!(pattern(bad).unwrap_err().contains("a pattern such as"), "{bad}");
        }
    }
}
