//! The functions of the `host` interface for the component API: they read strings and lists in the guest's memory in
//! place. None of them fails but for a guest that hands over something unreadable.

use crate::bindings::{HOST, Level};
use crate::memory::Rate;
use crate::state::State;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, LinkerInstance, WasmList, WasmStr};

type Guest<'a> = StoreContextMut<'a, State>;

/// Offers the `host` interface, and nothing else.
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    let mut host = linker.instance(HOST)?;
    offer_message(&mut host)?;
    offer_measures(&mut host)?;
    offer_values(&mut host)?;
    offer_surroundings(&mut host)?;
    Ok(linker)
}

/// The parts of the message under decision.
fn offer_message(host: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    host.func_wrap("header", |mut guest: Guest<'_>, (name,): (WasmStr,)| {
        if !may_call(&mut guest) {
            return Ok((None,));
        }
        guest.data_mut().pulled.headers = true;
        let name = name.to_str(&guest)?;
        Ok((guest.data().header(&name).map(str::to_owned),))
    })?;
    host.func_wrap("headers", |mut guest: Guest<'_>, (): ()| {
        let headers = may_call(&mut guest).then(|| guest.data_mut().all_headers());
        Ok((headers.unwrap_or_default(),))
    })?;
    host.func_wrap("payload", |mut guest: Guest<'_>, (): ()| {
        let payload = may_call(&mut guest).then(|| guest.data_mut().whole_payload());
        Ok((payload.unwrap_or_default(),))
    })
}

/// What a policy leaves for operators.
fn offer_measures(host: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    host.func_wrap("log", |mut guest: Guest<'_>, (level, text): (Level, WasmStr)| {
        if guest.data_mut().may_log() {
            let text = text.to_str(&guest)?;
            guest.data().write_line(level, &text);
        }
        Ok(())
    })?;
    host.func_wrap("counter", |mut guest: Guest<'_>, (name, delta): (WasmStr, u64)| {
        if may_call(&mut guest) {
            let name = name.to_str(&guest)?;
            guest.data().count(&name, delta);
        }
        Ok(())
    })?;
    host.func_wrap("histogram", |mut guest: Guest<'_>, (name, value): (WasmStr, u64)| {
        if may_call(&mut guest) {
            let name = name.to_str(&guest)?;
            guest.data().observe(&name, value);
        }
        Ok(())
    })
}

/// What is kept for a policy.
fn offer_values(host: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    type Expected = Option<WasmList<u8>>;
    host.func_wrap("kv-get", |mut guest: Guest<'_>, (key,): (WasmStr,)| {
        if !may_call(&mut guest) {
            return Ok((None,));
        }
        let key = key.to_str(&guest)?;
        Ok((guest.data().value(&key),))
    })?;
    host.func_wrap("kv-set", |mut guest: Guest<'_>, (key, value, ttl_ms): (WasmStr, WasmList<u8>, u64)| {
        if !may_call(&mut guest) {
            return Ok((false,));
        }
        let key = key.to_str(&guest)?;
        Ok((guest.data().set_value(&key, value.as_le_slice(&guest), ttl_ms),))
    })?;
    host.func_wrap("kv-delete", |mut guest: Guest<'_>, (key,): (WasmStr,)| {
        if may_call(&mut guest) {
            let key = key.to_str(&guest)?;
            guest.data().delete_value(&key);
        }
        Ok(())
    })?;
    host.func_wrap(
        "kv-compare-and-set",
        |mut guest: Guest<'_>, (key, expected, value, ttl_ms): (WasmStr, Expected, WasmList<u8>, u64)| {
            if !may_call(&mut guest) {
                return Ok((false,));
            }
            let key = key.to_str(&guest)?;
            let expected = expected.as_ref().map(|expected| expected.as_le_slice(&guest));
            let value = value.as_le_slice(&guest);
            Ok((guest.data().compare_and_set_value((&key, expected), value, ttl_ms),))
        },
    )?;
    host.func_wrap("kv-add", |mut guest: Guest<'_>, (key, delta, ttl_ms): (WasmStr, i64, u64)| {
        if !may_call(&mut guest) {
            return Ok((None,));
        }
        let key = key.to_str(&guest)?;
        Ok((guest.data().add_to_value(&key, delta, ttl_ms),))
    })?;
    host.func_wrap(
        "take",
        |mut guest: Guest<'_>, (bucket, amount, per_second, burst): (WasmStr, u32, u32, u32)| {
            if !may_call(&mut guest) {
                return Ok((false,));
            }
            let bucket = bucket.to_str(&guest)?;
            Ok((guest.data().take_tokens(&bucket, amount, Rate { per_second, burst }),))
        },
    )
}

/// What is around a policy.
fn offer_surroundings(host: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    host.func_wrap("now", |mut guest: Guest<'_>, (): ()| {
        Ok((if may_call(&mut guest) { guest.data().unix_ms() } else { 0 },))
    })?;
    host.func_wrap("random", |mut guest: Guest<'_>, (): ()| {
        Ok((if may_call(&mut guest) { guest.data_mut().draw() } else { 0 },))
    })?;
    host.func_wrap("is-online", |mut guest: Guest<'_>, (user,): (WasmStr,)| {
        if !may_call(&mut guest) {
            return Ok((false,));
        }
        let user = user.to_str(&guest)?;
        Ok((guest.data().is_online(&user),))
    })?;
    host.func_wrap("group-size", |mut guest: Guest<'_>, (group,): (WasmStr,)| {
        if !may_call(&mut guest) {
            return Ok((0,));
        }
        let group = group.to_str(&guest)?;
        Ok((guest.data().group_size(&group),))
    })?;
    host.func_wrap("in-flight", |mut guest: Guest<'_>, (version,): (u64,)| {
        Ok((if may_call(&mut guest) { guest.data().in_flight(version) } else { Vec::new() },))
    })
}

/// Whether one more call is within the bounds; spends it.
fn may_call(guest: &mut Guest<'_>) -> bool {
    guest.data_mut().spend_hostcall()
}
