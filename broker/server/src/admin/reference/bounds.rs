//! The bounds that whoever writes a plugin meets, with the numbers of [`waspmq_policy::limits`] and of the domain.

use super::{head, row};
use crate::config::Config;
use waspmq_core::limits::{
    ATTEMPTS_MAX, FANOUT_MAX, HEADER_BYTES_MAX, HEADERS_MAX, MESSAGE_BYTES_MAX,
    NAME_BYTES_MAX as ADDRESS_BYTES_MAX, OFFLINE_WAIT_MS_MAX, RETRY_WAIT_MS_MAX,
};
use waspmq_policy::limits::*;

/// What bounds a function and its own documentation does not tell.
pub(super) fn of(path: &str) -> Vec<String> {
    match path {
        "lifecycle/configure" => vec![
            format!("`config` has at most {}.", bytes(CONFIG_BYTES_MAX)),
            format!("{SETUP_DEADLINE_MS} ms of CPU time; a call that takes more or traps is an error."),
        ],
        "lifecycle/self-test" => vec![format!("{SETUP_DEADLINE_MS} ms of CPU time, as `configure`.")],
        "route-hook/members-changed" => vec![
            format!(
                "{SETUP_DEADLINE_MS} ms of CPU time for all changes told at once; a failure costs the instance."
            ),
            format!("Changes are collected for {MEMBERS_DELAY_MS} ms."),
            format!(
                "At most {} queues, with {} members in all; what is beyond is not told.",
                count(QUEUES_MAX),
                count(QUEUE_MEMBERS_TOTAL_MAX)
            ),
        ],
        "route-hook/route" => vec![
            decision(),
            format!("`fan-out` names 1 to {FANOUT_MAX} addresses; one that is named twice counts once."),
            format!(
                "Names in addresses have at most {ADDRESS_BYTES_MAX} bytes; an address that is none is a bad verdict."
            ),
            format!(
                "The message's headers and those set are at most {HEADERS_MAX}, with {} of names and values; a name is not empty.",
                bytes(HEADER_BYTES_MAX)
            ),
            format!(
                "Each worker keeps up to {} verdicts that hold for more than one message.",
                count(DECISIONS_MAX)
            ),
        ],
        "ack-hook/plan" => {
            vec![decision(), "Level `stored` where no messages are kept is a bad verdict.".to_owned()]
        }
        "ack-hook/failed" => vec![
            decision(),
            format!(
                "Waits are 1 to {} ms; behind {} attempts it is over.",
                count(RETRY_WAIT_MS_MAX),
                count(ATTEMPTS_MAX)
            ),
            format!(
                "Who is offline is waited for as long as the plan takes when all its attempts time out, and with `wait` for {} ms if \
                 that is longer; then the plan is exhausted.",
                count(OFFLINE_WAIT_MS_MAX)
            ),
        ],
        "admission-hook/admit" | "overflow-hook/overflow" | "compression-hook/choose" => vec![decision()],
        "host/payload" => {
            vec![format!("A payload has at most {}, unless configured less.", bytes(MESSAGE_BYTES_MAX))]
        }
        _ => Vec::new(),
    }
}

fn decision() -> String {
    format!(
        "CPU time: the policy's `deadline_ms`, {DEADLINE_MS_DEFAULT} ms by default. {HOSTCALLS_MAX} calls of the host, and \
         {} out of the component.",
        bytes(CALL_BYTES_MAX)
    )
}

/// Bounds that the contract's own documentation names in digits: where, and the numbers that hold.
pub(super) fn told_by_the_contract() -> Vec<(&'static str, Vec<u64>)> {
    let of = |bounds: &[usize]| bounds.iter().map(|bound| u64::try_from(*bound).unwrap()).collect::<Vec<_>>();
    vec![
        ("host", vec![HOSTCALLS_MAX.into()]),
        ("host/log", vec![LOG_BYTES_MAX as u64, LOG_LINES_PER_SECOND.into()]),
        ("host/counter", of(&[COUNTER_NAME_BYTES_MAX, COUNTERS_MAX])),
        ("host/histogram", of(&[HISTOGRAMS_MAX])),
        ("host/kv-get", of(&[KEY_BYTES_MAX, VALUE_BYTES_MAX, VALUES_MAX, VALUES_BYTES_MAX >> 20])),
        ("host/take", of(&[BUCKETS_MAX])),
        ("route/fan-out", of(&[FANOUT_MAX])),
        ("route/drop", of(&[DROP_REASON_BYTES_MAX])),
        ("refusal/reason", of(&[REASON_BYTES_MAX])),
        ("refusal/retry-ms", vec![RETRY_WAIT_MS_MAX]),
        ("ack-plan/timeout-ms", vec![RETRY_WAIT_MS_MAX]),
        ("ack-plan/max-ms", vec![RETRY_WAIT_MS_MAX]),
        ("ack-plan/attempts", vec![ATTEMPTS_MAX.into()]),
        ("decision", vec![RETRY_WAIT_MS_MAX]),
        ("decision/retry", vec![ATTEMPTS_MAX.into()]),
        ("route-hook/route", vec![DEADLINE_MS_DEFAULT.into()]),
    ]
}

pub(super) fn write(page: &mut String) {
    page.push_str("## Limits\n\nThose of a component and of what it does:\n\n");
    page.push_str(&head(&["what", "limit", "beyond"]));
    for (what, limit, beyond) in component().into_iter().chain(calls()).chain(kept()) {
        page.push_str(&row(&[what, &limit, beyond]));
    }
    page.push_str("\nWhat a policy's document may say about its own:\n\n");
    page.push_str(&head(&["key", "least", "most", "default"]));
    for [key, least, most, default] in document() {
        page.push_str(&row(&[&format!("`{key}`"), &least, &most, &default]));
    }
    page.push('\n');
}

/// What is bounded, by how much, and what happens beyond.
type Bound = (&'static str, String, &'static str);

fn component() -> Vec<Bound> {
    vec![
        ("a component", bytes(PLUGIN_BYTES_MAX), "refused"),
        ("one function of it", bytes(FUNCTION_BYTES_MAX), "refused"),
        (
            "core instances; tables; memories of it",
            format!("{CORE_INSTANCES_MAX}; {TABLES_PER_COMPONENT}; 1"),
            "refused",
        ),
        ("elements of a table", count(TABLE_ELEMENTS_MAX), "growth is denied"),
        (
            "a plugin's or a policy's name",
            format!("{NAME_BYTES_MAX} of `a-z`, `0-9`, `-`, `_` and `.`"),
            "refused",
        ),
        ("plugins", PLUGINS_MAX.to_string(), "refused"),
        (
            "kept revisions of a plugin",
            REVISIONS_KEPT.to_string(),
            "the oldest one that no policy uses is dropped; none: refused",
        ),
        ("all kept revisions of all plugins", bytes(COMPONENTS_BYTES_MAX), "refused"),
        ("patterns of a policy", PATTERNS_MAX.to_string(), "refused"),
        ("`config` of a policy", bytes(CONFIG_BYTES_MAX), "refused"),
        (
            "policies",
            format!(
                "`policy.max_policies` of the configuration, {} unless it says otherwise",
                Config::default().policy.max_policies
            ),
            "refused with 507",
        ),
    ]
}

fn calls() -> Vec<Bound> {
    vec![
        ("CPU time of one decision", "`limits.deadline_ms`".to_owned(), "`deadline`"),
        (
            "CPU time of `configure` and of `self-test`, each; of all `members-changed` at once",
            format!("{SETUP_DEADLINE_MS} ms"),
            "refused, or the instance is discarded",
        ),
        (
            "linear memory of an instance",
            "`limits.memory_mb`".to_owned(),
            "growth is denied; `memory` when the call then fails",
        ),
        ("bytes out of one call", bytes(CALL_BYTES_MAX), "`bad_verdict`"),
        ("calls of the host in one call", HOSTCALLS_MAX.to_string(), "they answer nothing; counted"),
        ("addresses of a `fan-out`", format!("1 to {FANOUT_MAX}"), "`bad_verdict`"),
        ("reason of a `drop`", bytes(DROP_REASON_BYTES_MAX), "`bad_verdict`"),
        (
            "headers of a message with those set",
            format!("{HEADERS_MAX}, {}", bytes(HEADER_BYTES_MAX)),
            "`bad_verdict`",
        ),
        ("attempts of a plan", format!("1 to {}", count(ATTEMPTS_MAX)), "`bad_verdict`"),
        (
            "waits and timeouts of a plan and of a decision; `retry-ms` of a refusal",
            format!("{} ms", count(RETRY_WAIT_MS_MAX)),
            "`bad_verdict`",
        ),
        (
            "waiting for a recipient that is offline, in all",
            format!("{} ms, or the plan's time if that is longer", count(OFFLINE_WAIT_MS_MAX)),
            "the plan is exhausted: dead letter or drop",
        ),
        ("reason of a refusal", bytes(REASON_BYTES_MAX), "cut"),
        (
            "replacements of a failed instance, on each worker",
            format!(
                "one per {REPLACEMENT_INTERVAL_MS} ms, or per {REPLACEMENT_DEADLINES} deadlines if that is longer"
            ),
            "`unavailable` until then",
        ),
        (
            "failed calls of a version on a worker that open its breaker; for how long; calls that decide then",
            format!(
                "{BREAKER_FAILURES} of the last {BREAKER_RECENT_CALLS}; {} s; {BREAKER_TRIAL_CALLS}",
                BREAKER_OPEN_MS / 1_000
            ),
            "`breaker_open`",
        ),
        (
            "time of its calls in a worker",
            format!("`limits.cpu_share` of {BREAKER_WINDOW_MS} ms"),
            "`breaker_open`",
        ),
        (
            "calls that one instance serves; how full its memory gets",
            format!("{}; {INSTANCE_MEMORY_PERCENT} %", count(INSTANCE_CALLS_MAX)),
            "the spare takes its place",
        ),
    ]
}

fn kept() -> Vec<Bound> {
    vec![
        ("a line of the log", bytes(LOG_BYTES_MAX), "cut"),
        ("lines of the log of a policy", format!("{LOG_LINES_PER_SECOND} a second"), "dropped; counted"),
        (
            "counters; histograms of a policy",
            format!(
                "{COUNTERS_MAX}; {HISTOGRAMS_MAX}, names of `a-z`, `0-9` and `_`, {COUNTER_NAME_BYTES_MAX} bytes"
            ),
            "ignored; counted",
        ),
        (
            "values of a policy",
            format!(
                "{}, {} with their keys; keys of 1 to {KEY_BYTES_MAX} bytes, values of {}",
                count(VALUES_MAX),
                bytes(VALUES_BYTES_MAX),
                bytes(VALUE_BYTES_MAX)
            ),
            "`kv-set` and `kv-compare-and-set` answer false, `kv-add` none; counted",
        ),
        ("token buckets of a policy that are not full", count(BUCKETS_MAX), "`take` answers false; counted"),
        (
            "queues told; members in all of them",
            format!("{}; {}", count(QUEUES_MAX), count(QUEUE_MEMBERS_TOTAL_MAX)),
            "the queue is not told; counted",
        ),
    ]
}

fn document() -> Vec<[String; 4]> {
    let of = |key: &str, least: &dyn ToString, most: &dyn ToString, default: &dyn ToString| {
        [key.to_owned(), least.to_string(), most.to_string(), default.to_string()]
    };
    vec![
        of("limits.deadline_ms", &DEADLINE_MS_MIN, &count(DEADLINE_MS_MAX), &DEADLINE_MS_DEFAULT),
        of("limits.memory_mb", &MEMORY_MB_MIN, &MEMORY_MB_MAX, &MEMORY_MB_DEFAULT),
        of("limits.cpu_share", &CPU_SHARE_MIN, &format!("{CPU_SHARE_MAX:.1}"), &CPU_SHARE_DEFAULT),
        of("canary_percent", &1, &99, &"everybody"),
        of("budget.failure_percent", &1, &100, &BUDGET_FAILURE_PERCENT_DEFAULT),
        of("budget.latency_factor", &2, &count(BUDGET_LATENCY_FACTOR_MAX), &BUDGET_LATENCY_FACTOR_DEFAULT),
        of("budget.calls_min", &1, &count(BUDGET_CALLS_MAX), &BUDGET_CALLS_DEFAULT),
        of("budget.window_s", &1, &BUDGET_WINDOW_S_MAX, &BUDGET_WINDOW_S_DEFAULT),
    ]
}

/// A number of bytes in the largest unit that it is a whole number of.
fn bytes(count: usize) -> String {
    match count {
        whole if whole % (1 << 20) == 0 => format!("{} MiB", self::count(whole >> 20)),
        whole if whole % (1 << 10) == 0 => format!("{} KiB", whole >> 10),
        other => format!("{other} bytes"),
    }
}

/// A number with its thousands apart.
fn count(number: impl TryInto<u64>) -> String {
    let digits = number.try_into().ok().unwrap().to_string();
    let mut apart = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart
}
