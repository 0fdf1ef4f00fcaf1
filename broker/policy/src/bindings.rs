//! The WIT world as Rust types, and the functions of its `host` interface.
//!
//! The world's types are generated from `plugin-sdk/wit`. Host functions are written by hand because they read
//! strings in the guest's memory in place. None of them fails: what is over a bound is cut or ignored.
//! Deliberately not here: anything of WASI.

use crate::limits;
use crate::state::State;
use std::sync::Arc;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, WasmStr};

mod generated {
    wasmtime::component::bindgen!({
        path: "../../plugin-sdk/wit",
        world: "routing",
        ownership: Borrowing { duplicate_if_necessary: false },
    });
}

pub(crate) use generated::waspmq::policy::host::Level;
pub(crate) use generated::waspmq::policy::types::{Kind, Message, QueueMembers, Route, Verdict};
pub(crate) use generated::{Routing, RoutingPre};

/// The only interfaces a component may import.
pub(crate) const TYPES: &str = "waspmq:policy/types@0.1.0";
pub(crate) const HOST: &str = "waspmq:policy/host@0.1.0";

/// The contract, as told with a revision.
pub(crate) const ABI: &str = "waspmq:policy@0.1.0";

/// Offers the `host` interface, and nothing else.
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    let mut host = linker.instance(HOST)?;
    host.func_wrap("log", |mut store: StoreContextMut<'_, State>, (level, text): (Level, WasmStr)| {
        if store.data_mut().may_log() {
            let text = text.to_str(&store)?;
            write_line(&store.data().context.name, level, &text);
        }
        Ok(())
    })?;
    host.func_wrap("counter", |mut store: StoreContextMut<'_, State>, (name, delta): (WasmStr, u64)| {
        if !store.data_mut().spend_hostcall() {
            return Ok(());
        }
        let name = name.to_str(&store)?;
        store.data().count(&name, delta);
        Ok(())
    })?;
    host.func_wrap("header", |store: StoreContextMut<'_, State>, (name,): (WasmStr,)| {
        let name = name.to_str(&store)?;
        let value = store.data().headers.iter().find(|(known, _)| *known == *name).map(|(_, v)| v.clone());
        Ok((value,))
    })?;
    host.func_wrap("headers", |store: StoreContextMut<'_, State>, (): ()| {
        Ok((Arc::clone(&store.data().headers),))
    })?;
    host.func_wrap("payload", |store: StoreContextMut<'_, State>, (): ()| {
        Ok((Arc::clone(&store.data().payload),))
    })?;
    Ok(linker)
}

/// Writes one line of a policy, cut to its bound.
pub(crate) fn write_line(policy: &str, level: Level, text: &str) {
    let text = cut(text, limits::LOG_BYTES_MAX);
    match level {
        Level::Debug => tracing::debug!(target: "plugin", policy, text),
        Level::Info => tracing::info!(target: "plugin", policy, text),
        Level::Warn => tracing::warn!(target: "plugin", policy, text),
        Level::Error => tracing::error!(target: "plugin", policy, text),
    }
}

/// The longest start of `text` with at most `max` bytes.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or(text)
}
