//! Every way a call ends, what serves instead, and every reason an upload or a policy is refused for. The matches are
//! here so that a new one does not compile until it has its words.

use super::super::problem::Problem;
use super::{head, row};
use std::borrow::Cow;
use std::collections::HashSet;
use std::mem::discriminant;
use waspmq_policy::{
    ArchiveError, CallOutcome, OnFailure, PromoteError, PutError, RemoveError, RollbackError, Unfit, limits,
};

pub(super) fn write(page: &mut String) {
    outcomes(page);
    failures(page);
    uploads(page);
    policies(page);
    page.truncate(page.trim_end().len());
    page.push('\n');
}

fn outcomes(page: &mut String) {
    page.push_str(
        "## Outcomes of a question\n\nThe label `outcome` of `waspmq_policy_calls_total`, and what `explain` and `replay` call \
         a failure. All but `ok` and `cached` are served by `on_failure`.\n\n",
    );
    page.push_str(&head(&["outcome", "means", "the instance"]));
    for outcome in CallOutcome::ALL {
        let (means, instance) = told(outcome);
        page.push_str(&row(&[&format!("`{}`", outcome.as_str()), means, instance]));
    }
    page.push('\n');
}

fn told(outcome: CallOutcome) -> (&'static str, &'static str) {
    match outcome {
        CallOutcome::Ok => ("it decided", "stays"),
        CallOutcome::Trap => (
            "it panicked, ran out of stack, or touched memory it does not have; the Rust SDK logs the panic's text",
            "is replaced",
        ),
        CallOutcome::Deadline => ("it used more CPU time than `limits.deadline_ms`", "is replaced"),
        CallOutcome::Memory => {
            ("it failed after it was denied memory beyond `limits.memory_mb`", "is replaced")
        }
        CallOutcome::BadVerdict => (
            "an address is not valid or a bound is passed; or the verdict cannot be read: text that is not UTF-8, a pointer out \
             of memory, too many bytes",
            "stays; is replaced where the verdict cannot be read",
        ),
        CallOutcome::Unavailable => {
            ("there was no instance to ask, since replacements are paced", "is on its way")
        }
        CallOutcome::Cached => ("not asked: an earlier verdict holds for this message, too", "stays"),
        CallOutcome::BreakerOpen => {
            ("not asked: it failed too often, or took more than `limits.cpu_share` of its worker", "stays")
        }
    }
}

fn failures(page: &mut String) {
    page.push_str("## What serves instead: `on_failure`\n\n");
    page.push_str(&head(&["value", "means"]));
    for choice in [OnFailure::Open, OnFailure::Closed, OnFailure::Builtin, OnFailure::Previous] {
        let means = match choice {
            OnFailure::Open => "as if the policy had said `continue`; the default",
            OnFailure::Closed => {
                "the message is refused with `policy_failed`; where a policy cannot refuse, what is configured is done (`ack`, \
                 `overflow`) or the message sent as it is (`compression`), and no further policy is asked"
            }
            OnFailure::Builtin => "what is built in is done, and no further policy is asked",
            OnFailure::Previous => {
                "the version before is asked; where there is none, or it fails, too, it is as with `open`"
            }
        };
        let value = serde_json::to_string(&choice).unwrap();
        page.push_str(&row(&[&format!("`{value}`"), means]));
    }
    page.push('\n');
}

fn uploads(page: &mut String) {
    page.push_str(
        "## Why an upload is refused\n\n`waspmq plugin push` prints the sentence; the admin API has it as `detail`. Nothing \
         changes then. `…` stands for what was found.\n\n",
    );
    let all = unfits();
    assert_eq!(all.iter().map(discriminant).collect::<HashSet<_>>().len(), all.len());
    write_refusals(page, all.into_iter().map(Problem::from));
}

/// One of each. An upload that cannot be kept is among the refusals of policies.
fn unfits() -> Vec<Unfit> {
    let some = || "…".to_owned();
    let all = vec![
        Unfit::Name { name: some() },
        Unfit::TooLarge { size: limits::PLUGIN_BYTES_MAX + 1 },
        Unfit::FunctionTooLarge { bytes: limits::FUNCTION_BYTES_MAX + 1 },
        Unfit::NotWasm,
        Unfit::CoreModule,
        Unfit::Invalid { reason: some() },
        Unfit::UnknownImport { import: some() },
        Unfit::IllTypedImport { import: some(), reason: some() },
        Unfit::MissingExport { export: "…", world: "…", hint: "" },
        Unfit::NoHook { hint: "" },
        Unfit::IllTypedExport { export: "…", reason: some() },
        Unfit::Trapped { stage: "…", reason: some() },
        Unfit::TimedOut { stage: "…" },
        Unfit::SelfTest { reason: some() },
        Unfit::TooManyPlugins,
        Unfit::TooManyRevisions,
        Unfit::TooManyBytes,
        Unfit::NoCapacity,
    ];
    for unfit in &all {
        // A reason that is not in the list above does not compile until it is here.
        match unfit {
            Unfit::Name { .. }
            | Unfit::TooLarge { .. }
            | Unfit::FunctionTooLarge { .. }
            | Unfit::NotWasm
            | Unfit::CoreModule
            | Unfit::Invalid { .. }
            | Unfit::UnknownImport { .. }
            | Unfit::IllTypedImport { .. }
            | Unfit::MissingExport { .. }
            | Unfit::NoHook { .. }
            | Unfit::IllTypedExport { .. }
            | Unfit::Trapped { .. }
            | Unfit::TimedOut { .. }
            | Unfit::SelfTest { .. }
            | Unfit::TooManyPlugins
            | Unfit::TooManyRevisions
            | Unfit::TooManyBytes
            | Unfit::NoCapacity
            | Unfit::NotKept(_) => {}
        }
    }
    all
}

fn policies(page: &mut String) {
    page.push_str(
        "## Why a change of policies is refused\n\nPutting, promoting, rolling back and removing; nothing changes then.\n\n",
    );
    let some = || "…".to_owned();
    let put = [
        PutError::Name { name: some() },
        PutError::Invalid { field: Cow::Borrowed("…"), reason: some() },
        PutError::UnknownPlugin { plugin: some() },
        PutError::UnknownRevision { plugin: some(), revision: 7, last: 5 },
        PutError::UnknownRevision { plugin: some(), revision: 7, last: 30 },
        PutError::RefusedRevision { plugin: some(), revision: 7, reason: some() },
        PutError::Guest { reason: some() },
        PutError::NoCapacity { policies_max: 16 },
        PutError::Component(ArchiveError::Failed { reason: some() }),
        PutError::NotKept(ArchiveError::Failed { reason: some() }),
        PutError::NotKept(ArchiveError::Full { reason: some() }),
    ];
    let promote = [
        PromoteError::UnknownPolicy { name: some() },
        PromoteError::NoCandidate { name: some() },
        PromoteError::OtherGeneration { name: some(), seen: 7, generation: 8 },
        PromoteError::Refused { name: some(), reason: some() },
    ];
    let rollback = [
        RollbackError::NoPrevious { name: some() },
        RollbackError::TakenBack { name: some(), version: some() },
    ];
    let remove =
        [RemoveError::UnknownPlugin { name: some() }, RemoveError::InUse { name: some(), policy: some() }];
    let problems = put.map(Problem::from).into_iter().chain(promote.map(Problem::from));
    write_refusals(page, problems.chain(rollback.map(Problem::from)).chain(remove.map(Problem::from)));
}

fn write_refusals(page: &mut String, problems: impl Iterator<Item = Problem>) {
    page.push_str(&head(&["status", "code", "sentence"]));
    for problem in problems {
        let (status, name, detail) = problem.told();
        page.push_str(&row(&[&status.as_u16().to_string(), &format!("`{name}`"), detail]));
    }
    page.push('\n');
}
