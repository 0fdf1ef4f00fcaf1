//! The decoders: received bytes to frames, for both profiles and both sides.
//!
//! [`json`] and [`binary`] read one client frame; [`json_frames`] and [`binary_frames`] read what one WebSocket
//! message holds. [`server_json`] and [`server_binary`] are the client's side.

mod binary;
mod check;
mod fields;
mod frames;
mod json;
mod server_binary;
mod server_json;

pub use binary::binary;
pub use frames::{BinaryFrames, Frames, JsonFrames, binary_frames, json_frames};
pub use json::json;
pub use server_binary::server_binary;
pub use server_json::server_json;
