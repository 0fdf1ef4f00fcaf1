//! What calls are compared with: the bare call of a core function, and a decision without a sandbox.

use crate::Fallible;
use std::hint::black_box;
use wasmtime::{Config, Engine, Instance, Module, Store, TypedFunc};
use waspmq_core::policy::{Message, Outcome, Routing, Verdict};

/// The bare call: a typed core function takes the four scalars of a message and answers one. Epochs are on and the
/// deadline is set before each call, as for policies; no string crosses, nothing is looked up, checked or counted.
pub(crate) struct Bare {
    store: Store<()>,
    function: TypedFunc<(u32, u32, u32, u64), u32>,
}

impl Bare {
    pub(crate) fn new() -> Fallible<Self> {
        let mut config = Config::new();
        config.epoch_interruption(true).concurrency_support(false);
        let engine = Engine::new(&config)?;
        let text = "(module (func (export \"f\") (param i32 i32 i32 i64) (result i32)
            (i32.xor (local.get 0) (i32.wrap_i64 (local.get 3)))))";
        let module = Module::new(&engine, wat::parse_str(text)?)?;
        let mut store = Store::new(&engine, ());
        store.set_epoch_deadline(1);
        let function = Instance::new(&mut store, &module, &[])?.get_typed_func(&mut store, "f")?;
        Ok(Self { store, function })
    }

    pub(crate) fn call(&mut self, call: u32) {
        self.store.set_epoch_deadline(1);
        let called = self.function.call(&mut self.store, black_box((2, call, 4, 1_700_000_000_000)));
        black_box(called.unwrap_or_default());
    }
}

/// Decides what the plugins decide, without a sandbox.
pub(crate) struct Native(pub(crate) fn(&Message<'_>) -> Verdict);

impl Routing for Native {
    fn route(&mut self, message: &Message<'_>) -> Outcome {
        Outcome::Decided((self.0)(message))
    }
}
