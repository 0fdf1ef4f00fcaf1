//! Ids of events, and requests for them.

use super::*;
use waspmq_core::Address;
use waspmq_core::settings::Overflow;

fn class(shard: u16, epoch: u32, offset: u64) -> Class {
    let stream = Stream { shard, epoch };
    Class {
        to: Address::all(),
        overflow: Overflow::DropOldest,
        priority: 0,
        first: Position { stream, offset },
        last_offset: offset + 1,
        key: None,
        expires_unix_ms: 0,
        is_stored: false,
        of_queue: false,
    }
}

fn text(id: Option<Vec<u8>>) -> Option<String> {
    id.map(|id| String::from_utf8(id).unwrap())
}

#[test]
fn an_id_is_what_a_session_is_resumed_with() {
    let mut events = Events::new(&["s1e1:5".parse().unwrap()]);
    events.set_token(Secret::new("t"));
    assert_eq!(text(events.take_id(true)), None, "nothing was written");
    events.note_written(&class(1, 1, 3));
    events.note_written(&class(2, 1, 7));
    let id = text(events.take_id(true)).unwrap();
    assert_eq!(id, "id: t,s1e1:5,s2e1:8\n\n", "the latest of each stream");
    assert_eq!(text(events.take_id(true)), None, "it is told once");
    let resume = parse_id(id.trim().strip_prefix("id: ").unwrap()).unwrap();
    assert_eq!(resume.token.expose(), "t");
    assert_eq!(resume.positions, ["s1e1:5".parse().unwrap(), "s2e1:8".parse().unwrap()]);
    for bad in ["t,", "t,s1", "t,s1e1:5,x"] {
        assert!(parse_id(bad).is_none(), "{bad}");
    }
    let many = (0..=POSITIONS_MAX).fold("t".to_owned(), |id, shard| format!("{id},s{shard}e1:1"));
    assert!(parse_id(&many).is_none());
}

#[test]
fn a_connection_that_never_rests_is_told_its_id_now_and_then() {
    let mut events = Events::new(&[]);
    events.set_token(Secret::new("t"));
    events.note_written(&class(1, 1, 3));
    events.note_bytes(ID_EVERY_BYTES - 1);
    assert_eq!(text(events.take_id(false)), None);
    events.note_bytes(1);
    assert_eq!(text(events.take_id(false)).unwrap(), "id: t,s1e1:4\n\n");
    events.note_written(&class(1, 1, 4));
    assert_eq!(text(events.take_id(false)), None, "counted anew");
}

#[test]
fn an_id_names_the_latest_stream_of_each_shard() {
    let mut events = Events::new(&["s1e3:9".parse().unwrap(), "s2e9:1".parse().unwrap()]);
    events.set_token(Secret::new("t"));
    for shard in 0..u16::try_from(POSITIONS_MAX).unwrap() {
        events.note_written(&class(shard, 4, 1));
    }
    let id = text(events.take_id(true)).unwrap();
    assert_eq!(id.split(',').count() - 1, POSITIONS_MAX);
    assert!(id.contains(",s1e4:2,s2e9:1,"), "{id}");
    // A browser sends it in a header, beside an address and what a proxy adds.
    assert!(id.len() < waspmq_transport::limits::HEAD_BYTES_MAX / 2);
    let mut fresh = Events::new(&["s1e3:9".parse().unwrap()]);
    fresh.set_token(Secret::new("t"));
    fresh.begin(false);
    assert_eq!(text(fresh.id()).unwrap(), "id: t\n\n", "another session's positions mean nothing");
}

/// What a request subscribes to, its token, and the number of positions it resumes from.
type Found = (Vec<String>, Option<String>, Option<usize>);

fn asked(head: &str) -> Result<Found, Reject> {
    let request = http::parse(head.as_bytes()).unwrap().unwrap();
    let asked = Asked::parse(&request)?;
    let positions = asked.connect.resume.map(|resume| resume.positions.len());
    let token = asked.connect.token.map(|token| token.expose().to_owned());
    Ok((asked.subscriptions.into_iter().map(Into::into).collect(), token, positions))
}

#[test]
fn what_a_request_asks_for() {
    let head = |target: &str, more: &str| format!("GET {target} HTTP/1.1\r\nHost: h\r\n{more}\r\n");
    let (to, token, positions) = asked(&head("/sse?to=topic/a.%3E&to=all&other=1", "")).unwrap();
    assert_eq!((to, token, positions), (vec!["topic/a.>".to_owned(), "all".to_owned()], None, None));
    let (_, token, _) = asked(&head("/sse", "Authorization: bearer s3cret\r\n")).unwrap();
    assert_eq!(token.as_deref(), Some("s3cret"));
    let (_, token, _) = asked(&head("/sse?token=q", "Authorization: Bearer h\r\n")).unwrap();
    assert_eq!(token.as_deref(), Some("q"));
    let header = "Last-Event-ID: t,s1e1:5,s2e1:6\r\n";
    assert_eq!(asked(&head("/sse?last_event_id=t", header)).unwrap().2, Some(2), "the header is newer");
    assert_eq!(asked(&head("/sse?last_event_id=t,s1e1:5", "")).unwrap().2, Some(1));
    assert_eq!(asked(&head("/sse?last_event_id=", "")).unwrap().2, None);
    assert!(asked(&head("/sse?last_event_id=t,x", "")).is_err());
    let many = "&to=all".repeat(SUBSCRIPTIONS_MAX);
    assert!(asked(&head(&format!("/sse?{many}"), "")).is_ok());
    assert!(asked(&head(&format!("/sse?{many}&to=all"), "")).is_err());
}
