//! The host of policies: sandboxed WebAssembly components, put in place, swapped and rolled back while
//! messages flow.
//!
//! The story: a component is uploaded and becomes a *revision* ([`Host::upload`]); a document binds a revision
//! to address patterns ([`Host::put_policy`]), which makes instances for every worker and then replaces the
//! whole set of policies, a *generation*, at once; each worker asks its own instances ([`WorkerPolicies`]).
//! The contract with guests is `plugin-sdk/wit`, told in `docs/PLUGINS.md`.
//!
//! Invariants: no message waits for a change or meets half of one; every call into a guest has a deadline, a
//! memory limit, bounded output and bounded host calls; a guest's failure is counted and costs that guest its
//! instance, nothing else; where there is an [`Archive`], a change is kept before it becomes visible. Nothing outside of
//! this crate knows wasmtime. Deliberately not here: files, HTTP, metric names.

mod admin;
mod answers;
mod archive;
mod audited;
mod bench;
mod binding;
mod bindings;
mod breaker;
mod budget;
mod capacity;
mod capture;
mod clock;
mod codecs;
mod decisions;
mod discards;
mod document;
mod engine;
mod exceeded;
mod fast;
mod guest;
mod hook;
mod host;
mod hostcalls;
mod inspect;
mod instance;
mod json;
mod keeper;
pub mod limits;
mod lineup;
mod linker;
mod lost;
mod manifest;
mod measures;
mod memory;
mod place;
mod plugin;
mod question;
mod queues;
mod readiness;
mod registry;
mod removed;
mod replay;
mod restore;
mod rollout;
mod rules;
mod seat;
mod serving;
mod shadow;
mod shared;
mod side;
mod source;
mod state;
mod stats;
mod supervisor;
mod timing;
mod told;
mod trace;
mod vectors;
mod verdict;
mod worker;

pub use admin::{PromoteError, PutError, RemoveError, RollbackError};
pub use archive::{Archive, ArchiveError, AuditEntry};
pub use bench::{Bench, BenchError, Measured};
pub use breaker::BreakerState;
pub use budget::Budget;
pub use capacity::maps_needed;
pub use capture::{
    CaptureCounts, CaptureEnd, CaptureError, CaptureRecords, CaptureRequest, CaptureStatus, CapturedMessage,
    CapturedMessages,
};
pub use document::{Lane, Mode, OnFailure, PolicyDocument, PolicyLimits};
pub use hook::Hook;
pub use host::{Host, HostOptions, PolicyMetrics, StartError};
pub use hostcalls::{Nobody, Surroundings};
pub use inspect::{InspectError, Inspection, inspect};
pub use json::{Object, Strict};
pub use lost::RefusedVersion;
pub use manifest::BadManifest;
pub use measures::Distribution;
pub use memory::Kept;
pub use plugin::{Revision, Unfit};
pub use readiness::Unready;
pub use registry::{
    CandidateState, Instances, PolicyState, PolicyVersion, RefusedPolicy, RefusedRevision, Rollback,
};
pub use replay::{
    BadLine, OnlyHook, Replay, ReplayDifference, ReplayError, ReplaySide, ReplaySummary, ReplayedHook,
    ReplayedSide,
};
pub use restore::{RestoreError, Restored};
pub use rules::{BadRule, CheckedRules, check_rules};
pub use shadow::{Comparison, Difference};
pub use stats::{CallOutcome, Compressed, LATENCY_BOUNDS, Latency, LatencyBuckets};
pub use trace::{Decided, Ended, Explained, Explanation, Failed, Recorded, ToldAudience};
pub use vectors::{Deviation, Vector, VectorError, VectorResult, Vectors, VectorsRun};
pub use worker::WorkerPolicies;
