//! Reads what a guest hands over out of its memory, with every check that the canonical ABI asks for: alignment,
//! bounds, discriminants, encoding, and a budget for what the broker allocates on the way.
//!
//! The budget is counted as the component API of wasmtime counts it, so that both lanes refuse alike.

use super::plan::Encoding;
use super::types::Type;
use super::world;
use crate::bindings::{Cache, Level};
use crate::limits::CALL_BYTES_MAX;
use crate::verdict::{Answer, AnsweredRoute};
use std::borrow::Cow;
use wasmtime::{Result, bail};

/// A guest's memory during the reading of one value.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    memory: &'a [u8],
    encoding: Encoding,
    budget: usize,
}

/// What can be read from a guest.
pub(crate) trait Lift<'a>: Sized {
    /// Its type in the contract.
    const TYPE: Type;

    /// Reads it from its bytes, which are as many as the type has.
    fn read(reader: &mut Reader<'a>, bytes: &'a [u8]) -> Result<Self>;
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(memory: &'a [u8], encoding: Encoding) -> Self {
        Self { memory, encoding, budget: CALL_BYTES_MAX }
    }

    /// Reads the result of a function, to which it returned a pointer.
    pub(crate) fn result<T: Lift<'a>>(&mut self, pointer: u32) -> Result<T> {
        let (size, align) = const { (T::TYPE.size(), T::TYPE.align()) };
        if !(pointer as usize).is_multiple_of(align) {
            bail!("return pointer not aligned");
        }
        match self.slice(pointer, size) {
            Some(bytes) => T::read(self, bytes),
            None => bail!("pointer out of bounds of memory"),
        }
    }

    /// A string's bytes, not checked to be text.
    pub(crate) fn text(&mut self, pointer: u32, units: u32) -> Result<Text<'a>> {
        let unit = self.encoding.unit();
        if !pointer.is_multiple_of(unit) {
            bail!("string pointer not aligned to {unit}");
        }
        let len = (units as usize).checked_mul(unit as usize);
        let Some(bytes) = len.and_then(|len| self.slice(pointer, len)) else {
            bail!("string pointer/length out of bounds of memory");
        };
        self.spend(bytes.len())?;
        Ok(Text { bytes, encoding: self.encoding })
    }

    /// A list of bytes.
    pub(crate) fn bytes(&mut self, pointer: u32, len: u32) -> Result<&'a [u8]> {
        let Some(bytes) = self.slice(pointer, len as usize) else {
            bail!("list pointer/length out of bounds of memory");
        };
        self.spend(bytes.len())?;
        Ok(bytes)
    }

    fn list<T: Lift<'a>>(&mut self, pointer: u32, count: u32) -> Result<Vec<T>> {
        let (size, align, allocated) = const { (T::TYPE.size(), T::TYPE.align(), allocated(&T::TYPE)) };
        let len = (count as usize).checked_mul(size);
        let Some(bytes) = len.and_then(|len| self.slice(pointer, len)) else {
            bail!("list pointer/length out of bounds of memory");
        };
        self.spend((count as usize).saturating_mul(allocated))?;
        if !(pointer as usize).is_multiple_of(align) {
            bail!("list pointer is not aligned");
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        bytes.chunks_exact(size).map(|item| T::read(self, item)).collect()
    }

    fn slice(&self, pointer: u32, len: usize) -> Option<&'a [u8]> {
        self.memory.get(pointer as usize..)?.get(..len)
    }

    fn spend(&mut self, bytes: usize) -> Result<()> {
        match self.budget.checked_sub(bytes) {
            Some(left) => self.budget = left,
            None => bail!("too much data is being copied between the host and the guest"),
        }
        Ok(())
    }
}

/// Bytes that an item of a list takes in the broker, where strings are owned.
const fn allocated(item: &Type) -> usize {
    match item {
        Type::String => size_of::<String>(),
        Type::Tuple(items) => {
            let (mut sum, mut index) = (0, 0);
            while index < items.len() {
                sum += allocated(&items[index]);
                index += 1;
            }
            sum
        }
        other => other.size(),
    }
}

/// A string within bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    bytes: &'a [u8],
    encoding: Encoding,
}

impl<'a> Text<'a> {
    pub(crate) fn decode(self) -> Result<Cow<'a, str>> {
        match self.encoding {
            Encoding::Utf8 => Ok(Cow::Borrowed(std::str::from_utf8(self.bytes)?)),
            Encoding::Utf16 => {
                let (units, _) = self.bytes.as_chunks::<2>();
                let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
                Ok(Cow::Owned(char::decode_utf16(units).collect::<Result<String, _>>()?))
            }
        }
    }
}

/// The enumeration case that a core value stands for.
pub(crate) fn level(discriminant: u32) -> Result<Level> {
    Ok(match discriminant {
        0 => Level::Debug,
        1 => Level::Info,
        2 => Level::Warn,
        3 => Level::Error,
        other => bail!("unexpected discriminant: {other}"),
    })
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(bytes) => Ok(u32::from_le_bytes(*bytes)),
        None => bail!("pointer out of bounds of memory"),
    }
}

pub(crate) fn tag(bytes: &[u8]) -> Result<u8> {
    match bytes.first() {
        Some(tag) => Ok(*tag),
        None => bail!("pointer out of bounds of memory"),
    }
}

pub(crate) fn behind(bytes: &[u8], at: usize) -> &[u8] {
    bytes.get(at..).unwrap_or_default()
}

impl<'a> Lift<'a> for Cow<'a, str> {
    const TYPE: Type = Type::String;

    #[inline]
    fn read(reader: &mut Reader<'a>, bytes: &'a [u8]) -> Result<Self> {
        reader.text(u32_at(bytes, 0)?, u32_at(bytes, 4)?)?.decode()
    }
}

impl<'a, T: Lift<'a>> Lift<'a> for Vec<T> {
    const TYPE: Type = Type::List(&T::TYPE);

    #[inline]
    fn read(reader: &mut Reader<'a>, bytes: &'a [u8]) -> Result<Self> {
        reader.list(u32_at(bytes, 0)?, u32_at(bytes, 4)?)
    }
}

impl<'a, A: Lift<'a>, B: Lift<'a>> Lift<'a> for (A, B) {
    const TYPE: Type = Type::Tuple(&[A::TYPE, B::TYPE]);

    fn read(reader: &mut Reader<'a>, bytes: &'a [u8]) -> Result<Self> {
        let second = const { Self::TYPE.member_at(1) };
        Ok((A::read(reader, bytes)?, B::read(reader, behind(bytes, second))?))
    }
}

impl<'a, T: Lift<'a>> Lift<'a> for Option<T> {
    const TYPE: Type = Type::Option(&T::TYPE);

    fn read(reader: &mut Reader<'a>, bytes: &'a [u8]) -> Result<Self> {
        match tag(bytes)? {
            0 => Ok(None),
            1 => Ok(Some(T::read(reader, behind(bytes, const { Self::TYPE.payload_at() }))?)),
            other => bail!("invalid option discriminant: {other}"),
        }
    }
}

/// A `result<_, string>`.
impl<'a> Lift<'a> for Result<(), Cow<'a, str>> {
    const TYPE: Type = world::ANSWER;

    fn read(reader: &mut Reader<'a>, bytes: &'a [u8]) -> Result<Self> {
        match tag(bytes)? {
            0 => Ok(Ok(())),
            1 => Ok(Err(Cow::read(reader, behind(bytes, const { world::ANSWER.payload_at() }))?)),
            other => bail!("unexpected discriminant: {other}"),
        }
    }
}

impl<'a> Lift<'a> for AnsweredRoute<'a> {
    const TYPE: Type = world::ROUTES;

    #[inline]
    fn read(reader: &mut Reader<'a>, bytes: &'a [u8]) -> Result<Self> {
        const CONTINUE: u8 = world::ROUTES.case("continue");
        const DELIVER: u8 = world::ROUTES.case("deliver");
        const REDIRECT: u8 = world::ROUTES.case("redirect");
        const FAN_OUT: u8 = world::ROUTES.case("fan-out");
        const PICK: u8 = world::ROUTES.case("pick");
        const DROP: u8 = world::ROUTES.case("drop");
        let value = behind(bytes, const { world::ROUTES.payload_at() });
        Ok(match tag(bytes)? {
            CONTINUE => Self::Continue,
            DELIVER => Self::Deliver,
            REDIRECT => Self::Redirect(Cow::read(reader, value)?),
            FAN_OUT => Self::FanOut(Vec::read(reader, value)?),
            PICK => {
                let version = value.get(const { world::PICK.field_at("version") }..);
                let Some(version) = version.and_then(|rest| rest.first_chunk()) else {
                    bail!("pointer out of bounds of memory");
                };
                Self::Pick {
                    version: u64::from_le_bytes(*version),
                    index: u32_at(value, const { world::PICK.field_at("index") })?,
                }
            }
            DROP => Self::Drop(Cow::read(reader, value)?),
            other => bail!("unexpected discriminant: {other}"),
        })
    }
}

impl Lift<'_> for Cache {
    const TYPE: Type = world::CACHE;

    #[inline]
    fn read(_: &mut Reader<'_>, bytes: &[u8]) -> Result<Self> {
        cache(tag(bytes)?)
    }
}

#[inline]
pub(crate) fn cache(discriminant: u8) -> Result<Cache> {
    Ok(match discriminant {
        0 => Cache::Never,
        1 => Cache::Address,
        2 => Cache::Connection,
        other => bail!("unexpected discriminant: {other}"),
    })
}

impl<'a> Lift<'a> for Answer<'a> {
    const TYPE: Type = world::VERDICT;

    #[inline]
    fn read(reader: &mut Reader<'a>, bytes: &'a [u8]) -> Result<Self> {
        let route = behind(bytes, const { world::VERDICT.field_at("route") });
        let headers = behind(bytes, const { world::VERDICT.field_at("set-headers") });
        let cache = behind(bytes, const { world::VERDICT.field_at("cache") });
        Ok(Self {
            route: AnsweredRoute::read(reader, route)?,
            set_headers: Vec::read(reader, headers)?,
            cache: Cache::read(reader, cache)?,
        })
    }
}
