//! Why a request or a connection failed.

use waspmq_protocol::EncodeError;
use waspmq_protocol::server::Refusal;

/// `Clone`, because one failure may end many requests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The URL is none of `ws://host:port/path`, `wss://host:port/path`, `quic://host:port` and `wt://host:port/path`, or
    /// asks for what this client cannot do.
    #[error("cannot use the URL {url:?}: {message}")]
    Url { url: String, message: String },
    /// No connection, or something else than a broker on the other side.
    #[error("cannot connect to {url}: {message}")]
    Connect { url: String, message: String },
    /// Whom to trust cannot be read.
    #[error("cannot use TLS: {message}")]
    Tls { message: String },
    /// The broker did not answer in time.
    #[error("{url} did not answer within {seconds} s")]
    Timeout { url: String, seconds: u64 },
    /// The broker answered the request with an error.
    #[error("{} ({}): {}", .0.name, .0.number, .0.message)]
    Refused(Refusal),
    /// The request cannot be sent as it is.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The request is larger than this broker takes; it was not sent, because the broker would close the connection.
    #[error("the frame has {bytes} bytes, this broker takes {max}")]
    TooLarge { bytes: usize, max: usize },
    /// The connection was lost before the answer came: whether the broker saw the request is unknown.
    #[error("the connection was lost before the answer came")]
    ConnectionLost,
    /// The broker ended the session and does not want the client back.
    #[error("the broker closed the session: code {code}{}", why(.reason, .refusal.as_ref()))]
    Closed { code: u16, reason: String, refusal: Option<Refusal> },
    /// The program's token provider failed.
    #[error("no token: {message}")]
    Token { message: String },
    /// No reply came in time.
    #[error("no reply within {ms} ms")]
    NoReply { ms: u64 },
    /// A request needs to know where its reply is to go: a user named to the builder, or `reply_to`.
    #[error("a request needs a user or a `reply_to`")]
    NoReplyAddress,
    /// The message has no `reply_to`.
    #[error("the message does not say where a reply is to go")]
    NotARequest,
    /// This client was closed.
    #[error("the client is closed")]
    Ended,
}

/// The reason, and the error that came before the close; what both say stands once.
fn why(reason: &str, refusal: Option<&Refusal>) -> String {
    match refusal {
        Some(refusal) if refusal.name == reason => format!(", {reason}: {}", refusal.message),
        Some(refusal) if reason.is_empty() => format!(", {}: {}", refusal.name, refusal.message),
        Some(refusal) => format!(", {reason} ({}: {})", refusal.name, refusal.message),
        None if reason.is_empty() => String::new(),
        None => format!(", {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reason_and_refusal_both_say_stands_once() {
        let refusal = |name: &str| {
            let message = "the session's token has ended".to_owned();
            Refusal { number: 1402, name: name.to_owned(), message, retry_ms: 0 }
        };
        let check = |reason: &str, refusal: Option<Refusal>, expected: &str| {
            let error = Error::Closed { code: 4004, reason: reason.to_owned(), refusal };
            assert_eq!(error.to_string(), format!("the broker closed the session: code 4004{expected}"));
        };
        let ended = refusal("token_expired");
        check("token_expired", Some(ended.clone()), ", token_expired: the session's token has ended");
        check("kicked", Some(ended.clone()), ", kicked (token_expired: the session's token has ended)");
        check("", Some(ended), ", token_expired: the session's token has ended");
        check("kicked", None, ", kicked");
        check("", None, "");
    }
}
