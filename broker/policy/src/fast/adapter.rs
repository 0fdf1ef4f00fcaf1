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
//!   "lifted <hook>"(result)                        when the result lies in memory
//!   may-leave := 0, post-return(result), may-leave := 1
//! ```
//!
//! Parameters that are more than [`FLAT_PARAMS_MAX`] core values lie in one record, made room for and written
//! block by block (`"first"`, `"place"`); so are results of imports. The adapter of the imports also keeps a guest
//! from calling the broker while `may-leave` is 0.

use super::types::{Core, FLAT_PARAMS_MAX, Function, Type};
use std::iter;
use wasm_encoder::{
    BlockType, CodeSection, EntityType, ExportKind, ExportSection, Function as Body, FunctionSection,
    GlobalType, ImportSection, InstructionSink, Module, TypeSection, ValType,
};

/// Strings that one call of [`FILL`] writes.
pub(crate) const STRINGS_MAX: usize = 8;

/// Modules that adapters import from, and what is in them.
pub(crate) const BROKER: &str = "broker";
pub(crate) const GUEST: &str = "guest";
pub(crate) const LANE: &str = "lane";
pub(crate) const MAY_LEAVE: &str = "may-leave";
pub(crate) const REALLOC: &str = "realloc";
pub(crate) const HOOK: &str = "hook";
pub(crate) const POST_RETURN: &str = "post-return";
pub(crate) const FILL: &str = "fill";
pub(crate) const FIRST: &str = "first";
pub(crate) const PLACE: &str = "place";
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
        None => (Vec::new(), [Core::I32].as_slice()),
    };
    let strings = leaves.iter().filter(|leaf| !matches!(leaf, Leaf::Scalar(_))).count();
    if strings > STRINGS_MAX {
        return None;
    }
    let core: Vec<ValType> = core.iter().copied().map(value).collect();
    let result = if function.returns_pointer() { Some(Core::I32) } else { function.flat_result() };
    let results: Vec<ValType> = result.into_iter().map(value).collect();
    let mut module = Builder::default();
    let calls = Calls::import(&mut module);
    let hook = module.import(GUEST, HOOK, &core, &results);
    let lifted = function
        .returns_pointer()
        .then(|| module.import(BROKER, &lifted(function.name), &[ValType::I32], &[]));
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
    ]);
    let mut code = body.instructions();
    if flat.as_params().is_none() {
        lower_record(&mut code, &calls, pointers, blocks);
    } else {
        if strings > 0 {
            lower_strings(&mut code, &calls, &leaves, pointers);
        }
        pass(&mut code, &leaves, pointers);
    }
    code.call(hook);
    finish_call(&mut code, result.is_some().then_some(returned), lifted, post_return);
    let answers = function.flat_result().map(value);
    if answers.is_some() {
        code.local_get(returned.0);
    }
    code.end();
    module.define(CALL, &params, answers.as_slice(), &body);
    Some(module.finish())
}

/// The adapter of some imports. Without a result that has blocks among them it needs no allocator.
pub(crate) fn imports(functions: &[&Function]) -> Vec<u8> {
    let mut module = Builder::default();
    let has_blocks = functions.iter().any(|function| function.result_has_blocks());
    let calls = has_blocks.then(|| Calls::import(&mut module));
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

/// Indexes of the functions that every adapter imports.
struct Calls {
    realloc: u32,
    fill: u32,
    first: u32,
    place: u32,
}

impl Calls {
    fn import(module: &mut Builder) -> Self {
        Self {
            realloc: module.import(GUEST, REALLOC, &[ValType::I32; 4], &[ValType::I32]),
            fill: module.import(BROKER, FILL, &[ValType::I32; STRINGS_MAX], &[]),
            first: module.import(BROKER, FIRST, &[], &[ValType::I64]),
            place: module.import(BROKER, PLACE, &[ValType::I32], &[ValType::I64]),
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
    (pointers.0..pointers.plus(STRINGS_MAX).0).for_each(|pointer| {
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

/// Has the result read, then freed.
fn finish_call(
    code: &mut InstructionSink<'_>,
    returned: Option<Local>,
    lifted: Option<u32>,
    post_return: Option<u32>,
) {
    if let Some(returned) = returned {
        code.local_set(returned.0);
        if let Some(lifted) = lifted {
            code.local_get(returned.0).call(lifted);
        }
    }
    if let Some(post_return) = post_return {
        set_may_leave(code, false);
        returned.into_iter().for_each(|returned| {
            code.local_get(returned.0);
        });
        code.call(post_return);
        set_may_leave(code, true);
    }
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
        let mut module = Module::new();
        module.section(&self.types).section(&self.imports).section(&self.functions);
        module.section(&self.exports).section(&self.code);
        module.finish()
    }
}

#[cfg(test)]
mod tests;
