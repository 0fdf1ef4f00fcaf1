//! The payload check against serde_json.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use waspmq_protocol::payload::{PayloadError, validate_json};

fuzz_target!(|payload: &[u8]| {
    let found = validate_json(payload);
    let value = match serde_json::from_slice::<Value>(payload) {
        Ok(value) => Some(value),
        // Neither says that the text is not JSON, and either hides what follows.
        Err(error) if error.to_string().starts_with("number out of range") => return,
        Err(error) if error.to_string().starts_with("recursion limit") => return,
        Err(_) => None,
    };
    match (found, value) {
        (Ok(line), Some(value)) => {
            assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\n')), "more than one line");
            assert_eq!(serde_json::from_slice::<Value>(&line).ok(), Some(value), "the value changed");
            assert_eq!(validate_json(&line).ok().as_deref(), Some(line.as_ref()), "a line changed again");
        }
        (Err(PayloadError::TooDeep { .. }), _) | (Err(_), None) => {}
        (found, value) => panic!("{found:?}, serde_json: {value:?}"),
    }
});
