//! Small trusted modules, generated from the contract, that stand between the broker and a guest's core
//! functions so that a call crosses from the broker into WebAssembly once.
//!
//! The adapter of a hook has room made for each string, has the broker write the strings there, calls the hook,
//! has the broker read the result, and lets the guest free it:
//!
//! ```text
//! call(unit, length of each string, scalars)      broker functions are named in quotes
//!   may-leave := 0
//!   pointer := realloc(0, 0, unit, length * unit)  for each string
//!   "fill"(pointers)
//!   may-leave := 1
//!   result := hook(pointers with lengths, scalars)
//!   "lifted <hook>"(result)                        when the result lies in memory and is not brief
//!   may-leave := 0, post-return(result), may-leave := 1
//! ```
//!
//! A result is [`Brief`] when it says nothing but a case and perhaps a byte, as most do; the adapter reads that
//! itself and answers it, and the broker is not called. What it finds odd it leaves to the broker to refuse.
//!
//! Parameters that are more than [`FLAT_PARAMS_MAX`] core values lie in one record. With a few strings in it and nothing
//! else that needs room, it is written with them in one go (`"place few"`), otherwise block by block (`"first"`,
//! `"place"`), as are results of imports. The adapter of the imports also keeps a guest
//! from calling the broker while `may-leave` is 0.

use super::brief::{self, Brief};
use super::types::{Core, FLAT_PARAMS_MAX, Function, Type};
use super::world;
use std::iter;
use wasm_encoder::{
    BlockType, CodeSection, EntityType, ExportKind, ExportSection, Function as Body, FunctionSection,
    GlobalType, ImportSection, InstructionSink, MemoryType, Module, TypeSection, ValType,
};

/// Strings that one call of [`FILL`] writes, and of [`FILL_FEW`].
pub(crate) const STRINGS_MAX: usize = 8;
pub(crate) const STRINGS_FEW: usize = 3;

/// Modules that adapters import from, and what is in them.
pub(crate) const BROKER: &str = "broker";
pub(crate) const GUEST: &str = "guest";
pub(crate) const LANE: &str = "lane";
pub(crate) const MAY_LEAVE: &str = "may-leave";
pub(crate) const MEMORY: &str = "memory";
pub(crate) const REALLOC: &str = "realloc";
pub(crate) const HOOK: &str = "hook";
pub(crate) const POST_RETURN: &str = "post-return";
pub(crate) const FILL: &str = "fill";
pub(crate) const FILL_FEW: &str = "fill few";
pub(crate) const FIRST: &str = "first";
pub(crate) const PLACE: &str = "place";
pub(crate) const PLACE_FEW: &str = "place few";
pub(crate) const REFUSE: &str = "refuse";

/// What the adapter of a hook exports.
pub(crate) const CALL: &str = "call";

/// Answer of [`FIRST`] and [`PLACE`] when there is no further block; otherwise alignment and bytes of one, in the
/// upper and the lower half.
pub(crate) const NO_BLOCK: i64 = -1;

/// The name of the broker's function that reads the result of a hook.
pub(crate) fn lifted(hook: &str) -> String {
    format!("lifted {hook}")
}

/// How one parameter reaches the hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaf {
    Scalar(Core),
    String,
    /// The length -1 stands for none.
    OptionalString,
}

impl Leaf {
    const fn param(self) -> ValType {
        match self {
            Self::Scalar(core) => value(core),
            Self::String | Self::OptionalString => ValType::I32,
        }
    }
}

/// The adapter of one hook, or nothing when its parameters have lists, or strings inside of variants: such a
/// hook is called step by step.
pub(crate) fn hook(function: &Function, frees_result: bool) -> Option<Vec<u8>> {
    let flat = function.flat_params();
    let (leaves, core) = match flat.as_params() {
        Some(core) => (leaves(function)?, core),
        None => (strings_of_record(function).unwrap_or_default(), [Core::I32].as_slice()),
    };
    let strings = leaves.iter().filter(|leaf| !matches!(leaf, Leaf::Scalar(_))).count();
    if strings > STRINGS_MAX {
        return None;
    }
    let core: Vec<ValType> = core.iter().copied().map(value).collect();
    let in_memory = function.returns_pointer();
    let result = if in_memory { Some(Core::I32) } else { function.flat_result() };
    let results: Vec<ValType> = result.into_iter().map(value).collect();
    let mut module = Builder::default();
    let calls = Calls::import(&mut module, strings);
    let hook = module.import(GUEST, HOOK, &core, &results);
    let lifted = in_memory.then(|| module.import(BROKER, &lifted(function.name), &[ValType::I32], &[]));
    let post_return = frees_result.then(|| module.import(GUEST, POST_RETURN, &results, &[]));

    let params: Vec<ValType> =
        iter::once(ValType::I32).chain(leaves.iter().map(|leaf| leaf.param())).collect();
    let pointers = Local::behind(&params);
    let blocks = pointers.plus(STRINGS_MAX);
    let returned = blocks.plus(1);
    let pointer_count = blocks.0 - pointers.0;
    let mut body = Body::new([
        (pointer_count, ValType::I32),
        (1, ValType::I64),
        (1, result.map_or(ValType::I32, value)),
        (1, ValType::I32),
        (1, ValType::I64),
    ]);
    let mut code = body.instructions();
    if flat.as_params().is_none() && strings > 0 {
        lower_record_of_strings(&mut code, &calls, (function.params_layout(), strings), pointers);
    } else if flat.as_params().is_none() {
        lower_record(&mut code, &calls, pointers, blocks);
    } else {
        if strings > 0 {
            lower_strings(&mut code, &calls, &leaves, pointers);
        }
        pass(&mut code, &leaves, pointers);
    }
    code.call(hook);
    if result.is_some() {
        code.local_set(returned.0);
    }
    if let Some(lifted) = lifted {
        module.memory = true;
        read_result(
            &mut code,
            world::brief(function).as_ref(),
            [returned, returned.plus(1), returned.plus(2)],
            lifted,
        );
    }
    free_result(&mut code, result.is_some().then_some(returned), post_return);
    if result.is_some() {
        code.local_get(if in_memory { returned.plus(1).0 } else { returned.0 });
    }
    code.end();
    module.define(CALL, &params, &results, &body);
    Some(module.finish())
}

/// The adapter of some imports. Without a result that has blocks among them it needs no allocator.
pub(crate) fn imports(functions: &[&Function]) -> Vec<u8> {
    let mut module = Builder::default();
    let has_blocks = functions.iter().any(|function| function.result_has_blocks());
    let calls = has_blocks.then(|| Calls::import(&mut module, 0));
    let refuse = module.import(BROKER, REFUSE, &[], &[]);
    let shapes: Vec<_> = functions.iter().map(|function| Shape::of(function)).collect();
    let raw: Vec<u32> = functions
        .iter()
        .zip(&shapes)
        .map(|(function, shape)| module.import(BROKER, function.name, &shape.params, &shape.raw_results))
        .collect();
    for ((function, shape), raw) in functions.iter().zip(&shapes).zip(raw) {
        let blocks = Local::behind(&shape.params);
        let mut body = Body::new([(1, ValType::I64)]);
        let mut code = body.instructions();
        code.global_get(0).i32_eqz().if_(BlockType::Empty).call(refuse).unreachable().end();
        (0..blocks.0).for_each(|param| {
            code.local_get(param);
        });
        code.call(raw);
        match &calls {
            Some(calls) if function.result_has_blocks() => {
                code.local_set(blocks.0);
                set_may_leave(&mut code, false);
                place_all(&mut code, calls, blocks);
                set_may_leave(&mut code, true);
            }
            _ if function.returns_pointer() => {
                code.drop();
            }
            _ => {}
        }
        code.end();
        module.define(function.name, &shape.params, &shape.results, &body);
    }
    module.finish()
}

/// The core signatures of an import: the guest's view, and the broker's function behind it.
struct Shape {
    params: Vec<ValType>,
    results: Vec<ValType>,
    raw_results: Vec<ValType>,
}

impl Shape {
    fn of(function: &Function) -> Self {
        let flat = function.flat_params();
        let mut params: Vec<ValType> = match flat.as_params() {
            Some(core) => core.iter().copied().map(value).collect(),
            None => vec![ValType::I32],
        };
        let results: Vec<ValType> = function.flat_result().into_iter().map(value).collect();
        if function.returns_pointer() {
            params.push(ValType::I32);
            return Self { params, results, raw_results: vec![ValType::I64] };
        }
        Self { params, raw_results: results.clone(), results }
    }
}

fn leaves(function: &Function) -> Option<Vec<Leaf>> {
    fn add(ty: &Type, leaves: &mut Vec<Leaf>) -> Option<()> {
        match ty {
            Type::String => leaves.push(Leaf::String),
            Type::Option(Type::String) => leaves.push(Leaf::OptionalString),
            Type::Record(fields) => fields.iter().try_for_each(|(_, field)| add(field, leaves))?,
            Type::Tuple(items) => items.iter().try_for_each(|item| add(item, leaves))?,
            ty if ty.has_pointers() => return None,
            ty => leaves.extend(ty.flat().as_params()?.iter().copied().map(Leaf::Scalar)),
        }
        Some(())
    }
    let mut leaves = Vec::with_capacity(FLAT_PARAMS_MAX);
    function.params.iter().try_for_each(|(_, ty)| add(ty, &mut leaves))?;
    Some(leaves)
}

/// The strings of parameters that lie in a record, when these are all that needs room and a few.
fn strings_of_record(function: &Function) -> Option<Vec<Leaf>> {
    let leaves = leaves(function)?;
    let strings: Vec<Leaf> = leaves.into_iter().filter(|leaf| !matches!(leaf, Leaf::Scalar(_))).collect();
    let few = strings.len() <= STRINGS_FEW && strings.iter().all(|leaf| *leaf == Leaf::String);
    few.then_some(strings)
}

/// Indexes of the functions that every adapter imports.
struct Calls {
    realloc: u32,
    fill: u32,
    /// Pointers that `fill` takes.
    filled: usize,
    first: u32,
    place: u32,
    place_few: u32,
}

impl Calls {
    /// Those of an adapter that passes this many strings by themselves.
    fn import(module: &mut Builder, strings: usize) -> Self {
        let (fill, filled) =
            if strings <= STRINGS_FEW { (FILL_FEW, STRINGS_FEW) } else { (FILL, STRINGS_MAX) };
        Self {
            realloc: module.import(GUEST, REALLOC, &[ValType::I32; 4], &[ValType::I32]),
            fill: module.import(BROKER, fill, &[ValType::I32; STRINGS_MAX][..filled], &[]),
            filled,
            first: module.import(BROKER, FIRST, &[], &[ValType::I64]),
            place: module.import(BROKER, PLACE, &[ValType::I32], &[ValType::I64]),
            place_few: module.import(BROKER, PLACE_FEW, &[ValType::I32; STRINGS_FEW + 1], &[]),
        }
    }
}

/// Has the guest make room for each string that is there, and the broker write them.
fn lower_strings(code: &mut InstructionSink<'_>, calls: &Calls, leaves: &[Leaf], pointers: Local) {
    set_may_leave(code, false);
    let mut pointer = pointers.0;
    for (length, leaf) in (1..).zip(leaves) {
        let is_optional = *leaf == Leaf::OptionalString;
        if matches!(leaf, Leaf::Scalar(_)) {
            continue;
        }
        if is_optional {
            code.local_get(length).i32_const(-1).i32_ne().if_(BlockType::Empty);
        }
        code.i32_const(0).i32_const(0).local_get(0).local_get(length).local_get(0).i32_mul();
        code.call(calls.realloc).local_set(pointer);
        if is_optional {
            code.end();
        }
        pointer += 1;
    }
    (pointers.0..pointers.plus(calls.filled).0).for_each(|pointer| {
        code.local_get(pointer);
    });
    code.call(calls.fill);
    set_may_leave(code, true);
}

/// Pushes the parameters as the hook takes them.
fn pass(code: &mut InstructionSink<'_>, leaves: &[Leaf], pointers: Local) {
    let mut pointer = pointers.0;
    for (param, leaf) in (1..).zip(leaves) {
        match leaf {
            Leaf::Scalar(_) => {
                code.local_get(param);
                continue;
            }
            Leaf::String => {
                code.local_get(pointer).local_get(param);
            }
            Leaf::OptionalString => {
                code.local_get(param).i32_const(-1).i32_ne().local_get(pointer);
                code.i32_const(0).local_get(param).local_get(param).i32_const(-1).i32_eq().select();
            }
        }
        pointer += 1;
    }
}

/// Has the record of all parameters placed and pushes the pointer to it.
fn lower_record(code: &mut InstructionSink<'_>, calls: &Calls, record: Local, blocks: Local) {
    set_may_leave(code, false);
    code.call(calls.first).local_set(blocks.0);
    make_room(code, calls, blocks);
    code.local_tee(record.0).call(calls.place).local_set(blocks.0);
    place_all(code, calls, blocks);
    set_may_leave(code, true);
    code.local_get(record.0);
}

/// The same for a record with this layout that has this many strings.
fn lower_record_of_strings(
    code: &mut InstructionSink<'_>,
    calls: &Calls,
    ((size, align), strings): ((i32, i32), usize),
    pointers: Local,
) {
    let record = pointers.plus(STRINGS_FEW);
    set_may_leave(code, false);
    code.i32_const(0).i32_const(0).i32_const(align).i32_const(size).call(calls.realloc).local_set(record.0);
    for string in 0..strings {
        let length = Local(1).plus(string);
        code.i32_const(0).i32_const(0).local_get(0).local_get(length.0).local_get(0).i32_mul();
        code.call(calls.realloc).local_set(pointers.plus(string).0);
    }
    code.local_get(record.0);
    (pointers.0..record.0).for_each(|pointer| {
        code.local_get(pointer);
    });
    code.call(calls.place_few);
    set_may_leave(code, true);
    code.local_get(record.0);
}

/// Leaves what a result in memory says briefly in the second local, or has the broker read it and leaves
/// [`brief::NOT`] there. The first local is the pointer to it, the third one is for bytes of memory.
fn read_result(
    code: &mut InstructionSink<'_>,
    brief: Option<&Brief>,
    [pointer, answer, bytes]: [Local; 3],
    lifted: u32,
) {
    code.block(BlockType::Empty);
    if let Some(brief) = brief {
        code.block(BlockType::Empty);
        brief.read(code, [pointer.0, answer.0, bytes.0]);
        code.br(1).end();
    }
    code.local_get(pointer.0).call(lifted).i32_const(brief::NOT).local_set(answer.0).end();
}

/// Has the guest free its result.
fn free_result(code: &mut InstructionSink<'_>, returned: Option<Local>, post_return: Option<u32>) {
    let Some(post_return) = post_return else { return };
    set_may_leave(code, false);
    returned.into_iter().for_each(|returned| {
        code.local_get(returned.0);
    });
    code.call(post_return);
    set_may_leave(code, true);
}

/// From alignment and bytes of a block in local `blocks` to a pointer on the stack.
fn make_room(code: &mut InstructionSink<'_>, calls: &Calls, blocks: Local) {
    code.i32_const(0).i32_const(0);
    code.local_get(blocks.0).i64_const(32).i64_shr_u().i32_wrap_i64();
    code.local_get(blocks.0).i32_wrap_i64().call(calls.realloc);
}

/// Has room made for all blocks, beginning with the one in local `blocks`.
fn place_all(code: &mut InstructionSink<'_>, calls: &Calls, blocks: Local) {
    code.local_get(blocks.0).i64_const(NO_BLOCK).i64_ne().if_(BlockType::Empty).loop_(BlockType::Empty);
    make_room(code, calls, blocks);
    code.call(calls.place).local_tee(blocks.0).i64_const(NO_BLOCK).i64_ne().br_if(0).end().end();
}

fn set_may_leave(code: &mut InstructionSink<'_>, may_leave: bool) {
    code.i32_const(i32::from(may_leave)).global_set(0);
}

const fn value(core: Core) -> ValType {
    match core {
        Core::I32 => ValType::I32,
        Core::I64 => ValType::I64,
    }
}

/// The index of a function's local variable.
#[derive(Clone, Copy)]
struct Local(u32);

impl Local {
    /// The first one behind the parameters, of which there are a few.
    fn behind(params: &[ValType]) -> Self {
        Self(0).plus(params.len())
    }

    fn plus(self, count: usize) -> Self {
        Self(u32::try_from(count).map_or(u32::MAX, |count| self.0.saturating_add(count)))
    }
}

/// A module in the making: every import comes before the first definition.
#[derive(Default)]
struct Builder {
    types: TypeSection,
    imports: ImportSection,
    functions: FunctionSection,
    exports: ExportSection,
    code: CodeSection,
    imported: u32,
    /// Whether it imports the guest's memory.
    memory: bool,
}

impl Builder {
    /// Imports a function; answers its index.
    fn import(&mut self, module: &str, name: &str, params: &[ValType], results: &[ValType]) -> u32 {
        let ty = self.types.len();
        self.types.ty().function(params.iter().copied(), results.iter().copied());
        self.imports.import(module, name, EntityType::Function(ty));
        self.imported += 1;
        self.imported - 1
    }

    fn define(&mut self, name: &str, params: &[ValType], results: &[ValType], body: &Body) {
        let ty = self.types.len();
        self.types.ty().function(params.iter().copied(), results.iter().copied());
        self.exports.export(name, ExportKind::Func, self.imported + self.functions.len());
        self.functions.function(ty);
        self.code.function(body);
    }

    fn finish(mut self) -> Vec<u8> {
        let may_leave = GlobalType { val_type: ValType::I32, mutable: true, shared: false };
        self.imports.import(LANE, MAY_LEAVE, may_leave);
        if self.memory {
            let any = MemoryType {
                minimum: 0,
                maximum: None,
                memory64: false,
                shared: false,
                page_size_log2: None,
            };
            self.imports.import(GUEST, MEMORY, any);
        }
        let mut module = Module::new();
        module.section(&self.types).section(&self.imports).section(&self.functions);
        module.section(&self.exports).section(&self.code);
        module.finish()
    }
}

#[cfg(test)]
mod tests;
