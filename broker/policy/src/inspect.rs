//! A component looked at as at an upload, without a broker.

use crate::bindings::{ABI, HOST};
use crate::document::PolicyLimits;
use crate::hook::Hook;
use crate::plugin::{Unfit, largest_function};
use crate::side::{Ground, Side};
use serde::Serialize;
use serde_json::{Map, Value};

/// What is to be known of a component that a broker takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// BLAKE3 of the component, as 64 hexadecimal digits.
    pub digest: String,
    pub size_bytes: usize,
    pub abi: &'static str,
    pub hooks: Vec<Hook>,
    /// The functions of the broker that it may call.
    pub imports: Vec<String>,
    /// How calls reach it: `core`, directly, or `component`, through the component API.
    pub lane: &'static str,
    /// Why not directly; completes "the component ...".
    pub lane_reason: Option<String>,
    pub largest_function_bytes: usize,
    /// Memory of an instance, configured where there is a configuration.
    pub memory_bytes: usize,
}

/// Why a component is of no use.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("{0}")]
    Engine(String),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("it does not take its configuration for hook {}: {reason}", .hook.as_str())]
    Setup { hook: Hook, reason: String },
}

/// Does everything that an upload does, and with a configuration also what putting a policy in place does.
pub fn inspect(
    component: &[u8],
    config: Option<&Map<String, Value>>,
    memory_mb: u32,
) -> Result<Inspection, InspectError> {
    let ground = Ground::new().map_err(InspectError::Engine)?;
    let limits = PolicyLimits { memory_mb, ..PolicyLimits::default() };
    let text = config.map(|config| Value::Object(config.clone()).to_string()).unwrap_or_default();
    let mut side = Side::new(&ground, ("plugin", component), text, limits)?;
    let hooks = side.compiled.exports.hooks();
    let mut memory_bytes = side.memory_bytes(&ground)?;
    for &hook in hooks.iter().filter(|_| config.is_some()) {
        let setup =
            |reason: crate::instance::SetupError| InspectError::Setup { hook, reason: reason.to_string() };
        side.open(&ground, hook).map_err(setup)?;
        let serving = side.serving(hook).map_or(0, |serving| serving.memory_bytes());
        memory_bytes = memory_bytes.max(serving);
    }
    Ok(Inspection {
        digest: blake3::hash(component).to_hex().to_string(),
        size_bytes: component.len(),
        abi: ABI,
        hooks,
        imports: side.compiled.host_functions(HOST),
        lane: side.compiled.lane(),
        lane_reason: side.compiled.lane_reason().map(ToString::to_string),
        largest_function_bytes: largest_function(component),
        memory_bytes,
    })
}
