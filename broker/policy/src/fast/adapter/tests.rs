//! Adapters of functions that the world does not have yet: optional strings, flat results, and parameters that do
//! not fit into core values.

use super::*;
use crate::clock::Clock;
use crate::fast::broker;
use crate::fast::outbox::List;
use crate::fast::plan::Encoding;
use crate::hostcalls::Nobody;
use crate::state::{Context, State};
use crate::stats::PolicyStats;
use std::sync::Arc;
use wasmtime::{Engine, Extern, Global, GlobalType, Instance, Mutability, Store, Val};

/// A guest with an allocator that never frees, and one hook.
struct Guest {
    store: Store<State>,
    call: wasmtime::Func,
    may_leave: Global,
}

impl Guest {
    fn new(function: &Function, params: &str, body: &str) -> Self {
        let engine = Engine::default();
        let text = format!(
            "(module (memory (export \"memory\") 1) (global $heap (mut i32) (i32.const 64))
               (func (export \"realloc\") (param i32 i32 i32 i32) (result i32)
                 (global.get $heap)
                 (global.set $heap (i32.add (i32.const 16) (i32.add (global.get $heap) (local.get 3)))))
               (func (export \"post-return\") (param i32) (i32.store (i32.const 0) (local.get 0)))
               (func (export \"hook\") (param {params}) (result i32) {body}))"
        );
        let context = Context {
            name: "p".into(),
            worker: 0,
            stats: Arc::new(PolicyStats::new(1)),
            memory: Arc::default(),
            clock: Arc::new(Clock::new()),
            surroundings: Arc::new(Nobody),
        };
        let mut store = Store::new(&engine, State::new(context, 1 << 20));
        store.data_mut().lane = broker::Lane::new(Encoding::Utf8);
        let module = wasmtime::Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let guest = Instance::new(&mut store, &module, &[]).unwrap();
        store.data_mut().lane.memory = guest.get_memory(&mut store, "memory");
        let adapter = wasmtime::Module::new(&engine, hook(function, true).unwrap()).unwrap();
        let ty = GlobalType::new(wasmtime::ValType::I32, Mutability::Var);
        let may_leave = Global::new(&mut store, ty, Val::I32(1)).unwrap();
        let broker = broker::functions(&engine).unwrap();
        let imports: Vec<Extern> = adapter
            .imports()
            .map(|import| match import.module() {
                LANE => may_leave.into(),
                BROKER => broker.get(&mut store, BROKER, import.name()).unwrap(),
                _ => guest.get_export(&mut store, import.name()).unwrap(),
            })
            .collect();
        let adapter = Instance::new(&mut store, &adapter, &imports).unwrap();
        let call = adapter.get_func(&mut store, CALL).unwrap();
        Self { store, call, may_leave }
    }

    fn call(&mut self, params: &[Val]) -> i32 {
        let mut results = [Val::I32(0)];
        self.call.call(&mut self.store, params, &mut results).unwrap();
        assert_eq!(self.may_leave.get(&mut self.store).unwrap_i32(), 1);
        let memory = self.store.data().lane.memory.unwrap();
        let freed = i32::from_le_bytes(*memory.data(&self.store).first_chunk().unwrap());
        assert_eq!(freed, results[0].unwrap_i32(), "the result is handed to the post-return function");
        freed
    }
}

#[test]
fn optional_strings_and_flat_results() {
    const SAMPLE: Function = Function {
        name: "sample",
        params: &[
            ("a", Type::Option(&Type::String)),
            ("b", Type::U64),
            ("c", Type::Record(&[("text", Type::String), ("flag", Type::Bool)])),
            ("d", Type::Option(&Type::U32)),
        ],
        result: Some(Type::U32),
    };
    // Whether `a` is there, its length, its last byte, `b`, the first byte of `c`, its flag, `d`: a digit each.
    let last = "(if (result i32) (local.get 0) (then (i32.sub (i32.load8_u (i32.sub (i32.add (local.get 1) (local.get 2)) (i32.const 1))) (i32.const 48))) (else (local.get 1)))";
    let values = [
        "(local.get 2)",
        last,
        "(i32.wrap_i64 (local.get 3))",
        "(i32.sub (i32.load8_u (local.get 4)) (i32.const 48))",
        "(local.get 5)",
        "(local.get 6)",
        "(local.get 8)",
    ];
    let body = values.iter().fold("(local.get 0)".to_owned(), |sum, value| {
        format!("{sum} (i32.const 10) (i32.mul) {value} (i32.add)")
    });
    let mut guest = Guest::new(&SAMPLE, "i32 i32 i32 i64 i32 i32 i32 i32 i32", &body);
    let mut ask = |a: Option<&str>, c: &str| {
        let outbox = &mut guest.store.data_mut().lane.outbox;
        outbox.clear();
        let a = outbox.optional_string(a).unwrap().cast_signed();
        let c = outbox.string(c).unwrap().cast_signed();
        guest.call(&[
            Val::I32(1),
            Val::I32(a),
            Val::I64(5),
            Val::I32(c),
            Val::I32(1),
            Val::I32(1),
            Val::I32(7),
        ])
    };
    assert_eq!(ask(Some("xy3"), "4z"), 13_354_217);
    assert_eq!(ask(None, "4"), 54_117);
    assert_eq!(ask(Some("9"), "4"), 11_954_117);
}

#[test]
fn parameters_beyond_sixteen_core_values_lie_in_a_record() {
    const PAIR: Type = Type::Tuple(&[Type::String, Type::String]);
    const LARGE: Function = Function {
        name: "large",
        params: &[
            ("a", Type::Tuple(&[PAIR, PAIR])),
            ("b", Type::Tuple(&[PAIR, PAIR])),
            ("c", Type::List(&Type::String)),
        ],
        result: Some(Type::U32),
    };
    assert!(LARGE.flat_params().as_params().is_none());
    // The first byte of the second and of the eighth string, then the last byte of the last one in the list.
    let byte = |at: &str| format!("(i32.sub (i32.load8_u {at}) (i32.const 48))");
    let second = byte("(i32.load offset=8 (local.get 0))");
    let eighth = byte("(i32.load offset=56 (local.get 0))");
    let listed = byte("(i32.load offset=8 (i32.load offset=64 (local.get 0)))");
    let count = "(i32.load offset=68 (local.get 0))";
    let body = [&eighth, &listed, count]
        .iter()
        .fold(second, |sum, value| format!("{sum} (i32.const 10) (i32.mul) {value} (i32.add)"));
    let mut guest = Guest::new(&LARGE, "i32", &body);
    let fours = ((("1", "2"), ("3", "4")), (("5", "6"), ("7", "8")));
    let value = (fours, List(["x", "9"].iter().copied()));
    guest.store.data_mut().lane.outbox.value(&value).unwrap();
    assert_eq!(guest.call(&[Val::I32(1)]), 2_892);
}

#[test]
fn a_record_with_a_few_strings_is_written_in_one_go() {
    const LARGE: Function = Function {
        name: "large",
        params: &[
            ("a", Type::Tuple(&[Type::String, Type::U8])),
            ("b", Type::Tuple(&[Type::U64; 14])),
            ("c", Type::Tuple(&[Type::U8, Type::String])),
        ],
        result: Some(Type::U32),
    };
    assert!(LARGE.flat_params().as_params().is_none());
    let layout = const { Type::Tuple(&[LARGE.params[0].1, LARGE.params[1].1, LARGE.params[2].1]) };
    assert_eq!(LARGE.params_layout(), (144, 8));
    assert_eq!((layout.size(), layout.align()), (144, 8));
    // The last byte and the length of both strings, then the record's alignment.
    let byte = |at: &str| format!("(i32.sub (i32.load8_u {at}) (i32.const 48))");
    let first =
        byte("(i32.add (i32.load (local.get 0)) (i32.sub (i32.load offset=4 (local.get 0)) (i32.const 1)))");
    let second = byte(
        "(i32.add (i32.load offset=132 (local.get 0)) (i32.sub (i32.load offset=136 (local.get 0)) (i32.const 1)))",
    );
    let lengths = ["(i32.load offset=4 (local.get 0))", "(i32.load offset=136 (local.get 0))"];
    let values = [&*second, lengths[0], lengths[1], "(i32.and (local.get 0) (i32.const 7))"];
    let body =
        values.iter().fold(first, |sum, value| format!("{sum} (i32.const 10) (i32.mul) {value} (i32.add)"));
    let mut guest = Guest::new(&LARGE, "i32", &body);
    let sevens = ((0_u64, 0_u64), ((0_u64, 0_u64), (0_u64, 0_u64)));
    let value = ((("ab3", 1_u8), ((sevens, sevens), (0_u64, 0_u64))), (2_u8, "9"));
    let outbox = &mut guest.store.data_mut().lane.outbox;
    outbox.value(&value).unwrap();
    let [a, c] = outbox.units().unwrap();
    assert_eq!(guest.call(&[Val::I32(1), Val::I32(a.cast_signed()), Val::I32(c.cast_signed())]), 39_310);
}

#[test]
fn strings_inside_of_variants_have_no_adapter() {
    let function = Function {
        name: "other",
        params: &[("a", Type::Variant(&[("x", Some(Type::String)), ("y", None)]))],
        result: None,
    };
    assert!(hook(&function, false).is_none());
    let function = Function { name: "other", params: &[("a", Type::List(&Type::U8))], result: None };
    assert!(hook(&function, false).is_none());
}
