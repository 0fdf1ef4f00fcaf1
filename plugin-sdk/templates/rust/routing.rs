//! Sends messages on by the value of one header, and drops those that are too large.

use serde::Deserialize;
use waspmq_plugin_sdk::{Message, Policy, Routing, Verdict, export_policy, host};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Regions {
    /// The header that is looked at.
    header: String,
    /// What the header's value is put behind.
    to: String,
    /// Bytes of the largest payload.
    #[serde(default = "bytes_max_default")]
    bytes_max: u32,
}

const fn bytes_max_default() -> u32 {
    65_536
}

impl Policy for Regions {
    fn configure(config: &str) -> Result<Self, String> {
        serde_json::from_str(config).map_err(|error| error.to_string())
    }
}

impl Routing for Regions {
    fn route(&mut self, message: &Message) -> Verdict {
        if message.size > self.bytes_max {
            return Verdict::refuse(format!("more than {} bytes", self.bytes_max));
        }
        match host::header(&self.header).filter(|value| !value.is_empty()) {
            Some(value) => {
                host::counter("sent_on", 1);
                Verdict::redirect(format!("{}{value}", self.to))
            }
            None => Verdict::pass().with_header("checked", "yes"),
        }
    }
}

export_policy!(Regions: routing);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_to_be_told_where_to() {
        let error = Regions::configure(r#"{"header":"region"}"#).unwrap_err();
        assert!(error.contains("`to`"), "{error}");
        let regions = Regions::configure(r#"{"header":"region","to":"topic/orders."}"#).unwrap();
        assert_eq!(regions.bytes_max, bytes_max_default());
    }
}
