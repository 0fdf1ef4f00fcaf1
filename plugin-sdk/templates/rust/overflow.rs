//! Keeps what is urgent in the store for a recipient that does not keep up, and of topics the newest of each key.

use serde::Deserialize;
use serde_json::Value;
use waspmq_plugin_sdk::{Action, Kind, Overflow, Overflowing, Policy, export_policy, host};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Not a number yet, so that what is wrong can be said by name.
    #[serde(default = "urgent_default")]
    urgent: Value,
}

fn urgent_default() -> Value {
    7.into()
}

#[derive(Debug)]
struct Slow {
    /// The least priority that is urgent.
    urgent: u8,
}

impl Policy for Slow {
    fn configure(config: &str) -> Result<Self, String> {
        let config: Config = serde_json::from_str(config).map_err(|error| error.to_string())?;
        let urgent = config.urgent.as_u64().and_then(|number| u8::try_from(number).ok());
        Ok(Self { urgent: urgent.ok_or("`urgent` must be a number from 0 to 255")? })
    }
}

impl Overflow for Slow {
    fn overflow(&mut self, what: &Overflowing) -> Action {
        if what.priority >= self.urgent {
            host::counter("spilled", 1);
            return Action::Spill;
        }
        if what.kind == Kind::Topic { Action::Conflate } else { Action::Continue }
    }
}

export_policy!(Slow: overflow);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_is_a_number() {
        assert_eq!(Slow::configure("{}").unwrap().urgent, 7);
        let error = Slow::configure(r#"{"urgent":"very"}"#).unwrap_err();
        assert!(error.contains("`urgent`"), "{error}");
        assert!(Slow::configure(r#"{"urgnet":7}"#).is_err());
    }
}
