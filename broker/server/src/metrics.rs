//! All metrics of the broker, in the OpenMetrics text format.
//!
//! The message path counts in plain numbers per worker; here they are merged, at the time of a scrape. Label sets
//! are closed: never a user, group, session or message; the one name from outside is a policy's, of which there
//! are few. `docs/METRICS.md` lists every metric; a test compares. Figures of the process are sampled in the
//! background, because reading them costs system calls.

mod broker;
mod compression;
mod delivery;
mod encode;
mod policies;
mod process;
mod store;

use crate::control::Control;
use prometheus_client::encoding::text;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// What a scrape reads.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Registers everything and starts the sampling of process figures, which ends with this value.
    pub fn new(control: Control) -> Self {
        let mut registry = Registry::default();
        let prefixed = registry.sub_registry_with_prefix("waspmq");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        prefixed.register("build", "What was built", build);
        prefixed.register_collector(Box::new(broker::Broker::new(control.clone())));
        prefixed.register_collector(Box::new(delivery::Delivery::new(control.clone())));
        prefixed.register_collector(Box::new(compression::Compression::new(control.clone())));
        prefixed.register_collector(Box::new(store::Stored::new(control.clone())));
        prefixed.register_collector(Box::new(policies::Policies::new(control.policies)));
        registry.register_collector(Box::new(process::Sampler::start()));
        Self { registry }
    }

    /// The exposition.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
