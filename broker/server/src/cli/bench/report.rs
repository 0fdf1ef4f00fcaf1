//! What is said of a run with messages: one JSON object, or lines for people, and whether it was as it must be.

use super::limits::BEHIND_TOLD_PERCENT;
use super::options::Pace;
use super::outcome::{Ended, Outcome};
use crate::cli::output;
use anyhow::anyhow;
use serde_json::{Value, json};

/// Prints the result; an error when something happened that must not.
pub(super) fn show(outcome: &Outcome, is_json: bool) -> anyhow::Result<()> {
    if is_json {
        output::line(format_args!("{}", json(outcome)))?;
    } else {
        output::lines(&text(outcome))?;
    }
    let problems = outcome.problems();
    if problems.is_empty() { Ok(()) } else { Err(anyhow!("{}", problems.join(", "))) }
}

pub(super) fn json(outcome: &Outcome) -> Value {
    let Outcome { setting, counts, measured, .. } = outcome;
    let mb = |per_s: f64| per_s * setting.plan.size as f64 / 1e6;
    let spread = outcome
        .spread
        .as_ref()
        .map(|(summary, incomplete)| json!({ "incomplete": incomplete, "times": summary.json() }));
    json!({
        "scenario": setting.plan.scenario,
        "version": env!("CARGO_PKG_VERSION"),
        "run": setting.run,
        "url": setting.url,
        "transport": setting.transport,
        "profile": setting.profile,
        "threads": setting.threads,
        "has_rate_thread": matches!(setting.plan.pace, Pace::Rate(_)),
        "asked": setting.plan.json(),
        "ended": ended(outcome.ended),
        "messages": {
            "sent": counts.sent,
            "expected": counts.expected,
            "received": counts.received,
            "lost": counts.lost,
            "repeated": counts.repeated,
            "reordered": counts.reordered,
            "unreadable": counts.unreadable,
            "refused": counts.refused,
            "failed": counts.failed,
            "unanswered": counts.unanswered,
            "overflowed": counts.overflowed,
            "dropped_repeats": counts.dropped_repeats,
            "reconnects": counts.reconnects,
            "withdrawn": counts.withdrawn,
        },
        "measured": {
            "sent": measured.sent,
            "received": measured.received,
            "sending_s": measured.sending.as_secs_f64(),
            "receiving_s": measured.receiving.as_secs_f64(),
            "sent_per_s": measured.sent_per_s(),
            "received_per_s": measured.received_per_s(),
            "received_mb_per_s": mb(measured.received_per_s()),
            "behind_percent": measured.behind_percent,
            "stalls": measured.stalls,
        },
        "latency": outcome.latency.json(),
        "receipts": outcome.receipts.as_ref().map(|summary| summary.json()),
        "send_delay": outcome.delays.as_ref().map(|summary| summary.json()),
        "spread": spread,
        "members": outcome.members,
        "causes": outcome.causes,
        "problems": outcome.problems(),
    })
}

pub(super) const fn ended(ended: Ended) -> &'static str {
    match ended {
        Ended::Done => "done",
        Ended::Interrupted => "interrupted",
        Ended::Failed => "failed",
    }
}

pub(super) fn text(outcome: &Outcome) -> String {
    let Outcome { setting, counts, measured, .. } = outcome;
    let mut lines = vec![
        format!("{}: {}", setting.plan.scenario, setting.plan.text()),
        row("on", &on(outcome)),
        row("sent", &format!("{}, {} of them measured", counts.sent, measured.sent)),
        row("received", &format!("{} of {}", counts.received, counts.expected)),
        row("rate", &rate(outcome)),
        row("latency", &outcome.latency.text()),
    ];
    if let Some(receipts) = &outcome.receipts {
        lines.push(row("receipts", &receipts.text()));
    }
    if let Some((spread, incomplete)) = &outcome.spread {
        let without = if *incomplete > 0 { format!("  ({incomplete} left out)") } else { String::new() };
        lines.push(row("spread", &format!("{}{without}", spread.text())));
    }
    if let Some(delays) = &outcome.delays {
        lines.push(row("send delay", &delays.text()));
    }
    if let Some(members) = &outcome.members {
        lines.extend(shares(members));
    }
    lines.extend(notes(outcome).iter().map(|note| row("note", note)));
    lines.extend(
        outcome
            .causes
            .iter()
            .map(|(cause, count)| row("cause", &format!("{count} x {}", output::printable(cause)))),
    );
    lines.join("\n") + "\n"
}

fn row(name: &str, text: &str) -> String {
    format!("{name:10}  {text}")
}

fn on(outcome: &Outcome) -> String {
    let setting = &outcome.setting;
    let and_rate =
        if matches!(setting.plan.pace, Pace::Rate(_)) { ", and one that keeps the rate" } else { "" };
    let s = if setting.threads == 1 { "" } else { "s" };
    format!(
        "{} ({}, {}), {} thread{s}{and_rate}",
        output::printable(&setting.url),
        setting.transport,
        setting.profile,
        setting.threads
    )
}

fn rate(outcome: &Outcome) -> String {
    let measured = &outcome.measured;
    let received = measured.received_per_s();
    let mb = received * outcome.setting.plan.size as f64 / 1e6;
    let received = format!("{received:.0} received/s, {mb:.2} MB/s of payload");
    format!("{:.0} sent/s, {received}, for {:.1} s", measured.sent_per_s(), measured.sending.as_secs_f64())
}

/// How even the members of a queue were served.
fn shares(members: &[u64]) -> Vec<String> {
    let total: u64 = members.iter().sum();
    let percent = |count: u64| 100.0 * count as f64 / (total.max(1)) as f64;
    let share = |(number, &count): (usize, &u64)| {
        row("member", &format!("{number}: {count} ({:.1} %)", percent(count)))
    };
    members.iter().enumerate().map(share).collect()
}

/// What does not make a result wrong, and has to be known to read it.
fn notes(outcome: &Outcome) -> Vec<String> {
    let (counts, measured) = (&outcome.counts, &outcome.measured);
    let mut notes = Vec::new();
    if outcome.ended == Ended::Interrupted {
        notes.push("ended early by a signal".to_owned());
    }
    if let (Pace::Rate(rate), Some(behind)) = (outcome.setting.plan.pace, measured.behind_percent)
        && behind >= BEHIND_TOLD_PERCENT
    {
        notes.push(format!(
            "the generator fell behind by {behind:.1} %: {:.0} of {rate} messages/s were sent",
            rate * (1.0 - behind / 100.0)
        ));
    }
    if measured.stalls > 0 {
        notes.push(format!("{} times nothing came for seconds while a window was full", measured.stalls));
    }
    if counts.dropped_repeats > 0 {
        notes.push(format!(
            "{} repeats were recognised and dropped by the client library",
            counts.dropped_repeats
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::super::latency::Recorder;
    use super::super::outcome::{Counts, Measured, Setting};
    use super::super::plan::Plan;
    use super::super::plan::tests::plan;
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn outcome(pace: Pace, counts: Counts) -> Outcome {
        let recorder = Recorder::new(1).unwrap();
        for us in 1..=100 {
            recorder.record(0, us * 1_000);
        }
        let setting = Setting {
            plan: plan(1, 2, pace),
            run: "0123456789abcdef".to_owned(),
            url: "ws://127.0.0.1:9470/ws".to_owned(),
            transport: "websocket",
            profile: "binary",
            threads: 2,
        };
        let measured = Measured {
            sent: 1_000,
            received: 2_000,
            sending: Duration::from_secs(2),
            receiving: Duration::from_secs(2),
            behind_percent: None,
            stalls: 0,
        };
        Outcome {
            setting,
            ended: Ended::Done,
            counts,
            measured,
            latency: recorder.summary().unwrap(),
            receipts: None,
            delays: None,
            spread: None,
            members: None,
            causes: BTreeMap::new(),
        }
    }

    const GOOD: Counts = Counts {
        sent: 1_100,
        expected: 2_200,
        received: 2_200,
        lost: 0,
        repeated: 0,
        reordered: 0,
        unreadable: 0,
        refused: 0,
        failed: 0,
        unanswered: 0,
        overflowed: 0,
        dropped_repeats: 0,
        reconnects: 0,
        withdrawn: 0,
    };

    #[test]
    fn each_thing_that_must_not_happen_is_a_problem() {
        let check = |counts: Counts, expected: &[&str]| {
            assert_eq!(outcome(Pace::Window(1), counts).problems(), expected, "{counts:?}");
        };
        check(GOOD, &[]);
        check(Counts { dropped_repeats: 5, ..GOOD }, &[]);
        check(Counts { lost: 3, ..GOOD }, &["3 messages lost"]);
        check(Counts { repeated: 3, ..GOOD }, &["3 messages repeated"]);
        check(Counts { reordered: 3, ..GOOD }, &["3 messages out of order"]);
        check(Counts { unreadable: 3, ..GOOD }, &["3 messages changed on the way"]);
        check(Counts { refused: 3, failed: 1, ..GOOD }, &["3 messages refused", "1 messages failed"]);
        check(Counts { unanswered: 3, ..GOOD }, &["3 messages without a receipt"]);
        check(Counts { overflowed: 3, ..GOOD }, &["3 messages dropped for slow receivers"]);
        check(Counts { reconnects: 3, ..GOOD }, &["3 connections lost and made again"]);
        check(Counts { withdrawn: 3, ..GOOD }, &["3 subscriptions taken away"]);
        check(Counts { sent: 0, ..GOOD }, &["nothing was sent"]);
        let mut late = outcome(Pace::Rate(1.0), GOOD);
        late.measured.sent = 0;
        assert_eq!(late.problems(), ["nothing was sent that was due behind the warm-up"]);
        late.ended = Ended::Interrupted;
        assert!(late.problems().is_empty());
        let mut queue = outcome(Pace::Window(1), Counts { reordered: 3, ..GOOD });
        queue.setting.plan = Plan { is_queue: true, ..queue.setting.plan };
        assert!(queue.problems().is_empty(), "members do not wait for each other");
        queue.ended = Ended::Failed;
        assert_eq!(queue.problems(), ["a client ended early"]);
        queue.ended = Ended::Interrupted;
        assert!(queue.problems().is_empty());
    }

    #[test]
    fn people_read_lines() {
        assert_eq!(
            text(&outcome(Pace::Window(8), GOOD)),
            "latency: 1 publisher, 2 receivers, 8 in flight, 128 B\n\
             on          ws://127.0.0.1:9470/ws (websocket, binary), 2 threads\n\
             sent        1100, 1000 of them measured\n\
             received    2200 of 2200\n\
             rate        500 sent/s, 1000 received/s, 0.13 MB/s of payload, for 2.0 s\n\
             latency     p50 50.0 us  p90 90.0 us  p99 99.0 us  p99.9 100 us  max 100 us\n"
        );
    }

    #[test]
    fn what_has_to_be_known_is_noted() {
        let mut slow = outcome(Pace::Rate(1_000.0), Counts { dropped_repeats: 2, ..GOOD });
        slow.measured.behind_percent = Some(50.0);
        slow.measured.stalls = 1;
        slow.ended = Ended::Interrupted;
        slow.members = Some(vec![3, 1]);
        slow.causes = BTreeMap::from([("rate_limited (1429)".to_owned(), 7)]);
        let text = text(&slow);
        for expected in [
            "and one that keeps the rate",
            "the generator fell behind by 50.0 %: 500 of 1000 messages/s were sent",
            "1 times nothing came",
            "2 repeats were recognised",
            "ended early by a signal",
            "member      0: 3 (75.0 %)",
            "cause       7 x rate_limited (1429)",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        slow.measured.behind_percent = Some(0.5);
        assert!(notes(&slow).iter().all(|note| !note.contains("behind")));
    }

    #[test]
    fn the_object_has_the_same_numbers() {
        let document = json(&outcome(Pace::Rate(500.0), Counts { lost: 4, received: 2_196, ..GOOD }));
        assert_eq!(document["scenario"], "latency");
        assert_eq!(document["messages"]["lost"], 4);
        assert_eq!(document["messages"]["expected"], 2_200);
        assert_eq!(document["measured"]["received_per_s"], 1_000.0);
        assert_eq!(document["asked"]["rate"], 500.0);
        assert_eq!(document["problems"], json!(["4 messages lost"]));
        assert_eq!(document["latency"]["samples"], 100);
        assert_eq!(document["receipts"], Value::Null);
    }
}
