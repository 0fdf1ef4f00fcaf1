//! Results that say nothing but which case holds, and perhaps one byte more: what most policies answer for most
//! messages. Adapters read these inside of WebAssembly; whatever is not exactly so goes the long way.
//!
//! The checks are those of the long way (`lift.rs`), of what lies behind pointers included, and none of them fails: a
//! result that does not pass is given to the broker, which says what is wrong with it.

use super::types::Type;
use wasm_encoder::{InstructionSink, MemArg};

/// The answer of an adapter whose result the broker has read.
pub(crate) const NOT: i32 = -1;

/// Bits that the further byte of a brief answer is shifted by.
const MORE_SHIFT: i32 = 8;

/// Where a result in memory shows that it is brief. The answer is the case, with the further byte above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Brief {
    pub(crate) size: usize,
    pub(crate) align: usize,
    /// Where the discriminant is, and how many of the first cases have no value.
    pub(crate) case: (usize, usize),
    /// A list that has to be empty, and the alignment of its items.
    pub(crate) empty: Option<(usize, usize)>,
    /// A byte that is answered as well, and how many values it has.
    pub(crate) more: Option<(usize, usize)>,
}

impl Brief {
    /// For a variant or an option that is the whole result; none when its first case has a value.
    pub(crate) const fn of(ty: &Type) -> Option<Self> {
        let cases = ty.first_plain_cases();
        if cases == 0 {
            return None;
        }
        Some(Self { size: ty.size(), align: ty.align(), case: (0, cases), empty: None, more: None })
    }

    /// Leaves the answer in the second local. Leaves the innermost block when the result, at the pointer in the first
    /// local, is not brief. The third local is for bytes of memory.
    pub(crate) fn read(&self, code: &mut InstructionSink<'_>, [pointer, answer, bytes]: [u32; 3]) {
        code.local_get(pointer).i32_const(mask(self.align)).i32_and().br_if(0);
        code.memory_size(0).i64_extend_i32_u().i64_const(16).i64_shl().local_tee(bytes);
        code.local_get(pointer).i64_extend_i32_u().i64_const(number(self.size).into()).i64_add();
        code.i64_lt_u().br_if(0);
        let (at, cases) = self.case;
        code.local_get(pointer).i32_load8_u(place(at, 0)).local_tee(answer);
        code.i32_const(number(cases)).i32_ge_u().br_if(0);
        if let Some((at, align)) = self.empty {
            code.local_get(pointer).i32_load(place(at + 4, 2)).br_if(0);
            code.local_get(pointer).i32_load(place(at, 2)).i32_const(mask(align)).i32_and().br_if(0);
            code.local_get(bytes).local_get(pointer).i32_load(place(at, 2)).i64_extend_i32_u();
            code.i64_lt_u().br_if(0);
        }
        if let Some((at, values)) = self.more {
            code.local_get(pointer).i32_load8_u(place(at, 0)).i32_const(number(values)).i32_ge_u().br_if(0);
            code.local_get(pointer).i32_load8_u(place(at, 0)).i32_const(MORE_SHIFT).i32_shl();
            code.local_get(answer).i32_or().local_set(answer);
        }
    }
}

/// The case and the further byte of a brief answer; none of one that the broker has read.
#[inline]
pub(crate) const fn split(answer: i32) -> Option<[u8; 2]> {
    if answer == NOT {
        return None;
    }
    let [case, more, ..] = answer.to_le_bytes();
    Some([case, more])
}

const fn mask(align: usize) -> i32 {
    number(align) - 1
}

/// Layouts of the contract have some dozens of bytes.
const fn number(number: usize) -> i32 {
    assert!(number < 1 << 16, "a layout is small");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "checked in the line above"
    )]
    let number = number as i32;
    number
}

fn place(at: usize, align: u32) -> MemArg {
    MemArg { offset: at as u64, align, memory_index: 0 }
}
