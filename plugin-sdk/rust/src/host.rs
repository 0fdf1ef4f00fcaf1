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

/// Adds a value to a histogram shown with the policy's state. Names are as those of counters, at most 8 of them.
pub fn histogram(name: &str, value: u64) {
    #[cfg(target_arch = "wasm32")]
    host::histogram(name, value);
    #[cfg(not(target_arch = "wasm32"))]
    let _ = (name, value);
}

/// The value kept under a key, whichever instance or revision of the policy kept it.
pub fn kv_get(key: &str) -> Option<Vec<u8>> {
    #[cfg(target_arch = "wasm32")]
    return host::kv_get(key);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = key;
        None
    }
}

/// Keeps a value for `ttl_ms`, 0 being for good; false when it is outside of the bounds: keys of 1 to 128 bytes,
/// values of at most 4096, 4096 keys and 1 MiB in all.
pub fn kv_set(key: &str, value: &[u8], ttl_ms: u64) -> bool {
    #[cfg(target_arch = "wasm32")]
    return host::kv_set(key, value, ttl_ms);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = (key, value, ttl_ms);
        false
    }
}

/// Forgets what is kept under a key.
pub fn kv_delete(key: &str) {
    #[cfg(target_arch = "wasm32")]
    host::kv_delete(key);
    #[cfg(not(target_arch = "wasm32"))]
    let _ = key;
}

/// Keeps a value if what is there is `expected`, `None` being nothing. False: it is something else, or the new value is outside
/// of the bounds.
pub fn kv_compare_and_set(key: &str, expected: Option<&[u8]>, value: &[u8], ttl_ms: u64) -> bool {
    #[cfg(target_arch = "wasm32")]
    return host::kv_compare_and_set(key, expected, value, ttl_ms);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = (key, expected, value, ttl_ms);
        false
    }
}

/// Adds to a number and gives the sum; nothing counts as 0. A number that is there keeps its end of life. `None`: what is
/// there is no number, or there is no room.
pub fn kv_add(key: &str, delta: i64, ttl_ms: u64) -> Option<i64> {
    #[cfg(target_arch = "wasm32")]
    return host::kv_add(key, delta, ttl_ms);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = (key, delta, ttl_ms);
        None
    }
}

/// Takes `amount` tokens out of a bucket that holds at most `burst` and gains `per_second`: all of them or none. At most
/// 1024 buckets that are not full; beyond, the answer is false.
pub fn take(bucket: &str, amount: u32, per_second: u32, burst: u32) -> bool {
    #[cfg(target_arch = "wasm32")]
    return host::take(bucket, amount, per_second, burst);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = (bucket, amount, per_second, burst);
        false
    }
}

/// Milliseconds since 1970, a few behind at most.
pub fn now() -> u64 {
    #[cfg(target_arch = "wasm32")]
    return host::now();
    #[cfg(not(target_arch = "wasm32"))]
    0
}

/// A number that other policies cannot foresee. Not for secrets.
pub fn random() -> u64 {
    #[cfg(target_arch = "wasm32")]
    return host::random();
    #[cfg(not(target_arch = "wasm32"))]
    0
}

/// Whether a user has a session now.
pub fn is_online(user: &str) -> bool {
    #[cfg(target_arch = "wasm32")]
    return host::is_online(user);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = user;
        false
    }
}

/// The members of a group now; 0 when there is no such group.
pub fn group_size(group: &str) -> u32 {
    #[cfg(target_arch = "wasm32")]
    return host::group_size(group);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = group;
        0
    }
}

/// What each member of the queue with this version of members has in flight now, in their order; nothing when the version
/// is not current.
pub fn in_flight(version: u64) -> Vec<u32> {
    #[cfg(target_arch = "wasm32")]
    return host::in_flight(version);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = version;
        Vec::new()
    }
}

/// Has panics write their message to the log before they trap.
#[doc(hidden)]
pub fn log_panics() {
    #[cfg(target_arch = "wasm32")]
    std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
}
