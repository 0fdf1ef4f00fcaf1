//! Texts with `*`, which stands for any characters, also none, as in rules of the broker.

use serde::Deserialize;

const GLOB_BYTES_MAX: usize = 256;
/// With one star only the ends of a text are compared; with more it is searched once.
const STARS_MAX: usize = 8;

/// A pattern of one text. A star in a text is matched by one in the pattern, as any other character is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Glob {
    /// What comes before the first star; all of it when there is none.
    first: String,
    /// What comes behind each star.
    rest: Vec<String>,
}

impl TryFrom<String> for Glob {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.len() > GLOB_BYTES_MAX {
            let len = text.len();
            return Err(format!("a pattern of 1 to {GLOB_BYTES_MAX} bytes is expected, this one has {len}"));
        }
        let mut pieces = text.split('*').map(str::to_owned);
        let first = pieces.next().unwrap_or_default();
        let rest: Vec<_> = pieces.collect();
        if rest.len() > STARS_MAX {
            return Err(format!("a pattern with at most {STARS_MAX} stars is expected, not {text:?}"));
        }
        Ok(Self { first, rest })
    }
}

impl Glob {
    pub fn matches(&self, text: &str) -> bool {
        let Some((last, middle)) = self.rest.split_last() else { return text == self.first };
        let Some(mut left) = text.strip_prefix(self.first.as_str()) else { return false };
        for piece in middle {
            let Some((_, behind)) = left.split_once(piece.as_str()) else { return false };
            left = behind;
        }
        left.ends_with(last.as_str())
    }

    /// How much of the pattern is not a star: of two that match, the one with more says more.
    pub fn literal_bytes(&self) -> usize {
        self.first.len() + self.rest.iter().map(String::len).sum::<usize>()
    }
}

/// Whether one of the patterns matches.
pub fn any_matches(globs: &[Glob], text: &str) -> bool {
    globs.iter().any(|glob| glob.matches(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(text: &str) -> Result<Glob, String> {
        Glob::try_from(text.to_owned())
    }

    #[test]
    fn patterns() {
        let check = |pattern: &str, text: &str, expected: bool| {
            assert_eq!(glob(pattern).unwrap().matches(text), expected, "{pattern} {text}");
        };
        check("alice", "alice", true);
        check("alice", "alice2", false);
        check("bot-*", "bot-7", true);
        check("bot-*", "bot", false);
        check("*", "", true);
        check("*.eu", "shop.eu", true);
        check("a*a", "a", false);
        check("a*b*c", "a-b-c", true);
        check("a*b*c", "acb", false);
        check("*aa", "aaa", true);
        check("a*aa", "aa", false);
        check("ü*", "über", true);
    }

    #[test]
    fn bounds() {
        assert!(glob("").unwrap_err().contains("1 to 256 bytes"));
        assert!(glob(&"x".repeat(257)).is_err());
        assert!(glob(&"*".repeat(STARS_MAX)).is_ok());
        assert!(glob(&"*".repeat(STARS_MAX + 1)).unwrap_err().contains("8 stars"));
        assert_eq!(glob("ab*c").unwrap().literal_bytes(), 3);
    }
}
