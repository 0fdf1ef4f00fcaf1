//! Patterns with variables, such as `user/{sub}` or `topic/teams.{claims.team}.>`.
//!
//! Variables are `{sub}` (the user), `{device}` and `{claims.<name>}` (a claim of the token that is text). A brace
//! is never part of an address here, although names may hold one.

use super::Subject;
use crate::address::{AddressError, Name, Pattern};
use std::fmt;

/// Why a text is not a pattern with variables. Written for the author of a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("there is no variable {{{name}}}; there are {{sub}}, {{device}} and {{claims.<name>}}")]
    UnknownVariable { name: String },
    #[error("a brace has no partner")]
    OpenBrace,
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// A pattern in which names and tokens may hold variables. `user/*` and `group/*` are all users and all groups.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    text: Box<str>,
    form: Form,
}

#[derive(Clone, PartialEq, Eq)]
enum Form {
    /// Without variables.
    Fixed(Pattern),
    Variable {
        parts: Box<[Part]>,
        /// Whether a dot in a value would begin another token.
        is_topic: bool,
    },
}

#[derive(Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    User,
    Device,
    Claim(Box<str>),
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let parts = parse_parts(text)?;
        // Whatever the values are, the pattern has the form that it has with this harmless one.
        let sample: String = parts.iter().map(|part| part.literal().unwrap_or("x")).collect();
        let pattern = Pattern::parse_scope(&sample)?;
        let form = if parts.iter().all(|part| part.literal().is_some()) {
            Form::Fixed(pattern)
        } else {
            Form::Variable { parts: parts.into(), is_topic: sample.starts_with("topic/") }
        };
        Ok(Self { text: text.into(), form })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The pattern for one subject. `None` when a variable has no value, or one that is not a name (in a topic: a
    /// token), or the whole is too long.
    pub fn expand(&self, subject: &Subject<'_>) -> Option<Pattern> {
        let (parts, is_topic) = match &self.form {
            Form::Fixed(pattern) => return Some(pattern.clone()),
            Form::Variable { parts, is_topic } => (parts, *is_topic),
        };
        let mut text = String::with_capacity(64);
        for part in parts {
            let value = match part {
                Part::Literal(literal) => {
                    text.push_str(literal);
                    continue;
                }
                Part::User => subject.user.as_str(),
                Part::Device => subject.device?.as_str(),
                Part::Claim(name) => subject.claims.iter().find(|(other, _)| other == name)?.1.as_ref(),
            };
            if Name::parse(value).is_err() || is_topic && value.contains('.') {
                return None;
            }
            text.push_str(value);
        }
        Pattern::parse(&text).ok()
    }
}

impl Part {
    fn literal(&self) -> Option<&str> {
        match self {
            Self::Literal(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

fn parse_parts(text: &str) -> Result<Vec<Part>, TemplateError> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some((before, behind)) = rest.split_once('{') {
        let (name, after) = behind.split_once('}').ok_or(TemplateError::OpenBrace)?;
        push_literal(&mut parts, before)?;
        parts.push(match (name, name.strip_prefix("claims.")) {
            ("sub", _) => Part::User,
            ("device", _) => Part::Device,
            (_, Some(claim)) if !claim.is_empty() => Part::Claim(claim.into()),
            _ => return Err(TemplateError::UnknownVariable { name: name.to_owned() }),
        });
        rest = after;
    }
    push_literal(&mut parts, rest)?;
    Ok(parts)
}

fn push_literal(parts: &mut Vec<Part>, text: &str) -> Result<(), TemplateError> {
    if text.contains('}') {
        return Err(TemplateError::OpenBrace);
    }
    if !text.is_empty() {
        parts.push(Part::Literal(text.into()));
    }
    Ok(())
}
