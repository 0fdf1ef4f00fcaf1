//! The functions of the `host` interface for the fast lane, behind the adapter of imports.
//!
//! They do the same things as those for the component API (`linker.rs`), in the same order: read what was passed,
//! spend a call, check that text is text, do it. Each runs behind the adapter's check that the guest may call
//! the broker now.

use super::adapter::BROKER;
use super::broker::{memory_and_state, next};
use super::lift;
use super::outbox::{List, SharedBytes};
use crate::memory::Rate;
use crate::state::State;
use wasmtime::{Caller, Linker, Result, bail};
use waspmq_core::registry::Loads;

type Guest<'a> = Caller<'a, State>;

/// Offers all of them.
pub(crate) fn offer(linker: &mut Linker<State>) -> Result<()> {
    effects(linker)?;
    pulls(linker)?;
    values(linker)?;
    changes(linker)?;
    surroundings(linker)
}

/// What a policy leaves for operators.
fn effects(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(BROKER, "log", |mut guest: Guest<'_>, level: u32, text: u32, len: u32| {
        let (memory, state) = memory_and_state(&mut guest)?;
        let level = lift::level(level)?;
        let text = state.reader(memory).text(text, len)?;
        if state.may_log() {
            state.write_line(level, &text.decode()?);
        }
        Ok(())
    })?;
    linker.func_wrap(BROKER, "counter", |mut guest: Guest<'_>, name: u32, len: u32, delta: u64| {
        let (memory, state) = memory_and_state(&mut guest)?;
        let name = state.reader(memory).text(name, len)?;
        if state.spend_hostcall() {
            state.count(&name.decode()?, delta);
        }
        Ok(())
    })?;
    linker.func_wrap(BROKER, "histogram", |mut guest: Guest<'_>, name: u32, len: u32, value: u64| {
        let (memory, state) = memory_and_state(&mut guest)?;
        let name = state.reader(memory).text(name, len)?;
        if state.spend_hostcall() {
            state.observe(&name.decode()?, value);
        }
        Ok(())
    })?;
    Ok(())
}

/// `header`, `headers` and `payload`: the root of each result goes to the place the guest names.
fn pulls(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(
        BROKER,
        "header",
        |mut guest: Guest<'_>, name: u32, len: u32, result: u32| -> Result<i64> {
            let (memory, state) = memory_and_state(&mut guest)?;
            let name = state.reader(memory).text(name, len)?;
            let name = if state.spend_hostcall() { Some(name.decode()?) } else { None };
            state.pulled.headers |= name.is_some();
            let found = name.and_then(|name| state.headers.iter().find(|(known, _)| **known == *name));
            let value = found.map(|(_, value)| value.as_str());
            state.lane.outbox.result(&value, memory, result)?;
            Ok(next(&state.lane.outbox))
        },
    )?;
    linker.func_wrap(BROKER, "headers", |mut guest: Guest<'_>, result: u32| -> Result<i64> {
        let (memory, state) = memory_and_state(&mut guest)?;
        let is_shown = state.spend_hostcall();
        state.pulled.headers |= is_shown;
        let shown = if is_shown { state.headers.as_slice() } else { &[] };
        let headers = shown.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        state.lane.outbox.result(&List(headers), memory, result)?;
        Ok(next(&state.lane.outbox))
    })?;
    linker.func_wrap(BROKER, "payload", |mut guest: Guest<'_>, result: u32| -> Result<i64> {
        let (memory, state) = memory_and_state(&mut guest)?;
        let shown = state.spend_hostcall().then(|| state.whole_payload());
        let payload = SharedBytes(shown.unwrap_or_default());
        state.lane.outbox.result(&payload, memory, result)?;
        Ok(next(&state.lane.outbox))
    })?;
    Ok(())
}

/// What is kept for a policy, by its key alone.
fn values(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(
        BROKER,
        "kv-get",
        |mut guest: Guest<'_>, key: u32, len: u32, result: u32| -> Result<i64> {
            let (memory, state) = memory_and_state(&mut guest)?;
            let key = state.reader(memory).text(key, len)?;
            let value = if state.spend_hostcall() { state.value(&key.decode()?) } else { None };
            state.lane.outbox.result(&value.as_deref(), memory, result)?;
            Ok(next(&state.lane.outbox))
        },
    )?;
    linker.func_wrap(BROKER, "kv-delete", |mut guest: Guest<'_>, key: u32, len: u32| -> Result<()> {
        let (memory, state) = memory_and_state(&mut guest)?;
        let key = state.reader(memory).text(key, len)?;
        if state.spend_hostcall() {
            state.delete_value(&key.decode()?);
        }
        Ok(())
    })?;
    linker.func_wrap(
        BROKER,
        "kv-add",
        |mut guest: Guest<'_>, key: u32, len: u32, delta: i64, ttl_ms: u64, result: u32| -> Result<i64> {
            let (memory, state) = memory_and_state(&mut guest)?;
            let key = state.reader(memory).text(key, len)?;
            let sum =
                if state.spend_hostcall() { state.add_to_value(&key.decode()?, delta, ttl_ms) } else { None };
            state.lane.outbox.result(&sum, memory, result)?;
            Ok(next(&state.lane.outbox))
        },
    )?;
    Ok(())
}

/// Changes to what is kept that a guest is told the success of.
fn changes(linker: &mut Linker<State>) -> Result<()> {
    #[rustfmt::skip]
    linker.func_wrap(BROKER, "kv-set", |mut guest: Guest<'_>,
        key: u32, key_len: u32, value: u32, len: u32, ttl_ms: u64| -> Result<u32> {
        let (memory, state) = memory_and_state(&mut guest)?;
        let mut reader = state.reader(memory);
        let key = reader.text(key, key_len)?;
        let value = reader.bytes(value, len)?;
        let set = state.spend_hostcall() && state.set_value(&key.decode()?, value, ttl_ms);
        Ok(u32::from(set))
    })?;
    #[rustfmt::skip]
    linker.func_wrap(BROKER, "kv-compare-and-set", |mut guest: Guest<'_>,
        key: u32, key_len: u32, is_some: u32, some: u32, some_len: u32, value: u32, len: u32, ttl_ms: u64| -> Result<u32> {
        let (memory, state) = memory_and_state(&mut guest)?;
        let mut reader = state.reader(memory);
        let key = reader.text(key, key_len)?;
        let expected = match is_some {
            0 => None,
            1 => Some(reader.bytes(some, some_len)?),
            other => bail!("invalid option discriminant: {other}"),
        };
        let value = reader.bytes(value, len)?;
        let set = state.spend_hostcall()
            && state.compare_and_set_value((&key.decode()?, expected), value, ttl_ms);
        Ok(u32::from(set))
    })?;
    #[rustfmt::skip]
    linker.func_wrap(BROKER, "take", |mut guest: Guest<'_>,
        bucket: u32, len: u32, amount: u32, per_second: u32, burst: u32| -> Result<u32> {
        let (memory, state) = memory_and_state(&mut guest)?;
        let bucket = state.reader(memory).text(bucket, len)?;
        let rate = Rate { per_second, burst };
        Ok(u32::from(state.spend_hostcall() && state.take_tokens(&bucket.decode()?, amount, rate)))
    })?;
    Ok(())
}

/// What is around a policy.
fn surroundings(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(BROKER, "now", |mut guest: Guest<'_>| {
        let state = guest.data_mut();
        if state.spend_hostcall() { state.unix_ms() } else { 0 }
    })?;
    linker.func_wrap(BROKER, "random", |mut guest: Guest<'_>| {
        let state = guest.data_mut();
        if state.spend_hostcall() { state.draw() } else { 0 }
    })?;
    linker.func_wrap(BROKER, "is-online", |mut guest: Guest<'_>, user: u32, len: u32| -> Result<u32> {
        let (memory, state) = memory_and_state(&mut guest)?;
        let user = state.reader(memory).text(user, len)?;
        Ok(u32::from(state.spend_hostcall() && state.is_online(&user.decode()?)))
    })?;
    linker.func_wrap(BROKER, "group-size", |mut guest: Guest<'_>, group: u32, len: u32| -> Result<u32> {
        let (memory, state) = memory_and_state(&mut guest)?;
        let group = state.reader(memory).text(group, len)?;
        Ok(if state.spend_hostcall() { state.group_size(&group.decode()?) } else { 0 })
    })?;
    #[rustfmt::skip]
    linker.func_wrap(BROKER, "in-flight", |mut guest: Guest<'_>, version: u64, result: u32| -> Result<i64> {
        let (memory, state) = memory_and_state(&mut guest)?;
        let none = Loads::default();
        let known = if state.spend_hostcall() { state.told.loads(version) } else { None };
        state.lane.outbox.result(&List(known.unwrap_or(&none).iter()), memory, result)?;
        Ok(next(&state.lane.outbox))
    })?;
    Ok(())
}
