//! What a policy may ask of the broker, about the message under decision and for its own record.
//!
//! Outside of a component, as in unit tests, logs and counters go nowhere and there is no message.

#[cfg(target_arch = "wasm32")]
use crate::bindings::waspmq::policy::host;

pub use crate::bindings::waspmq::policy::host::Level;

/// Writes one line to the broker's log, cut to 1024 bytes. At most 10 lines a second are kept per policy.
pub fn log(level: Level, text: &str) {
    #[cfg(target_arch = "wasm32")]
    host::log(level, text);
    #[cfg(not(target_arch = "wasm32"))]
    let _ = (level, text);
}

/// Adds to a counter shown with the policy's state. Names are `[a-z0-9_]`, at most 48 bytes, at most 32 of them.
pub fn counter(name: &str, delta: u64) {
    #[cfg(target_arch = "wasm32")]
    host::counter(name, delta);
    #[cfg(not(target_arch = "wasm32"))]
    let _ = (name, delta);
}

/// The value of one header.
pub fn header(name: &str) -> Option<String> {
    #[cfg(target_arch = "wasm32")]
    return host::header(name);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = name;
        None
    }
}

/// All headers, those set by earlier policies included.
pub fn headers() -> Vec<(String, String)> {
    #[cfg(target_arch = "wasm32")]
    return host::headers();
    #[cfg(not(target_arch = "wasm32"))]
    Vec::new()
}

/// The payload. A copy: worth it only when the decision depends on it.
pub fn payload() -> Vec<u8> {
    #[cfg(target_arch = "wasm32")]
    return host::payload();
    #[cfg(not(target_arch = "wasm32"))]
    Vec::new()
}

/// Has panics write their message to the log before they trap.
#[doc(hidden)]
pub fn log_panics() {
    #[cfg(target_arch = "wasm32")]
    std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
}
