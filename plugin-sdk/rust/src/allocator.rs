//! A plugin's allocator: small blocks that were freed are kept by size and handed out again, in a few instructions;
//! all others, and the first of each, come from the standard library's.
//!
//! A call of a policy makes and frees a few short strings, so most of what it pays for memory is this. A block is as
//! large as its class, the next power of two from 16 to 256 bytes. What is kept of each size is never more than what was in
//! use of it at once, and stays for blocks of that size until the instance ends, which the broker sees to.

#![expect(unsafe_code, reason = "an allocator hands out memory")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;

const CLASSES: usize = 5;
const SMALLEST_BITS: u32 = 4;
const LARGEST: usize = 1 << (SMALLEST_BITS as usize + CLASSES - 1);
/// What blocks of all classes are aligned to.
const ALIGN: usize = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct Allocator {
    /// The first free block of each class; each holds the address of the next one.
    free: UnsafeCell<[*mut u8; CLASSES]>,
}

// SAFETY: a component has one thread, and nothing in here is re-entered.
unsafe impl Sync for Allocator {}

impl Allocator {
    pub(crate) const fn new() -> Self {
        Self { free: UnsafeCell::new([ptr::null_mut(); CLASSES]) }
    }

    /// The list for blocks of this layout; none for those that are passed on.
    #[inline]
    fn list(&self, layout: Layout) -> Option<(*mut *mut u8, Layout)> {
        if layout.size() > LARGEST || layout.align() > ALIGN {
            return None;
        }
        let bits = usize::BITS - (layout.size().wrapping_sub(1) | ((1 << SMALLEST_BITS) - 1)).leading_zeros();
        // A size of 0 is not asked for, and would be the largest number here.
        let class = (bits - SMALLEST_BITS) as usize;
        if class >= CLASSES {
            return None;
        }
        let block = Layout::from_size_align(1 << bits, ALIGN).ok()?;
        // SAFETY: the class is smaller than the length of the array.
        Some((unsafe { self.free.get().cast::<*mut u8>().add(class) }, block))
    }
}

// SAFETY: a block is handed out once until it is freed: taken off its list, or new from `System`. It is as large as
// its class and aligned to 8, which is what its layout asks for at most.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((list, block)) = self.list(layout) else {
            // SAFETY: what is asked of this function is what is asked of that one.
            return unsafe { System.alloc(layout) };
        };
        // SAFETY: `list` is valid, and a block on it is free and holds the address of the next one.
        unsafe {
            let first = *list;
            if first.is_null() {
                return System.alloc(block);
            }
            *list = *first.cast::<*mut u8>();
            first
        }
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        match self.list(layout) {
            // SAFETY: `memory` was handed out for this layout, so by `System`.
            None => unsafe { System.dealloc(memory, layout) },
            // SAFETY: `memory` is a block of this class, which nobody uses any more, and large enough for an address.
            Some((list, _)) => unsafe {
                *memory.cast::<*mut u8>() = *list;
                *list = memory;
            },
        }
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return ptr::null_mut() };
        match (self.list(layout), self.list(wanted)) {
            (Some((old, _)), Some((new, _))) if old == new => memory,
            // SAFETY: `memory` was handed out for this layout, so by `System`, and the new size is for it as well.
            (None, None) => unsafe { System.realloc(memory, layout, size) },
            // SAFETY: both blocks have the smaller one of the sizes, and they are not the same.
            _ => unsafe {
                let grown = self.alloc(wanted);
                if !grown.is_null() {
                    ptr::copy_nonoverlapping(memory, grown, layout.size().min(size));
                    self.dealloc(memory, layout);
                }
                grown
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 1).unwrap()
    }

    /// The class of a size, none for a block that is passed on.
    fn class(allocator: &Allocator, size: usize) -> Option<usize> {
        let (list, block) = allocator.list(layout(size))?;
        assert!(block.size() >= size && block.align() == ALIGN, "{size} in {block:?}");
        let first = allocator.free.get().cast::<*mut u8>();
        Some((list as usize - first as usize) / size_of::<*mut u8>())
    }

    #[test]
    fn sizes_have_classes() {
        let allocator = Allocator::new();
        let classes = [0, 1, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257, 1 << 20];
        let expected = [
            None,
            Some(0),
            Some(0),
            Some(1),
            Some(1),
            Some(2),
            Some(2),
            Some(3),
            Some(3),
            Some(4),
            Some(4),
            None,
            None,
        ];
        assert_eq!(classes.map(|size| class(&allocator, size)), expected);
        let page = Layout::from_size_align(16, 4096).unwrap();
        assert!(allocator.list(page).is_none(), "a larger alignment is passed on");
    }

    #[test]
    fn blocks_come_back_and_never_twice() {
        let allocator = Allocator::new();
        // SAFETY: every block is freed once, with its layout.
        unsafe {
            let [one, two] = [allocator.alloc(layout(20)), allocator.alloc(layout(30))];
            assert!(!one.is_null() && !two.is_null() && one != two);
            allocator.dealloc(one, layout(20));
            allocator.dealloc(two, layout(30));
            let again =
                [allocator.alloc(layout(32)), allocator.alloc(layout(17)), allocator.alloc(layout(17))];
            assert_eq!(again[..2], [two, one], "the last one freed comes first");
            assert!(again[2] != one && again[2] != two);
            again.iter().for_each(|&block| allocator.dealloc(block, layout(17)));
        }
    }

    #[test]
    fn growing_keeps_the_content() {
        let allocator = Allocator::new();
        // SAFETY: a block is used as far as its size goes, and freed once, with its layout.
        unsafe {
            let mut block = allocator.alloc(layout(3));
            block.copy_from_nonoverlapping(b"abc".as_ptr(), 3);
            let mut size = 3;
            for grown in [10, 16, 17, 250, 256, 257, 5_000, 70, 40] {
                block = allocator.realloc(block, layout(size), grown);
                size = grown;
                assert_eq!(std::slice::from_raw_parts(block, 3), b"abc", "{grown}");
            }
            allocator.dealloc(block, layout(size));
        }
    }
}
