//! Types of the contract and how the canonical ABI lays them out, computed while the broker is compiled.
//!
//! Everything of the fast lane that reads or writes a guest's memory takes sizes, offsets and discriminants from
//! here, so a layout is never written down by hand. That a description says what a component was built with is
//! checked at upload ([`Function::describes`]). Deliberately not here: types the contract does not use.

use wasmtime::component::types::{self, ComponentFunc};

/// A type of the component model. A type that the contract begins to use is one more case.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Type {
    Bool,
    S8,
    U8,
    U16,
    U32,
    U64,
    S64,
    String,
    Enum(&'static [&'static str]),
    /// At most eight flags.
    Flags(&'static [&'static str]),
    List(&'static Self),
    Option(&'static Self),
    /// A `result` without a value.
    Fallible(&'static Self),
    Tuple(&'static [Self]),
    Record(&'static [(&'static str, Self)]),
    Variant(&'static [(&'static str, Option<Self>)]),
}

/// A function of the contract.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) params: &'static [(&'static str, Type)],
    pub(crate) result: Option<Type>,
}

/// A type of core WebAssembly that a value is passed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Core {
    I32,
    I64,
}

/// Parameters beyond this many core values go through memory.
pub(crate) const FLAT_PARAMS_MAX: usize = 16;

/// Core values of a type, as far as they can be parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flat {
    core: [Core; FLAT_PARAMS_MAX],
    count: usize,
}

impl Type {
    pub(crate) const fn align(&self) -> usize {
        match self {
            Self::Bool | Self::S8 | Self::U8 | Self::Flags(_) => 1,
            Self::U16 => 2,
            Self::U32 | Self::String | Self::List(_) => 4,
            Self::U64 | Self::S64 => 8,
            Self::Enum(cases) => tag_size(cases.len()),
            Self::Tuple(_) | Self::Record(_) => {
                let (mut align, mut index) = (1, 0);
                while let Some(member) = self.member(index) {
                    align = larger(align, member.align());
                    index += 1;
                }
                align
            }
            Self::Option(_) | Self::Fallible(_) | Self::Variant(_) => {
                larger(tag_size(self.case_count()), self.payload_layout().1)
            }
        }
    }

    /// Bytes in memory, including what keeps the next one of its kind aligned.
    pub(crate) const fn size(&self) -> usize {
        match self {
            Self::Bool | Self::S8 | Self::U8 => 1,
            Self::U16 => 2,
            Self::U32 => 4,
            Self::Flags(flags) => {
                assert!(flags.len() <= 8, "one byte has all of them");
                1
            }
            Self::U64 | Self::S64 | Self::String | Self::List(_) => 8,
            Self::Enum(cases) => tag_size(cases.len()),
            Self::Tuple(items) => self.member_at(items.len()),
            Self::Record(fields) => self.member_at(fields.len()),
            Self::Option(_) | Self::Fallible(_) | Self::Variant(_) => {
                (self.payload_at() + self.payload_layout().0).next_multiple_of(self.align())
            }
        }
    }

    /// Where a member of a tuple or record lies; its size for the index behind the last one.
    pub(crate) const fn member_at(&self, wanted: usize) -> usize {
        let (mut at, mut index) = (0, 0);
        while let Some(member) = self.member(index) {
            at = usize::next_multiple_of(at, member.align());
            if index == wanted {
                return at;
            }
            at += member.size();
            index += 1;
        }
        assert!(index == wanted, "no such member");
        at.next_multiple_of(self.align())
    }

    /// Where a field of a record lies. Asked for a field it does not have, the broker does not compile.
    pub(crate) const fn field_at(&self, name: &str) -> usize {
        let Self::Record(fields) = self else { panic!("not a record") };
        let mut index = 0;
        while !is_same(fields[index].0, name) {
            index += 1;
        }
        self.member_at(index)
    }

    /// Where the value of an option, result or variant lies; its discriminant is at 0.
    pub(crate) const fn payload_at(&self) -> usize {
        tag_size(self.case_count()).next_multiple_of(self.payload_layout().1)
    }

    /// The discriminant of a variant's case.
    pub(crate) const fn case(&self, name: &str) -> u8 {
        let Self::Variant(cases) = self else { panic!("not a variant") };
        let mut index = 0;
        while !is_same(cases[index].0, name) {
            index += 1;
        }
        assert!(index < 256, "one byte names the case");
        #[expect(clippy::cast_possible_truncation, reason = "checked in the line above")]
        let case = index as u8;
        case
    }

    /// The core values that the type is passed as outside of memory.
    pub(crate) const fn flat(&self) -> Flat {
        let mut flat = Flat { core: [Core::I32; FLAT_PARAMS_MAX], count: 0 };
        self.flatten(&mut flat);
        flat
    }

    const fn flatten(&self, flat: &mut Flat) {
        match self {
            Self::Bool | Self::S8 | Self::U8 | Self::U16 | Self::U32 | Self::Enum(_) | Self::Flags(_) => {
                flat.push(Core::I32)
            }
            Self::U64 | Self::S64 => flat.push(Core::I64),
            Self::String | Self::List(_) => {
                flat.push(Core::I32);
                flat.push(Core::I32);
            }
            Self::Tuple(_) | Self::Record(_) => {
                let mut index = 0;
                while let Some(member) = self.member(index) {
                    member.flatten(flat);
                    index += 1;
                }
            }
            Self::Option(_) | Self::Fallible(_) | Self::Variant(_) => {
                flat.push(Core::I32);
                let (begin, mut index) = (flat.count, 0);
                while index < self.case_count() {
                    if let Some(payload) = self.payload(index) {
                        flat.join(begin, &payload.flat());
                    }
                    index += 1;
                }
            }
        }
    }

    const fn member(&self, index: usize) -> Option<&Self> {
        match self {
            Self::Tuple(items) if index < items.len() => Some(&items[index]),
            Self::Record(fields) if index < fields.len() => Some(&fields[index].1),
            _ => None,
        }
    }

    const fn case_count(&self) -> usize {
        match self {
            Self::Variant(cases) => cases.len(),
            _ => 2,
        }
    }

    const fn payload(&self, case: usize) -> Option<&Self> {
        match self {
            Self::Option(payload) | Self::Fallible(payload) if case == 1 => Some(payload),
            Self::Variant(cases) => cases[case].1.as_ref(),
            _ => None,
        }
    }

    /// How many cases there are before the first one that has a value.
    pub(crate) const fn first_plain_cases(&self) -> usize {
        let mut case = 0;
        if matches!(self, Self::Option(_) | Self::Fallible(_) | Self::Variant(_)) {
            while case < self.case_count() && self.payload(case).is_none() {
                case += 1;
            }
        }
        case
    }

    /// Whether a value of it refers to memory that the guest has to make room for.
    pub(crate) fn has_pointers(&self) -> bool {
        self.has(|part| matches!(part, Self::String | Self::List(_)))
    }

    /// Whether this is such a type, or a part of it is.
    fn has(&self, wanted: fn(&Self) -> bool) -> bool {
        let of_parts = match self {
            Self::Bool
            | Self::S8
            | Self::U8
            | Self::U16
            | Self::U32
            | Self::U64
            | Self::S64
            | Self::String
            | Self::Enum(_)
            | Self::Flags(_) => false,
            Self::List(inner) | Self::Option(inner) | Self::Fallible(inner) => inner.has(wanted),
            Self::Tuple(items) => items.iter().any(|item| item.has(wanted)),
            Self::Record(fields) => fields.iter().any(|(_, field)| field.has(wanted)),
            Self::Variant(cases) => cases.iter().any(|(_, case)| case.is_some_and(|case| case.has(wanted))),
        };
        of_parts || wanted(self)
    }

    /// Size and alignment of the largest value among the cases.
    const fn payload_layout(&self) -> (usize, usize) {
        let (mut size, mut align, mut case) = (0, 1, 0);
        while case < self.case_count() {
            if let Some(payload) = self.payload(case) {
                size = larger(size, payload.size());
                align = larger(align, payload.align());
            }
            case += 1;
        }
        (size, align)
    }

    /// Whether this describes a type that a component was built with.
    fn describes(&self, theirs: &types::Type) -> bool {
        match (self, theirs) {
            (Self::Bool, types::Type::Bool)
            | (Self::S8, types::Type::S8)
            | (Self::U8, types::Type::U8)
            | (Self::U16, types::Type::U16)
            | (Self::U32, types::Type::U32)
            | (Self::U64, types::Type::U64)
            | (Self::S64, types::Type::S64)
            | (Self::String, types::Type::String) => true,
            (Self::Enum(cases), types::Type::Enum(theirs)) => theirs.names().eq(cases.iter().copied()),
            (Self::Flags(flags), types::Type::Flags(theirs)) => theirs.names().eq(flags.iter().copied()),
            (Self::List(item), types::Type::List(theirs)) => item.describes(&theirs.ty()),
            (Self::Option(some), types::Type::Option(theirs)) => some.describes(&theirs.ty()),
            (Self::Fallible(error), types::Type::Result(theirs)) => {
                theirs.ok().is_none() && theirs.err().is_some_and(|theirs| error.describes(&theirs))
            }
            (Self::Tuple(items), types::Type::Tuple(theirs)) => {
                items.len() == theirs.types().len()
                    && items.iter().zip(theirs.types()).all(|(ours, theirs)| ours.describes(&theirs))
            }
            (Self::Record(fields), types::Type::Record(theirs)) => {
                fields.len() == theirs.fields().len()
                    && fields
                        .iter()
                        .zip(theirs.fields())
                        .all(|((name, ours), theirs)| *name == theirs.name && ours.describes(&theirs.ty))
            }
            (Self::Variant(cases), types::Type::Variant(theirs)) => {
                cases.len() == theirs.cases().len()
                    && cases.iter().zip(theirs.cases()).all(|((name, ours), theirs)| {
                        *name == theirs.name && describes_optional(ours.as_ref(), theirs.ty.as_ref())
                    })
            }
            _ => false,
        }
    }
}

fn describes_optional(ours: Option<&Type>, theirs: Option<&types::Type>) -> bool {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) => ours.describes(theirs),
        (None, None) => true,
        _ => false,
    }
}

impl Function {
    /// All parameters as core values.
    pub(crate) const fn flat_params(&self) -> Flat {
        let mut flat = Flat { core: [Core::I32; FLAT_PARAMS_MAX], count: 0 };
        let mut index = 0;
        while index < self.params.len() {
            self.params[index].1.flatten(&mut flat);
            index += 1;
        }
        flat
    }

    /// Bytes and alignment of the record in which all parameters lie when they are too many for core values.
    pub(crate) fn params_layout(&self) -> (i32, i32) {
        let types: Vec<Type> = self.params.iter().map(|(_, ty)| *ty).collect();
        let at = types.iter().fold(0, |at: usize, ty| at.next_multiple_of(ty.align()) + ty.size());
        let align = types.iter().map(Type::align).max().unwrap_or(1);
        let number = |size: usize| i32::try_from(size).unwrap_or(i32::MAX);
        (number(at.next_multiple_of(align)), number(align))
    }

    /// The result as a core value, or nothing when it goes through memory or there is none.
    pub(crate) fn flat_result(&self) -> Option<Core> {
        let flat = self.result?.flat();
        (flat.count == 1).then_some(flat.core[0])
    }

    /// Whether the result is too large for a core value, so that a pointer stands for it.
    pub(crate) fn returns_pointer(&self) -> bool {
        self.result.is_some_and(|result| result.flat().count > 1)
    }

    /// Whether a result needs room that the guest has to make.
    pub(crate) fn result_has_blocks(&self) -> bool {
        self.result.is_some_and(|result| result.has_pointers())
    }

    /// Whether strings are passed, so that their encoding matters.
    pub(crate) fn passes_strings(&self) -> bool {
        let types = self.params.iter().map(|(_, ty)| ty).chain(&self.result);
        types.into_iter().any(|ty| ty.has(|part| matches!(part, Type::String)))
    }

    /// Whether this describes a function of a component.
    pub(crate) fn describes(&self, theirs: &ComponentFunc) -> bool {
        let params = theirs.params();
        let mut results = theirs.results();
        !theirs.async_()
            && params.len() == self.params.len()
            && params.zip(self.params).all(|((_, theirs), (_, ours))| ours.describes(&theirs))
            && describes_optional(self.result.as_ref(), results.next().as_ref())
            && results.next().is_none()
    }
}

impl Flat {
    const fn push(&mut self, core: Core) {
        if self.count < FLAT_PARAMS_MAX {
            self.core[self.count] = core;
        }
        self.count += 1;
    }

    /// Lays the values of one case over those of the other cases, which begin at `begin`.
    const fn join(&mut self, begin: usize, case: &Self) {
        let mut index = 0;
        while index < case.count && index < FLAT_PARAMS_MAX {
            let (at, core) = (begin + index, case.core[index]);
            if at >= self.count {
                self.push(core);
            } else if at < FLAT_PARAMS_MAX && matches!(core, Core::I64) {
                self.core[at] = Core::I64;
            }
            index += 1;
        }
    }

    /// The values, or nothing when there are more than can be parameters.
    pub(crate) fn as_params(&self) -> Option<&[Core]> {
        self.core.get(..self.count)
    }
}

const fn tag_size(cases: usize) -> usize {
    match cases {
        0..=0x100 => 1,
        0x101..=0x1_0000 => 2,
        _ => 4,
    }
}

const fn larger(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

const fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut index = 0;
    while index < a.len() && index < b.len() && a[index] == b[index] {
        index += 1;
    }
    index == a.len() && index == b.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: Type = Type::Tuple(&[Type::String, Type::String]);
    const PICK: Type = Type::Record(&[("version", Type::U64), ("index", Type::U32)]);
    const MIXED: Type = Type::Variant(&[
        ("none", None),
        ("text", Some(Type::String)),
        ("pick", Some(PICK)),
        ("level", Some(Type::Enum(&["low", "high"]))),
        ("flag", Some(Type::Bool)),
    ]);

    /// Size, alignment and core values, from the rules of the canonical ABI.
    fn check(ty: Type, size: usize, align: usize, flat: &str) {
        let ours: String = match ty.flat().as_params() {
            Some(core) => core.iter().map(|core| if *core == Core::I32 { 'i' } else { 'l' }).collect(),
            None => "memory".to_owned(),
        };
        assert_eq!((ty.size(), ty.align(), ours.as_str()), (size, align, flat), "{ty:?}");
    }

    #[test]
    fn layouts() {
        check(Type::Bool, 1, 1, "i");
        check(Type::U8, 1, 1, "i");
        check(Type::S8, 1, 1, "i");
        check(Type::Flags(&["a", "b"]), 1, 1, "i");
        check(Type::Record(&[("a", Type::Flags(&["a"])), ("b", Type::U32)]), 8, 4, "ii");
        check(Type::U16, 2, 2, "i");
        check(Type::U64, 8, 8, "l");
        check(Type::S64, 8, 8, "l");
        check(Type::String, 8, 4, "ii");
        check(Type::List(&PAIR), 8, 4, "ii");
        check(PAIR, 16, 4, "iiii");
        check(PICK, 16, 8, "li");
        check(Type::Option(&Type::U8), 2, 1, "ii");
        check(Type::Option(&Type::String), 12, 4, "iii");
        check(Type::Option(&Type::U64), 16, 8, "il");
        check(Type::Fallible(&Type::String), 12, 4, "iii");
        check(MIXED, 24, 8, "ili");
        check(Type::Record(&[("a", Type::U8), ("b", Type::U64), ("c", Type::U8)]), 24, 8, "ili");
        check(Type::Tuple(&[PAIR, PAIR, PAIR, PAIR, Type::U8]), 68, 4, "memory");
        check(Type::Enum(&["a"; 257]), 2, 2, "i");
    }

    #[test]
    fn members_and_cases_have_their_places() {
        let record = Type::Record(&[("a", Type::U8), ("b", Type::U64), ("c", MIXED), ("d", Type::Bool)]);
        assert_eq!(["a", "b", "c", "d"].map(|name| record.field_at(name)), [0, 8, 16, 40]);
        assert_eq!((MIXED.payload_at(), MIXED.case("none"), MIXED.case("flag")), (8, 0, 4));
        assert_eq!(Type::Option(&Type::String).payload_at(), 4);
        assert_eq!(PAIR.member_at(1), 8);
    }
}
