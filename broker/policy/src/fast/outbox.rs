//! What the broker is about to write into a guest's memory.
//!
//! A guest makes room for each piece by itself (`realloc`), and the broker has to know all pieces before it asks.
//! So a value is first laid out here as blocks: a root, and one for each string and list, in the order in which
//! the canonical ABI makes room for them. Once a block has its place, its bytes go there and its pointer into
//! the block that refers to it.

use super::adapter::STRINGS_MAX;
use super::plan::Encoding;
use super::types::Type;
use std::ops::Range;
use std::sync::Arc;
use wasmtime::{Result, bail};

/// Larger strings are refused before the guest is asked for room, as the component API does.
const STRING_BYTES_MAX: usize = (1 << 31) - 1;

/// Values being passed to a guest.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    encoding: Encoding,
    bytes: Vec<u8>,
    blocks: Vec<Block>,
    /// Blocks that have their place.
    placed: usize,
    /// The root stays here, and its parts are passed as core values.
    keeps_root: bool,
    /// Strings that are passed by themselves: where each ends in `bytes`.
    string_ends: [usize; STRINGS_MAX],
    strings: usize,
    /// Bytes that are passed on without a copy in between.
    shared: Option<Arc<Vec<u8>>>,
}

#[derive(Debug, Clone)]
struct Block {
    align: u32,
    bytes: Bytes,
    /// Where the pointer to this block goes: a block and a place in it. None for what is passed by itself.
    parent: Option<(usize, usize)>,
    address: u32,
}

#[derive(Debug, Clone)]
enum Bytes {
    Own(Range<usize>),
    Shared,
}

/// What can be passed to a guest.
pub(crate) trait Lower {
    /// Its type in the contract.
    const TYPE: Type;

    /// Lays it out in a block, `at` bytes behind its beginning.
    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()>;
}

impl Outbox {
    pub(crate) fn new(encoding: Encoding) -> Self {
        Self { encoding, ..Self::default() }
    }

    pub(crate) const fn encoding(&self) -> Encoding {
        self.encoding
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.blocks.clear();
        self.placed = 0;
        self.keeps_root = false;
        self.strings = 0;
    }

    /// Adds a string that is passed by itself; answers its length in code units.
    #[inline]
    pub(crate) fn string(&mut self, text: &str) -> Result<u32> {
        let begin = self.bytes.len();
        let units = self.encode(text)?;
        self.end_string(begin + (units * self.encoding.unit()) as usize)?;
        Ok(units)
    }

    /// The same for a string that may be missing, which adapters know by this answer.
    #[cfg_attr(not(test), expect(dead_code, reason = "adapters are complete without a user of each shape"))]
    pub(crate) fn optional_string(&mut self, text: Option<&str>) -> Result<u32> {
        match text {
            Some(text) => self.string(text),
            None => self.end_string(self.bytes.len()).map(|()| u32::MAX),
        }
    }

    #[inline]
    fn end_string(&mut self, at: usize) -> Result<()> {
        let Some(end) = self.string_ends.get_mut(self.strings) else {
            bail!("more than {STRINGS_MAX} strings are passed by themselves");
        };
        *end = at;
        self.strings += 1;
        Ok(())
    }

    /// Lays a value out whose root gets its place like any other block.
    pub(crate) fn value<T: Lower>(&mut self, value: &T) -> Result<()> {
        self.clear();
        // In a constant, or the layout would be computed for every call.
        let (size, align) = const { (T::TYPE.size(), T::TYPE.align()) };
        let root = self.push_zeros(size, align, None)?;
        value.lay_out(self, root, 0)
    }

    /// Lays a value out whose root has a place already, and writes that.
    pub(crate) fn result<T: Lower>(&mut self, value: &T, memory: &mut [u8], at: u32) -> Result<()> {
        self.value(value)?;
        let (size, align) = const { (T::TYPE.size(), T::TYPE.align()) };
        if !(at as usize).is_multiple_of(align) {
            bail!("pointer not aligned");
        }
        if memory.get(at as usize..).is_none_or(|rest| rest.len() < size) {
            bail!("pointer out of bounds");
        }
        self.place(memory, at)
    }

    /// Lays a value out whose root stays here, to be read with [`Self::kept`] once all blocks have their places.
    pub(crate) fn parts<T: Lower>(&mut self, value: &T) -> Result<()> {
        self.value(value)?;
        self.keeps_root = true;
        self.placed = 1;
        Ok(())
    }

    /// Bytes of a root that stays here.
    pub(crate) fn kept<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        let bytes = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        bytes.copied().ok_or_else(|| wasmtime::format_err!("a value lies outside of its block"))
    }

    /// Alignment and bytes of the next block that has no place yet.
    pub(crate) fn next(&self) -> Option<(u32, u32)> {
        let block = self.blocks.get(self.placed)?;
        u32::try_from(self.len(block)).ok().map(|len| (block.align, len))
    }

    /// Writes the next block to its place.
    #[inline]
    pub(crate) fn place(&mut self, memory: &mut [u8], at: u32) -> Result<()> {
        let index = self.placed;
        let Some(block) = self.blocks.get_mut(index) else { bail!("there is nothing to place") };
        if !at.is_multiple_of(block.align) {
            bail!("realloc return: result not aligned");
        }
        block.address = at;
        let source = match &block.bytes {
            Bytes::Own(range) => self.bytes.get(range.clone()),
            Bytes::Shared => self.shared.as_ref().map(|shared| shared.as_slice()),
        };
        let source = source.unwrap_or_default();
        let target = memory.get_mut(at as usize..).and_then(|rest| rest.get_mut(..source.len()));
        let Some(target) = target else { bail!("realloc return: beyond end of memory") };
        target.copy_from_slice(source);
        self.placed += 1;
        match block.parent {
            None => Ok(()),
            Some(parent) => self.refer(memory, parent, at),
        }
    }

    /// Writes a root and the strings behind it, each to its place.
    pub(crate) fn place_few(&mut self, memory: &mut [u8], root: u32, strings: &[u32]) -> Result<()> {
        self.place(memory, root)?;
        let behind = self.blocks.len() - self.placed;
        strings.iter().take(behind).try_for_each(|&at| self.place(memory, at))
    }

    /// How many code units the strings behind a root have; to be asked of values that have as many.
    pub(crate) fn units<const N: usize>(&self) -> Result<[u32; N]> {
        let mut units = [0; N];
        let strings = self.blocks.get(1..).unwrap_or_default();
        if strings.len() != N {
            bail!("{} strings where {N} are passed", strings.len());
        }
        for (units, string) in units.iter_mut().zip(strings) {
            *units = u32::try_from(self.len(string))? / self.encoding.unit();
        }
        Ok(units)
    }

    /// Writes the pointer to a block into the one that refers to it.
    fn refer(&mut self, memory: &mut [u8], (parent, at): (usize, usize), pointer: u32) -> Result<()> {
        // What is shared has been passed on, and its owner changes it without a copy when nobody else has it.
        self.shared = None;
        if self.keeps_root && parent == 0 {
            return self.set(parent, at, &pointer.to_le_bytes());
        }
        let parent = self.blocks.get(parent).map_or(0, |parent| parent.address as usize);
        let field = memory.get_mut(parent + at..).and_then(|rest| rest.first_chunk_mut());
        let Some(field) = field else { bail!("realloc return: beyond end of memory") };
        *field = pointer.to_le_bytes();
        Ok(())
    }

    /// Writes the strings that are passed by themselves, each to its place.
    #[inline]
    pub(crate) fn fill(&self, memory: &mut [u8], places: &[u32]) -> Result<()> {
        let unit = self.encoding.unit();
        let mut begin = 0;
        for (&at, &end) in places.iter().zip(&self.string_ends).take(self.strings) {
            if !at.is_multiple_of(unit) {
                bail!("realloc return: result not aligned");
            }
            let text = self.bytes.get(begin..end).unwrap_or_default();
            let target = memory.get_mut(at as usize..).and_then(|rest| rest.get_mut(..text.len()));
            let Some(target) = target else { bail!("realloc return: beyond end of memory") };
            target.copy_from_slice(text);
            begin = end;
        }
        Ok(())
    }

    fn len(&self, block: &Block) -> usize {
        match &block.bytes {
            Bytes::Own(range) => range.len(),
            Bytes::Shared => self.shared.as_ref().map_or(0, |shared| shared.len()),
        }
    }

    /// Appends a string's code units; answers how many there are.
    #[inline]
    fn encode(&mut self, text: &str) -> Result<u32> {
        let begin = self.bytes.len();
        match self.encoding {
            Encoding::Utf8 => self.bytes.extend_from_slice(text.as_bytes()),
            Encoding::Utf16 => self.bytes.extend(text.encode_utf16().flat_map(u16::to_le_bytes)),
        }
        let len = self.bytes.len() - begin;
        if len > STRING_BYTES_MAX {
            bail!("string length of {} too large to copy into wasm", text.len());
        }
        Ok(u32::try_from(len)? / self.encoding.unit())
    }

    fn push_string(&mut self, text: &str, parent: (usize, usize)) -> Result<u32> {
        let begin = self.bytes.len();
        let units = self.encode(text)?;
        let (align, bytes) = (self.encoding.unit(), Bytes::Own(begin..self.bytes.len()));
        self.blocks.push(Block { align, bytes, parent: Some(parent), address: 0 });
        Ok(units)
    }

    fn push_zeros(&mut self, len: usize, align: usize, parent: Option<(usize, usize)>) -> Result<usize> {
        let begin = self.bytes.len();
        if len > STRING_BYTES_MAX {
            bail!("size overflow copying a list");
        }
        self.bytes.resize(begin + len, 0);
        let block =
            Block { align: u32::try_from(align)?, bytes: Bytes::Own(begin..begin + len), parent, address: 0 };
        self.blocks.push(block);
        Ok(self.blocks.len() - 1)
    }

    /// Sets bytes of a block that has no place yet.
    fn set(&mut self, block: usize, at: usize, value: &[u8]) -> Result<()> {
        let begin = match self.blocks.get(block).map(|block| &block.bytes) {
            Some(Bytes::Own(range)) => range.start + at,
            _ => bail!("there is no such block"),
        };
        let target = self.bytes.get_mut(begin..).and_then(|rest| rest.get_mut(..value.len()));
        let Some(target) = target else { bail!("a value lies outside of its block") };
        target.copy_from_slice(value);
        Ok(())
    }
}

impl Lower for u8 {
    const TYPE: Type = Type::U8;

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        outbox.set(block, at, &[*self])
    }
}

impl Lower for u16 {
    const TYPE: Type = Type::U16;

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        outbox.set(block, at, &self.to_le_bytes())
    }
}

impl Lower for u32 {
    const TYPE: Type = Type::U32;

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        outbox.set(block, at, &self.to_le_bytes())
    }
}

impl Lower for u64 {
    const TYPE: Type = Type::U64;

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        outbox.set(block, at, &self.to_le_bytes())
    }
}

impl Lower for i64 {
    const TYPE: Type = Type::S64;

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        outbox.set(block, at, &self.to_le_bytes())
    }
}

impl Lower for &[u8] {
    const TYPE: Type = Type::List(&Type::U8);

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        outbox.set(block, at + 4, &u32::try_from(self.len())?.to_le_bytes())?;
        let begin = outbox.bytes.len();
        outbox.bytes.extend_from_slice(self);
        let bytes = Bytes::Own(begin..outbox.bytes.len());
        outbox.blocks.push(Block { align: 1, bytes, parent: Some((block, at)), address: 0 });
        Ok(())
    }
}

impl Lower for &str {
    const TYPE: Type = Type::String;

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        let units = outbox.push_string(self, (block, at))?;
        outbox.set(block, at + 4, &units.to_le_bytes())
    }
}

impl Lower for &String {
    const TYPE: Type = Type::String;

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        self.as_str().lay_out(outbox, block, at)
    }
}

impl<T: Lower> Lower for Option<T> {
    const TYPE: Type = Type::Option(&T::TYPE);

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        let Some(some) = self else { return Ok(()) };
        outbox.set(block, at, &[1])?;
        some.lay_out(outbox, block, at + const { Self::TYPE.payload_at() })
    }
}

impl<A: Lower, B: Lower> Lower for (A, B) {
    const TYPE: Type = Type::Tuple(&[A::TYPE, B::TYPE]);

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        self.0.lay_out(outbox, block, at)?;
        self.1.lay_out(outbox, block, at + const { Self::TYPE.member_at(1) })
    }
}

/// A list of what an iterator yields.
#[derive(Debug)]
pub(crate) struct List<I>(pub(crate) I);

impl<I: ExactSizeIterator<Item: Lower> + Clone> Lower for List<I> {
    const TYPE: Type = Type::List(&<I::Item as Lower>::TYPE);

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        let (size, align) = const { (I::Item::TYPE.size(), I::Item::TYPE.align()) };
        let items = self.0.clone();
        outbox.set(block, at + 4, &u32::try_from(items.len())?.to_le_bytes())?;
        let list = outbox.push_zeros(items.len().saturating_mul(size), align, Some((block, at)))?;
        items.enumerate().try_for_each(|(index, item)| item.lay_out(outbox, list, index * size))
    }
}

/// A list of bytes that is not copied on its way; one value has at most one of them.
#[derive(Debug)]
pub(crate) struct SharedBytes(pub(crate) Arc<Vec<u8>>);

impl Lower for SharedBytes {
    const TYPE: Type = Type::List(&Type::U8);

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        outbox.set(block, at + 4, &u32::try_from(self.0.len())?.to_le_bytes())?;
        outbox.shared = Some(Arc::clone(&self.0));
        outbox.blocks.push(Block { align: 1, bytes: Bytes::Shared, parent: Some((block, at)), address: 0 });
        Ok(())
    }
}
