//! Profiles of this very process: where its threads spend CPU time, and what it allocates and keeps.
//!
//! One of a kind at a time. It ends early when whoever asked goes away, and when the broker drains; what it has by then is
//! the answer, if there is still somebody to get it. Who takes one is one audit line, because names of functions and threads tell
//! what a broker does. Deliberately not here: how a profile is taken (`waspmq-profile`).

use super::audit::{self, Change, Who};
use super::problem::Problem;
use super::{Handlers, Shared, body, limits};
use crate::phase::Phase;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::ToSchema;
use waspmq_profile::{Error, Profile, Stop};

/// Held by whoever takes a profile of a kind, until it has ended.
#[derive(Debug)]
pub(super) struct Places {
    cpu: Arc<Semaphore>,
    heap: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self { cpu: Arc::new(Semaphore::new(1)), heap: Arc::new(Semaphore::new(1)) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Cpu,
    Heap,
}

impl What {
    const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Heap => "heap",
        }
    }

    const fn seconds_default(self) -> u64 {
        match self {
            Self::Cpu => limits::CPU_PROFILE_SECONDS_DEFAULT,
            Self::Heap => limits::HEAP_PROFILE_SECONDS_DEFAULT,
        }
    }

    fn take(self, seconds: u64, stop: &Stop) -> Result<Profile, Error> {
        let duration = Duration::from_secs(seconds);
        match self {
            Self::Cpu => waspmq_profile::cpu::profile(duration, stop),
            Self::Heap => waspmq_profile::heap::profile(duration, stop),
        }
    }
}

/// How a profile is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// The gzipped protocol buffer that `go tool pprof` and others read.
    #[default]
    Pprof,
    /// A flame graph.
    Svg,
}

/// How long a profile is to be, and how it is to be written.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// How long, 1 to 60; unless given, 10 for `cpu` and 30 for `heap`.
    #[param(minimum = 1, maximum = 60)]
    seconds: Option<u64>,
    /// `pprof`, the gzipped protocol buffer of `go tool pprof`, or `svg`, a flame graph; unless given, `pprof`.
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

/// Where threads spend CPU time, by function, for some seconds. One at a time.
#[utoipa::path(
    get, operation_id = "profile_cpu", path = "/v1/profile/cpu", tag = "profile", params(Wanted),
    responses(
        (status = 200, description = "the profile", content((String = "application/octet-stream"), (String = "image/svg+xml"))),
        (status = 400), (status = 409), (status = 501)
    )
)]
pub(crate) async fn cpu(State(shared): Handlers, uri: Uri, who: Who) -> Result<Response, Problem> {
    answer(&shared, &uri, who, What::Cpu).await
}

/// What is allocated in some seconds, by function, and what of it is still in use at their end. One at a time.
#[utoipa::path(
    get, operation_id = "profile_heap", path = "/v1/profile/heap", tag = "profile", params(Wanted),
    responses(
        (status = 200, description = "the profile", content((String = "application/octet-stream"), (String = "image/svg+xml"))),
        (status = 400), (status = 409), (status = 501)
    )
)]
pub(crate) async fn heap(State(shared): Handlers, uri: Uri, who: Who) -> Result<Response, Problem> {
    answer(&shared, &uri, who, What::Heap).await
}

async fn answer(shared: &Shared, uri: &Uri, who: Who, what: What) -> Result<Response, Problem> {
    let Wanted { seconds, format } = body::query(uri)?;
    let seconds = seconds.unwrap_or_else(|| what.seconds_default());
    if !(1..=limits::PROFILE_SECONDS_MAX).contains(&seconds) {
        let detail = format!("seconds must be 1 to {}", limits::PROFILE_SECONDS_MAX);
        return Err(Problem::bad_request("invalid_query", detail).key("seconds"));
    }
    let places = match what {
        What::Cpu => &shared.profiles.cpu,
        What::Heap => &shared.profiles.heap,
    };
    let place = Arc::clone(places).try_acquire_owned().map_err(|_| running(what))?;
    note(shared, who, what, seconds).await;
    let bytes = profile(shared, (what, seconds, format), place).await?;
    Ok(written(what, format, bytes))
}

/// One audit line: that somebody looks.
async fn note(shared: &Shared, who: Who, what: What, seconds: u64) {
    let to = format!("{seconds} s");
    audit::record(shared, who, Change { what: "profile", name: &what.name(), from: &"", to: &to }).await;
}

/// Takes a profile on a thread of its own, which holds the place until it has ended.
async fn profile(
    shared: &Shared,
    (what, seconds, format): (What, u64, Format),
    place: OwnedSemaphorePermit,
) -> Result<Vec<u8>, Problem> {
    let stop = StopOnDrop(Stop::default());
    let heard = stop.0.clone();
    let node = shared.state.control.node.clone();
    let mut working = tokio::task::spawn_blocking(move || {
        let encoded = what.take(seconds, &heard).and_then(|profile| match format {
            Format::Pprof => Ok(profile.pprof()?),
            Format::Svg => Ok(profile.svg(&title(what, &node, &profile)).into_bytes()),
        });
        drop(place);
        encoded
    });
    // Both can be dropped and waited for again.
    let worked = tokio::select! {
        biased;
        worked = &mut working => worked,
        () = drains(shared) => {
            stop.0.stop();
            working.await
        }
    };
    let encoded = worked.map_err(|error| {
        tracing::error!(%error, "a profile failed");
        failed("the broker failed to take this profile; its log says more")
    })?;
    encoded.map_err(|error| refused(what, &error))
}

/// Ends a profile whose request is given up.
struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Until the broker leaves service.
async fn drains(shared: &Shared) {
    while shared.state.control.phase() < Phase::Draining {
        tokio::time::sleep(limits::PROFILE_DRAIN_POLL).await;
    }
}

fn title(what: What, node: &str, profile: &Profile) -> String {
    let seconds = Duration::from_nanos(u64::try_from(profile.duration_ns).unwrap_or(0)).as_secs_f64();
    let counted = match what {
        What::Cpu => "CPU time",
        What::Heap => "memory allocated in this time and still in use",
    };
    format!("{counted} of {node}, {seconds:.1} s")
}

fn written(what: What, format: Format, bytes: Vec<u8>) -> Response {
    let (kind, extension) = match format {
        Format::Pprof => ("application/octet-stream", "pb.gz"),
        Format::Svg => ("image/svg+xml", "svg"),
    };
    let name = format!("inline; filename=\"waspmq-{}.{extension}\"", what.name());
    let headers: [(HeaderName, String); 3] = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::CONTENT_DISPOSITION, name),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'".to_owned()),
    ];
    (headers, bytes).into_response()
}

fn running(what: What) -> Problem {
    let detail = format!("a profile of kind {} is being taken; it ends within a minute", what.name());
    Problem::new(StatusCode::CONFLICT, "already_running", detail)
}

fn failed(detail: &str) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", detail)
}

fn refused(what: What, error: &Error) -> Problem {
    match error {
        Error::Running => running(what),
        Error::Unsupported | Error::OtherAllocator | Error::SignalTaken | Error::NoTimers(_) => {
            Problem::new(StatusCode::NOT_IMPLEMENTED, "not_supported", error.to_string())
        }
        Error::Io(_) => failed(&error.to_string()),
    }
}
