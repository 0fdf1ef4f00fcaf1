//! The ring: its bounds, what is found in it, and what is kept of an answer.

use super::*;
use crate::limits::TRACE_TEXT_BYTES_MAX;
use serde_json::{Value, json};
use waspmq_core::Address;
use waspmq_core::delivery::{AckPlan, Recipient};
use waspmq_core::policy::{Decision, Route, Verdict};

const KEPT: u64 = TRACES_MAX as u64 - 1;

fn id(count: u64) -> MessageId {
    MessageId::new(1_000 + count, 1, 2, count)
}

fn label() -> Arc<Label> {
    Arc::new(Label { policy: "p".into(), revision: "plugin@3".into(), hook: "routing" })
}

fn facts(said: Said) -> Facts {
    Facts {
        said,
        generation: 7,
        ns: 412,
        failed: None,
        attempt: None,
        audience: None,
        asked: Asked::Route,
        role: Role::Active,
        is_shadow: false,
        is_cached: false,
    }
}

/// A pass that is noted under the message's own count as a redirect, up to its ticket.
fn pass(traces: &mut Traces, count: u64) -> TraceId {
    traces.begin("topic/a", 7);
    let to = Address::parse(&format!("topic/n{count}")).unwrap();
    let verdict = Verdict { route: Route::Redirect(to), set_headers: Vec::new() };
    let said = Said::ruling(&verdict.into(), &mut traces.at_hand().texts);
    traces.at_hand().push(&label(), facts(said));
    traces.ticket().unwrap()
}

fn publish(traces: &mut Traces, count: u64) {
    let ticket = pass(traces, count);
    traces.name(ticket, id(count));
}

/// Which message's redirect is found under an id.
fn found(traces: &Traces, id: MessageId) -> Option<String> {
    let explanation = traces.find(id).found?.explain();
    assert_eq!((explanation.address.as_str(), explanation.decisions.len()), ("topic/a", 1));
    let decision = explanation.decisions[0].decision.clone().unwrap();
    Some(decision["route"]["redirect"].as_str().unwrap().trim_start_matches("topic/n").to_owned())
}

#[test]
fn a_call_that_was_not_timed_has_the_time_of_one_that_was() {
    for (ns, expected) in
        [(412, (Some(412), true)), (412 | OF_EARLIER, (Some(412), false)), (NOT_TIMED, (None, false))]
    {
        let noted = Noted { label: label(), facts: Facts { ns, ..facts(Said::Nothing) } };
        let shown = noted.show(&Trace::default());
        assert_eq!((shown.ns, shown.timed), expected);
    }
}

#[test]
fn the_last_messages_are_found_and_no_more() {
    let mut traces = Traces::default();
    assert_eq!((traces.find(id(1)).remembered, traces.places.capacity()), (0, 0), "costs nothing before");
    // Messages to addresses without a policy have ids in between.
    let counts: Vec<u64> = (1..=3 * TRACES_MAX as u64).map(|n| 3 * n).collect();
    let mut room = None;
    for (done, &count) in counts.iter().enumerate() {
        publish(&mut traces, count);
        if done == 2 * TRACES_MAX {
            room = Some((traces.places.capacity(), traces.places.as_ptr()));
        }
    }
    assert_eq!(room, Some((traces.places.capacity(), traces.places.as_ptr())));
    assert_eq!((traces.places.len(), traces.counts.len()), (TRACES_MAX, TRACES_MAX));
    let (forgotten, kept) = counts.split_at(counts.len() - TRACES_MAX + 1);
    assert!(forgotten.iter().all(|&count| found(&traces, id(count)).is_none()));
    assert!(kept.iter().all(|&count| found(&traces, id(count)) == Some(count.to_string())));
    assert!(kept.iter().all(|&count| found(&traces, id(count + 1)).is_none()), "no policy is bound");
    let newest = *kept.last().unwrap();
    assert!(found(&traces, MessageId::new(9, 1, 2, newest)).is_none(), "another time");
    assert!(found(&traces, id(newest + 3)).is_none());
    let explained = traces.find(id(0));
    assert_eq!((explained.remembered, explained.oldest), (KEPT, Some(id(kept[0]))));
}

#[test]
fn a_refused_message_takes_no_place() {
    let mut traces = Traces::default();
    publish(&mut traces, 1);
    for _ in 0..2 * TRACES_MAX {
        traces.begin("topic/refused", 7);
        traces.at_hand().push(&label(), facts(Said::Continue));
    }
    publish(&mut traces, 2);
    traces.begin("topic/refused", 7);
    assert_eq!([1, 2, 3].map(|count| found(&traces, id(count)).is_some()), [true, true, false]);
    traces.begin_nothing();
    assert_eq!(traces.ticket(), None, "nothing is recorded where no policy is bound");
    assert_eq!(traces.find(id(1)).remembered, 2);
}

#[test]
fn a_message_that_waited_is_found_among_later_ones() {
    let mut traces = Traces::default();
    publish(&mut traces, 1);
    let waiting = pass(&mut traces, 5);
    let dropped = pass(&mut traces, 99);
    (2..5).for_each(|count| publish(&mut traces, count));
    traces.name(waiting, id(5));
    (6..9).for_each(|count| publish(&mut traces, count));
    traces.name(waiting, id(99));
    for count in 1..9 {
        assert_eq!(found(&traces, id(count)), Some(count.to_string()), "{count}");
    }
    assert!(found(&traces, id(99)).is_none());
    // Too late: the places of both were taken.
    let late = pass(&mut traces, 9);
    (10..10 + TRACES_MAX as u64).for_each(|count| publish(&mut traces, count));
    let count = 10 + TRACES_MAX as u64;
    [late, dropped].into_iter().for_each(|ticket| traces.name(ticket, id(count)));
    assert!(found(&traces, id(count)).is_none());
    assert!((count - KEPT..count).all(|count| found(&traces, id(count)) == Some(count.to_string())));
}

#[test]
fn waiting_messages_at_every_distance_keep_the_order() {
    for distance in [1, 2, KEPT - 1, KEPT, KEPT + 1, KEPT + 2] {
        let mut traces = Traces::default();
        (1..20).for_each(|count| publish(&mut traces, count));
        let last = 20 + distance;
        let ticket = pass(&mut traces, last);
        (20..last).for_each(|count| publish(&mut traces, count));
        traces.name(ticket, id(last));
        let is_there = distance <= KEPT;
        assert_eq!(found(&traces, id(last)).is_some(), is_there, "{distance}");
        publish(&mut traces, last + 1);
        assert_eq!(found(&traces, id(last + 1)), Some((last + 1).to_string()));
        assert_eq!(found(&traces, id(last - 1)).is_some(), distance > 0);
        let ascending = traces.tickets().map(|ticket| traces.counts[index(ticket)]).collect::<Vec<_>>();
        assert!(ascending.is_sorted(), "{distance}");
    }
}

#[test]
fn failed_attempts_belong_to_the_messages_of_their_run() {
    let mut traces = Traces::default();
    [1, 2, 3, 5].into_iter().for_each(|count| publish(&mut traces, count));
    let (to, plan) = (Address::parse("topic/a").unwrap(), AckPlan::default());
    let recipient = Recipient::User(waspmq_core::Name::parse("bob").unwrap());
    let mut fail = |first: MessageId, messages| {
        let failure = Failure {
            to: &to,
            from: None,
            id: first,
            messages,
            recipient: &recipient,
            cause: Cause::Nack,
            attempt: 2,
            waited_ms: 0,
            retry_ms: None,
            plan: &plan,
            random: 0,
        };
        traces.begin_failure(&failure, 8);
        let is_noted = traces.writing != Writing::Nothing;
        let attempt = Some((failure.cause, failure.attempt));
        let facts = Facts { asked: Asked::Failed, attempt, ..facts(Said::Decided(Decision::GiveUp)) };
        traces.at_hand().push(&label(), facts);
        traces.end_failure(&failure);
        is_noted
    };
    // A batch has the time of its first message.
    assert!(fail(id(2), 1));
    assert!(!fail(id(6), 4) && !fail(id(4), 1), "nobody knows these");
    for _ in 0..TRACE_DECISIONS_MAX {
        assert!(fail(id(5), 1));
    }
    let decisions = |count| traces.find(id(count)).found.unwrap().explain();
    assert_eq!([1, 3].map(|count| decisions(count).decisions.len()), [1, 1]);
    let two = decisions(2);
    let failed = &two.decisions[1];
    assert_eq!((failed.question, failed.cause, failed.attempt), ("failed", Some("nack"), Some(2)));
    assert_eq!(two.outcome["failed"], Ended { by: Some("p".to_owned()), decision: json!("give-up") });
    assert_eq!(two.outcome["routing"].by.as_deref(), Some("p"));
    let five = decisions(5);
    assert_eq!((five.decisions.len(), five.left_out), (TRACE_DECISIONS_MAX, 1));
    assert_eq!(five.outcome["failed"].by, None);
    assert!(five.outcome["failed"].decision.as_str().unwrap().starts_with("left out"));
}

#[test]
fn all_messages_of_a_batch_share_a_failed_attempt() {
    let mut traces = Traces::default();
    let first = id(1);
    for later in 0..4 {
        let ticket = pass(&mut traces, later);
        traces.name(ticket, first.later(later));
    }
    let places = |traces: &Traces, first, messages| traces.range(first, messages).collect::<Vec<_>>();
    assert_eq!(places(&traces, first, 4), [0, 1, 2, 3]);
    assert_eq!(places(&traces, first.later(1), 2), [1, 2]);
    assert_eq!(places(&traces, first.later(3), u16::MAX), [3]);
    assert_eq!(places(&traces, first.later(4), 1), [0; 0]);
}

fn kept(verdict: &Verdict) -> (Value, usize) {
    let mut texts = Texts::default();
    texts.begin("topic/a");
    let said = Said::ruling(&verdict.clone().into(), &mut texts);
    (said.show(&texts).unwrap(), texts.text_bytes())
}

#[test]
fn short_verdicts_are_kept_as_they_are() {
    let to = |text: &str| Address::parse(text).unwrap();
    let headers = vec![("k".to_owned(), "v".to_owned()), ("empty".to_owned(), String::new())];
    for route in [
        Route::Continue,
        Route::Deliver,
        Route::Redirect(to("user/b")),
        Route::FanOut(vec![to("user/b"), to("all")]),
        Route::Pick { version: u64::MAX, index: 3 },
        Route::Drop("spam".to_owned()),
        Route::Drop(String::new()),
    ] {
        let verdict = Verdict { route, set_headers: headers.clone() };
        let (shown, _) = kept(&verdict);
        assert_eq!(shown, show(&verdict.clone().into()), "{verdict:?}");
        assert_eq!(shown["set_headers"], json!({"k": "v", "empty": ""}));
    }
    let fan_out =
        kept(&Verdict { route: Route::FanOut(vec![to("user/b"), to("all")]), set_headers: vec![] }).0;
    assert_eq!(fan_out, json!({"route": {"fan_out": ["user/b", "all"]}, "set_headers": {}}));
}

#[test]
fn long_verdicts_are_cut_and_say_so() {
    let header = |n: usize, size| (format!("h{n}"), "ä".repeat(size));
    let long = Verdict { route: Route::Deliver, set_headers: (0..64).map(|n| header(n, 40)).collect() };
    let (shown, bytes) = kept(&long);
    assert!(bytes <= TRACE_TEXT_BYTES_MAX, "{bytes}");
    let headers = shown["set_headers"].as_object().unwrap();
    let whole = headers.values().filter(|value| **value == json!("ä".repeat(40))).count();
    assert_eq!(whole, 5, "{shown}");
    assert!(headers["h5"].as_str().unwrap().ends_with("ä…truncated"), "{shown}");
    assert_eq!(headers["…truncated"], json!("…truncated: 58 more"));
    let all = (0..64).map(|n| Address::parse(&format!("user/{n:0>100}")).unwrap()).collect();
    let (shown, bytes) = kept(&Verdict { route: Route::FanOut(all), set_headers: vec![header(0, 1)] });
    assert!(bytes <= TRACE_TEXT_BYTES_MAX);
    let route = shown["route"]["fan_out"].as_array().unwrap();
    assert!(route[4].as_str().unwrap().ends_with("0…truncated") && route.len() == 6, "{shown}");
    assert_eq!(route[5], json!("…truncated: 59 more"));
    let (shown, _) = kept(&Verdict { route: Route::Drop("x".repeat(1_000)), set_headers: vec![] });
    let reason = shown["route"]["drop"].as_str().unwrap();
    assert_eq!(reason, format!("{}…truncated", "x".repeat(TRACE_TEXT_BYTES_MAX - 2)));
}

#[test]
fn a_place_is_as_small_as_the_documentation_says() {
    let all = |bytes: usize| bytes * TRACES_MAX / 1024 / 1024;
    let usual = size_of::<Trace>() + size_of::<u64>();
    let address = waspmq_core::limits::NAME_BYTES_MAX + "topic/".len();
    let full = usual + TRACE_DECISIONS_MAX * size_of::<Noted>() + TRACE_TEXT_BYTES_MAX + address;
    assert!(all(usual) < 2 && all(full) < 16, "{} and {} MiB", all(usual), all(full));
}
