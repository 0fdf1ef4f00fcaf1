//! Texts with `*`, which stands for any characters, also none.
//!
//! With one star, only the ends of the text are compared; with more, the text is searched once from its beginning to its
//! end, whoever wrote it. There is no way to write a star that stands for itself; a star in a text is matched by one in
//! the pattern, as any other character is.

use crate::limits;

/// A pattern of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    /// What comes before the first star; all of it when there is none.
    first: Box<str>,
    /// What comes behind each star.
    rest: Box<[Box<str>]>,
}

impl Glob {
    /// The error is a sentence for whoever wrote the pattern.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > limits::GLOB_BYTES_MAX {
            return Err(format!(
                "a pattern has 1 to {} bytes, this one has {}",
                limits::GLOB_BYTES_MAX,
                text.len()
            ));
        }
        let mut pieces = text.split('*').map(Box::from);
        let first = pieces.next().unwrap_or_default();
        let rest: Box<[_]> = pieces.collect();
        if rest.len() > limits::GLOB_STARS_MAX {
            return Err(format!(
                "a pattern has at most {} stars, {text:?} has {}",
                limits::GLOB_STARS_MAX,
                rest.len()
            ));
        }
        Ok(Self { first, rest })
    }

    /// Whether matching takes time in proportion to the text.
    pub(crate) const fn searches(&self) -> bool {
        self.rest.len() > 1
    }

    #[inline]
    pub(crate) fn matches(&self, text: &str) -> bool {
        let Some((last, middle)) = self.rest.split_last() else { return *text == *self.first };
        let Some(mut left) = text.strip_prefix(&*self.first) else { return false };
        for piece in middle {
            let Some((_, behind)) = left.split_once(&**piece) else { return false };
            left = behind;
        }
        left.ends_with(&**last)
    }
}

/// Whether one of the patterns matches; true when there are none, which asks for nothing.
#[inline]
pub(crate) fn any_matches(globs: &[Glob], text: &str) -> bool {
    globs.is_empty() || globs.iter().any(|glob| glob.matches(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let check = |pattern: &str, text: &str, expected: bool| {
            assert_eq!(Glob::parse(pattern).unwrap().matches(text), expected, "{pattern} {text}");
        };
        check("alice", "alice", true);
        check("alice", "alice2", false);
        check("bot-*", "bot-7", true);
        check("bot-*", "bot-", true);
        check("bot-*", "bot", false);
        check("*", "", true);
        check("*", "anything", true);
        check("*.eu", "shop.eu", true);
        check("*.eu", "shop.eu.de", false);
        check("a*b", "ab", true);
        check("a*a", "a", false);
        check("a*b*c", "a-b-c", true);
        check("a*b*c", "acb", false);
        check("*b*", "abc", true);
        check("**", "x", true);
        check("*aa", "aaa", true);
        check("a*aa", "aa", false);
        check("ü*", "über", true);
        check("*", "a*b", true);
    }

    #[test]
    fn bounds() {
        assert!(Glob::parse("").unwrap_err().contains("1 to 256 bytes"));
        assert!(Glob::parse(&"x".repeat(257)).is_err());
        assert!(Glob::parse(&"*".repeat(limits::GLOB_STARS_MAX)).is_ok());
        assert!(Glob::parse(&"*".repeat(limits::GLOB_STARS_MAX + 1)).unwrap_err().contains("8 stars"));
    }
}
