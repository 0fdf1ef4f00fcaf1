//! The WIT package as Rust types.
//!
//! The types are generated once, from a world that has all hooks; a component has some of them, so its functions are
//! looked up one by one (`guest.rs`). Deliberately not here: anything of WASI.

mod generated {
    wasmtime::component::bindgen!({
        path: "../../plugin-sdk/wit",
        inline: "
            package waspmq:host;
            world all-hooks {
                include waspmq:policy/lifecycle@0.1.0;
                include waspmq:policy/route-hook@0.1.0;
                include waspmq:policy/ack-hook@0.1.0;
                include waspmq:policy/admission-hook@0.1.0;
                include waspmq:policy/overflow-hook@0.1.0;
                include waspmq:policy/compression-hook@0.1.0;
            }
        ",
        world: "waspmq:host/all-hooks",
        ownership: Borrowing { duplicate_if_necessary: false },
    });
}

pub(crate) use generated::waspmq::policy::host::Level;
pub(crate) use generated::waspmq::policy::types::{
    AckPlan, Action, Admission, Audience, Cache, Cause, Choice, Codec, Codecs, Decision, Exhausted, Failure,
    Kind, Level as AckLevel, Message, Overflowing, QueueMembers, Quorum, Refusal, Route, Verdict,
};

/// The only interfaces a component may import.
pub(crate) const TYPES: &str = "waspmq:policy/types@0.1.0";
pub(crate) const HOST: &str = "waspmq:policy/host@0.1.0";

/// The contract, as told with a revision.
pub(crate) const ABI: &str = "waspmq:policy@0.1.0";

/// The longest start of `text` with at most `max` bytes.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or(text)
}
