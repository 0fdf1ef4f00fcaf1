//! The fast lane: calls of a component's core functions without the component API, in the same contract.
//!
//! The story: a component that has passed the component API's checks is read once more ([`plan`]). If its core
//! level is simple, its modules are compiled and their imports resolved ([`prepare`]); an instance does what the
//! component's instantiation would do ([`start`]) and offers the same hooks ([`hooks`]). Values cross by the canonical ABI,
//! spoken here: laid out ([`outbox`], [`told`]) and read ([`lift`], [`answers`]) by layouts computed from the contract's types
//! ([`types`], [`world`]). Small trusted modules ([`adapter`]) and the functions they call ([`broker`], [`imports`]) make a
//! hot hook one crossing into WebAssembly.
//!
//! Invariants: what the component API refuses is refused here; bounds, alignment, discriminants and encodings
//! are checked before use; a guest cannot call the broker while it makes room or frees; a call that does not come
//! to its end leaves the instance unusable. A component that the lane does not take is served by the component
//! API, with the reason told. `docs/adr/0008-adapter-module-fast-lane.md` has the alternatives and the figures.

mod adapter;
mod answers;
mod brief;
mod broker;
mod hooks;
mod imports;
mod lift;
mod outbox;
mod plan;
mod prepare;
mod start;
mod told;
mod types;
mod world;

pub(crate) use broker::Lane;
pub(crate) use hooks::Hooks;
pub(crate) use plan::Unsuited;
pub(crate) use prepare::{Adapters, Prepared};
