//! The admin token: who knows it is the operator. Only its hash is kept, so nothing can print it.

use axum::http::{HeaderMap, header};
use blake3::Hash;

/// The token that requests must carry as `Authorization: Bearer <token>`.
///
/// Tokens are compared by their BLAKE3 hashes, and hashes in constant time: how long an answer takes tells
/// nothing about how much of a guess is right.
#[derive(Debug, Clone)]
pub struct Token(Hash);

impl Token {
    /// A text that is empty, or cannot travel in a header, is nobody's token: no request is let in by it.
    pub fn new(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()))
    }

    /// Whether a request with these headers carries this token. The scheme's case does not matter (RFC 9110, 11.1).
    pub(crate) fn is_in(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let Some((scheme, given)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
            return false;
        };
        let given = given.trim();
        scheme.eq_ignore_ascii_case("bearer") && !given.is_empty() && blake3::hash(given.as_bytes()) == self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn who_carries_the_token() {
        let carried = |token: &str, values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            Token::new(token).is_in(&headers)
        };
        let check = |values: &[&'static str], expected| {
            assert_eq!(carried("s3cret", values), expected, "{values:?}");
        };
        check(&["Bearer s3cret"], true);
        check(&["bearer  s3cret"], true);
        check(&[], false);
        check(&["s3cret"], false);
        check(&["Basic s3cret"], false);
        check(&["Bearer "], false);
        check(&["Bearer s3cre"], false);
        check(&["Bearer s3cret2"], false);
        check(&["Bearer s3cret", "Bearer s3cret"], false);
        for values in [&[][..], &["Bearer "], &["Bearer"], &["Bearer  "]] {
            assert!(!carried("", values), "{values:?}");
        }
    }

    #[test]
    fn it_cannot_be_printed() {
        assert!(!format!("{:?}", Token::new("s3cret")).contains("s3cret"));
    }
}
