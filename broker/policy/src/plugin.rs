//! Uploaded components: what is taken, why something is refused, which revisions are kept.
//!
//! A component is validated, compiled, instantiated and self-tested before it is shelved; a refused one leaves
//! no trace. Deliberately not here: policies, which bind a revision to addresses.

use crate::admin::PutError;
use crate::archive::ArchiveError;
use crate::bindings::{self, ABI, HOST, TYPES};
use crate::discards::Discards;
use crate::document::Lane;
use crate::engine::Ticker;
use crate::fast::{Adapters, Prepared, Unsuited};
use crate::guest::Exports;
use crate::hook::Hook;
use crate::hostcalls::Nobody;
use crate::instance::{Compiled, Instance, Recipe, SharedCompiled};
use crate::limits;
use crate::manifest::{SavedPlugin, SavedRevision};
use crate::state::{Context, Pulls, State};
use crate::stats::{CallOutcome, PolicyStats};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use wasmparser::{Parser, Payload};
use wasmtime::Engine;
use wasmtime::component::types::{ComponentInstance, ComponentItem};
use wasmtime::component::{Component, Linker};

/// One upload of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Revision {
    pub name: String,
    /// The n-th upload under this name, from 1; those before a removal count.
    pub revision: u32,
    /// BLAKE3 of the component, as 64 hexadecimal digits.
    pub digest: String,
    /// The hooks it exports.
    pub hooks: Vec<Hook>,
    pub abi: &'static str,
    /// Bytes of the component.
    pub size: usize,
    /// How calls reach it: `core`, directly, or `component`, through the component API.
    pub lane: &'static str,
    /// Why not directly; completes "the component ...".
    pub lane_reason: Option<String>,
}

/// Why an upload is refused. Each message is a sentence for the person who uploaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error(
        "{name:?} is not a plugin name: 1 to {} of a-z, 0-9, '-', '_' and '.', not \".\" or \"..\"",
        limits::NAME_BYTES_MAX
    )]
    Name { name: String },
    #[error("the component has {size} bytes, the limit is {}", limits::PLUGIN_BYTES_MAX)]
    TooLarge { size: usize },
    #[error(
        "the component has a function of {bytes} bytes, which takes too long to compile; the limit is {}",
        limits::FUNCTION_BYTES_MAX
    )]
    FunctionTooLarge { bytes: usize },
    #[error("this is not WebAssembly: the file does not begin with the bytes 00 61 73 6d")]
    NotWasm,
    #[error(
        "this is a core module, not a component: `waspmq plugin build` makes a component of it in a project (`waspmq plugin new`); without one, link it with `wasm-component-ld` (for Rust: build for wasm32-unknown-unknown with linker = \"wasm-component-ld\"), or wrap it with `jco new module.wasm -o component.wasm`"
    )]
    CoreModule,
    #[error("the component is not valid: {reason}")]
    Invalid { reason: String },
    #[error("the component imports `{import}`, which policies do not get; they may import only {HOST}")]
    UnknownImport { import: String },
    #[error("the component imports `{import}` with another type than {ABI} gives it: {reason}")]
    IllTypedImport { import: String, reason: String },
    #[error("the component does not export `{export}`, which the world `{world}` of {ABI} asks for{hint}")]
    MissingExport { export: &'static str, world: &'static str, hint: &'static str },
    #[error(
        "the component exports no hook: `route`, `plan` and `failed`, `admit`, `overflow` or `choose`{hint}"
    )]
    NoHook { hint: &'static str },
    #[error("the component exports `{export}` with another type than {ABI} asks for: {reason}")]
    IllTypedExport { export: &'static str, reason: String },
    #[error("the component failed in {stage}: {reason}")]
    Trapped { stage: &'static str, reason: String },
    #[error("the component used more than {} ms of CPU time in {stage}", limits::SETUP_DEADLINE_MS)]
    TimedOut { stage: &'static str },
    #[error("self-test answered: {reason}")]
    SelfTest { reason: String },
    #[error("there are {} plugins already; remove one first", limits::PLUGINS_MAX)]
    TooManyPlugins,
    #[error(
        "all {} kept revisions are used by policies; remove or replace a policy first",
        limits::REVISIONS_KEPT
    )]
    TooManyRevisions,
    #[error(
        "the kept revisions of all plugins would have more than {} bytes; remove a plugin first",
        limits::COMPONENTS_BYTES_MAX
    )]
    TooManyBytes,
    #[error("no instance is free to test the component; remove a policy first")]
    NoCapacity,
    #[error("the component cannot be kept: {0}")]
    NotKept(#[from] ArchiveError),
}

/// A revision with its code.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) revision: Revision,
    /// Not there yet when the revision is of an earlier run and nothing has needed it.
    pub(crate) compiled: Arc<OnceLock<SharedCompiled>>,
    /// Who uploaded it, and when.
    pub(crate) taken: (Arc<str>, u64),
}

/// A revision of an earlier run whose component is not what it was, or not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) saved: SavedRevision,
    pub(crate) reason: String,
}

/// All revisions kept of one plugin, the oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plugin {
    pub(crate) kept: Vec<Kept>,
    pub(crate) refused: Vec<Refused>,
    pub(crate) last: u32,
}

impl Plugin {
    /// Adds a revision under the next number; when all places are taken, the oldest one goes for which `is_used` is
    /// false.
    pub(crate) fn shelve(
        &mut self,
        mut kept: Kept,
        is_used: impl Fn(u32) -> bool,
    ) -> Result<Revision, Unfit> {
        if self.kept.len() >= limits::REVISIONS_KEPT {
            let unused = self.kept.iter().position(|kept| !is_used(kept.revision.revision));
            self.kept.remove(unused.ok_or(Unfit::TooManyRevisions)?);
        }
        // What was refused takes no place from what serves, and may come back with its file.
        let unused = |refused: &Refused| !is_used(refused.saved.revision);
        if self.kept.len() + self.refused.len() >= limits::REVISIONS_KEPT
            && let Some(unused) = self.refused.iter().position(unused)
        {
            self.refused.remove(unused);
        }
        self.last = self.last.saturating_add(1);
        kept.revision.revision = self.last;
        let revision = kept.revision.clone();
        self.kept.push(kept);
        Ok(revision)
    }

    /// Why it has no such revision to give, or none at all.
    pub(crate) fn lacking(&self, name: &str, revision: Option<u32>) -> PutError {
        let (plugin, last) = (name.to_owned(), self.last);
        let wanted = |refused: &&Refused| revision.is_none_or(|n| refused.saved.revision == n);
        match self.refused.iter().rfind(wanted) {
            Some(Refused { saved, reason }) => {
                PutError::RefusedRevision { plugin, revision: saved.revision, reason: reason.clone() }
            }
            None => PutError::UnknownRevision { plugin, revision: revision.unwrap_or(last), last },
        }
    }

    /// The digests of all its components.
    pub(crate) fn digests(&self) -> BTreeSet<String> {
        let kept = self.kept.iter().map(|kept| &kept.revision.digest);
        kept.chain(self.refused.iter().map(|refused| &refused.saved.digest)).cloned().collect()
    }

    pub(crate) fn bytes(&self) -> usize {
        let kept = self.kept.iter().map(|kept| kept.revision.size);
        kept.chain(self.refused.iter().map(|refused| refused.saved.size)).sum()
    }

    /// What the manifest says of it.
    pub(crate) fn saved(&self) -> SavedPlugin {
        let kept = self.kept.iter().map(|kept| SavedRevision {
            revision: kept.revision.revision,
            digest: kept.revision.digest.clone(),
            size: kept.revision.size,
            hooks: kept.revision.hooks.clone(),
            is_direct: kept.revision.lane == LANE_CORE,
            lane_reason: kept.revision.lane_reason.clone(),
            who: kept.taken.0.to_string(),
            unix_ms: kept.taken.1,
        });
        let mut revisions: Vec<_> =
            kept.chain(self.refused.iter().map(|refused| refused.saved.clone())).collect();
        revisions.sort_by_key(|saved| saved.revision);
        SavedPlugin { last: self.last, revisions }
    }
}

/// The niceness of who takes only what others leave.
const LOWEST_PRIORITY: i32 = 19;

/// Does work that takes the processor for long on a thread of the lowest priority, and waits for it: workers are not to
/// notice. On the thread at hand where there is no other.
fn in_the_background<T: Send>(work: impl Fn() -> T + Sync) -> T {
    let behind_others = || {
        if let Err(error) = rustix::process::setpriority_process(None, LOWEST_PRIORITY) {
            tracing::debug!(%error, "a plugin is compiled with the priority of a worker");
        }
        work()
    };
    std::thread::scope(|scope| {
        match std::thread::Builder::new().name("policy-compile".to_owned()).spawn_scoped(scope, behind_others)
        {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(error) => {
                tracing::warn!(%error, "no thread to compile a plugin on");
                work()
            }
        }
    })
}

/// What an upload is checked with.
pub(crate) struct Workbench<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) linker: &'a Linker<State>,
    pub(crate) adapters: &'a Arc<Adapters>,
    pub(crate) ticker: &'a Ticker,
    pub(crate) discards: &'a Discards,
}

impl Workbench<'_> {
    /// Validates, compiles, links and self-tests; changes nothing.
    pub(crate) fn compile(&self, name: &str, bytes: &[u8]) -> Result<Compiled, Unfit> {
        check_form(bytes)?;
        check_functions(bytes)?;
        let component = in_the_background(|| Component::from_binary(self.engine, bytes))
            .map_err(|error| Unfit::Invalid { reason: format!("{error:#}") })?;
        let pulls = self.check_imports(&component)?;
        let exports = Exports::of(self.engine, &component)?;
        let pre = self.linker.instantiate_pre(&component).map_err(|error| Unfit::IllTypedImport {
            import: HOST.to_owned(),
            reason: format!("{error:#}"),
        })?;
        let direct = in_the_background(|| Prepared::new(self.engine, self.adapters, &component, bytes));
        let mut compiled = Compiled { pre, exports, direct, pulls };
        self.try_out(name, &compiled, (Lane::Component, None))?;
        for hook in compiled.exports.hooks() {
            if compiled.direct.is_err() {
                break;
            }
            match self.try_out(name, &compiled, (Lane::Auto, Some(hook))) {
                Err(Unfit::NoCapacity) => return Err(Unfit::NoCapacity),
                Err(unfit) => compiled.direct = Err(Unsuited::Start(unfit.to_string())),
                Ok(()) => {}
            }
        }
        Ok(compiled)
    }

    fn check_imports(&self, component: &Component) -> Result<Pulls, Unfit> {
        let mut pulls = Pulls::default();
        for (name, import) in component.component_type().imports(self.engine) {
            match import.ty {
                ComponentItem::ComponentInstance(instance) if name == HOST => {
                    pulls = self.check_host(&instance)?;
                }
                ComponentItem::ComponentInstance(_) if name == TYPES => {}
                ComponentItem::Type(_) => {}
                _ => return Err(Unfit::UnknownImport { import: name.to_owned() }),
            }
        }
        Ok(pulls)
    }

    fn check_host(&self, host: &ComponentInstance) -> Result<Pulls, Unfit> {
        let mut pulls = Pulls::default();
        for (name, item) in host.exports(self.engine) {
            match (name, item.ty) {
                (_, ComponentItem::Type(_)) => {}
                (name, ComponentItem::ComponentFunc(_)) if WITHOUT_MESSAGE.contains(&name) => {}
                ("header" | "headers", ComponentItem::ComponentFunc(_)) => pulls.headers = true,
                ("payload", ComponentItem::ComponentFunc(_)) => pulls.payload = true,
                _ => return Err(Unfit::UnknownImport { import: format!("{HOST}#{name}") }),
            }
        }
        Ok(pulls)
    }

    /// Starts and tests an instance; on the fast lane, for one hook.
    fn try_out(
        &self,
        name: &str,
        compiled: &Compiled,
        (lane, hook): (Lane, Option<Hook>),
    ) -> Result<(), Unfit> {
        let recipe = Recipe {
            ticker: self.ticker,
            compiled,
            hook,
            lane,
            context: Context {
                name: name.into(),
                worker: 0,
                stats: Arc::new(PolicyStats::new(1)),
                memory: Arc::default(),
                clock: self.ticker.clock(),
                surroundings: Arc::new(Nobody),
            },
            memory_bytes_max: limits::MEMORY_MB_DEFAULT as usize * 1024 * 1024,
            calls_max: limits::INSTANCE_CALLS_MAX,
        };
        let unfit = |stage| {
            move |failure: crate::instance::Failure| match failure.outcome {
                _ if failure.no_capacity => Unfit::NoCapacity,
                CallOutcome::Deadline => Unfit::TimedOut { stage },
                _ => Unfit::Trapped { stage, reason: failure.text },
            }
        };
        let new = self.discards.with_room(|| Instance::new(&recipe), |failure| failure.no_capacity);
        let mut instance = new.map_err(unfit("instantiate"))?;
        instance.self_test().map_err(unfit("self-test"))?.map_err(|reason| Unfit::SelfTest {
            reason: bindings::cut(&reason, limits::LOG_BYTES_MAX).to_owned(),
        })
    }
}

/// The functions of the host that need nothing of the message under decision.
const WITHOUT_MESSAGE: [&str; 14] = [
    "log",
    "counter",
    "histogram",
    "kv-get",
    "kv-set",
    "kv-delete",
    "kv-compare-and-set",
    "kv-add",
    "take",
    "now",
    "random",
    "is-online",
    "group-size",
    "in-flight",
];

/// Tells apart what is not WebAssembly, a core module, and a component, without parsing.
fn check_form(bytes: &[u8]) -> Result<(), Unfit> {
    if bytes.len() > limits::PLUGIN_BYTES_MAX {
        return Err(Unfit::TooLarge { size: bytes.len() });
    }
    match bytes {
        [0x00, b'a', b's', b'm', _, _, 0x00, 0x00, ..] => Err(Unfit::CoreModule),
        [0x00, b'a', b's', b'm', ..] => Ok(()),
        _ => Err(Unfit::NotWasm),
    }
}

/// Finds functions that are too large.
fn check_functions(bytes: &[u8]) -> Result<(), Unfit> {
    match largest_function(bytes) {
        bytes if bytes > limits::FUNCTION_BYTES_MAX => Err(Unfit::FunctionTooLarge { bytes }),
        _ => Ok(()),
    }
}

/// Bytes of the largest function, in modules and components inside of each other as well. What cannot be read is left to
/// those who validate.
pub(crate) fn largest_function(bytes: &[u8]) -> usize {
    let payloads = Parser::new(0).parse_all(bytes).map_while(Result::ok);
    let sizes = payloads.filter_map(|payload| match payload {
        Payload::CodeSectionEntry(body) => Some(body.range().len()),
        _ => None,
    });
    sizes.max().unwrap_or(0)
}

/// Whether a text may name a plugin or a policy.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=limits::NAME_BYTES_MAX).contains(&name.len())
        && !matches!(name, "." | "..")
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
}

/// The words for the ways calls take.
pub(crate) const LANE_CORE: &str = "core";
pub(crate) const LANE_COMPONENT: &str = "component";

/// A revision that is not numbered yet, and whose hooks are not known.
pub(crate) fn unnumbered(name: &str, bytes: &[u8]) -> Revision {
    Revision {
        name: name.to_owned(),
        revision: 0,
        digest: blake3::hash(bytes).to_hex().to_string(),
        hooks: Vec::new(),
        abi: ABI,
        size: bytes.len(),
        lane: LANE_COMPONENT,
        lane_reason: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_in_the_background_has_the_lowest_priority() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let before = priority();
        assert_eq!(in_the_background(priority), LOWEST_PRIORITY);
        assert_eq!(priority(), before);
    }
}
