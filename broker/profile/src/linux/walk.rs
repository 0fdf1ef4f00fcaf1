//! From registers to a stack: addresses of this thread's functions, without locks, without allocations.
//!
//! Frames are found with the unwind tables that compilers write for exceptions, so code needs no frame pointers. Code
//! that has no tables is a policy's, which the engine compiles with frame pointers: these are followed there, and in
//! whatever was mapped since the first profile. The tables are copied when the first profile begins and kept, so that
//! no unmapped library is ever looked at; the unwinder of the language, with its locks, is not called at all.

use super::image;
use super::maps::{self, Mapping};
use super::registers::Registers;
use super::stack::Readable;
use crate::limits::WALKS_MAX;
use framehop::{
    CacheNative, ExplicitModuleSectionInfo, Module, MustNotAllocateDuringUnwind, Unwinder, UnwinderNative,
};
use object::{Object, ObjectSection};
use std::io;
use std::sync::{Mutex, OnceLock};

type Cache = CacheNative<MustNotAllocateDuringUnwind>;

/// What every walk shares.
pub(super) struct Walker {
    unwinder: UnwinderNative<Vec<u8>, MustNotAllocateDuringUnwind>,
    /// One for each walk that goes on; never waited for.
    caches: Box<[Mutex<Cache>]>,
}

static SHARED: OnceLock<Walker> = OnceLock::new();

impl Walker {
    /// Makes it, unless it is there. Takes some milliseconds and memory.
    pub(super) fn prepare() -> io::Result<()> {
        if SHARED.get().is_none() {
            let walker = Self::of(&maps::code()?);
            drop(SHARED.set(walker));
        }
        Ok(())
    }

    /// The one that was prepared.
    pub(super) fn shared() -> Option<&'static Self> {
        SHARED.get()
    }

    fn of(mappings: &[Mapping]) -> Self {
        let mut unwinder = UnwinderNative::new();
        for module in mappings.iter().filter_map(module) {
            unwinder.add_module(module);
        }
        let walks = std::thread::available_parallelism().map_or(1, usize::from) * 2 + 2;
        let caches = (0..walks.min(WALKS_MAX)).map(|_| Mutex::new(Cache::new_in())).collect();
        Self { unwinder, caches }
    }

    /// Takes the stack of this thread, from its registers here or where a signal came. Answers how many frames it has;
    /// `None`: too many walks go on. What lies below the stack pointer is not read. Changes `errno`, which
    /// [`errno::kept`](super::errno::kept) puts back.
    pub(super) fn walk(&self, registers: Registers, stack: &mut [u64]) -> Option<usize> {
        let mut cache = self.caches.iter().find_map(|cache| cache.try_lock().ok())?;
        let mut readable = Readable::from(registers.sp);
        let mut read = |address| readable.read(address);
        let mut frames =
            self.unwinder.iter_frames(registers.pc, registers.for_unwinding(), &mut cache, &mut read);
        let mut count = 0;
        for place in stack {
            // An error is an end, too: of what can be known.
            let Ok(Some(frame)) = frames.next() else { break };
            *place = frame.address_for_lookup();
            count += 1;
        }
        Some(count)
    }
}

/// The unwind tables of the file behind a mapping.
fn module(mapping: &Mapping) -> Option<Module<Vec<u8>>> {
    image::with(mapping, |file, bias| {
        let data = |name| Some(file.section_by_name(name)?.data().ok()?.to_vec());
        let range = |name| {
            let section = file.section_by_name(name)?;
            Some(section.address()..section.address() + section.size())
        };
        let sections = ExplicitModuleSectionInfo {
            base_svma: 0,
            text_svma: range(".text"),
            got_svma: range(".got"),
            eh_frame_svma: range(".eh_frame"),
            eh_frame: Some(data(".eh_frame")?),
            eh_frame_hdr_svma: range(".eh_frame_hdr"),
            eh_frame_hdr: data(".eh_frame_hdr"),
            ..Default::default()
        };
        Some(Module::new(mapping.path.clone(), mapping.start..mapping.end, bias, sections))
    })
}

#[cfg(test)]
mod tests {
    use super::super::symbols;
    use super::*;
    use crate::limits::FRAMES_MAX;
    use proptest::prelude::*;

    fn walker() -> &'static Walker {
        Walker::prepare().unwrap();
        Walker::shared().unwrap()
    }

    #[inline(never)]
    fn stack_of_this() -> Vec<u64> {
        let mut stack = [0; FRAMES_MAX];
        let count = walker().walk(Registers::here(), &mut stack).unwrap();
        std::hint::black_box(stack[..count].to_vec())
    }

    #[inline(never)]
    fn outer() -> Vec<u64> {
        std::hint::black_box(stack_of_this())
    }

    fn names(stack: &[u64]) -> Vec<String> {
        let name = |address: &u64| symbols::frames(&[*address]).unwrap().remove(0).name.to_string();
        stack.iter().map(name).collect()
    }

    #[test]
    fn functions_are_found_up_to_the_thread() {
        let names = std::thread::spawn(|| names(&outer())).join().unwrap();
        let place = |wanted: &str| names.iter().position(|name| name.contains(wanted));
        assert_eq!(place("stack_of_this"), Some(0), "{names:#?}");
        assert_eq!(place("tests::outer"), Some(1), "{names:#?}");
        assert!(place("thread").is_some_and(|place| place < names.len()), "{names:#?}");
        assert!(names.len() > 4, "{names:#?}");
    }

    #[test]
    fn a_walk_that_finds_all_places_taken_is_given_up() {
        let walker = Walker::of(&[]);
        let held: Vec<_> = walker.caches.iter().map(|cache| cache.lock().unwrap()).collect();
        assert_eq!(walker.walk(Registers::here(), &mut [0; 4]), None);
        drop(held);
        assert!(walker.walk(Registers::here(), &mut [0; 4]).is_some());
    }

    #[test]
    fn a_stack_is_cut_at_its_bound() {
        assert_eq!(walker().walk(Registers::here(), &mut [0; 1]), Some(1));
        assert_eq!(walker().walk(Registers::here(), &mut []), Some(0));
    }

    proptest! {
        /// Signals come anywhere, and registers may hold anything then.
        #[test]
        fn any_registers_end_in_a_stack(
            pc in any::<u64>(), fp in any::<u64>(), lr in any::<u64>(), near in 0_u64..4096, in_code in any::<u32>(),
            known in any::<bool>(), above in any::<bool>()
        ) {
            let here = Registers::here();
            let code = maps::code().unwrap();
            let mapping = &code[in_code as usize % code.len()];
            let pc = if known { mapping.start + pc % (mapping.end - mapping.start) } else { pc };
            let fp = if above { here.sp + (fp % 4096) } else { fp };
            let mut stack = [0; FRAMES_MAX];
            let registers = Registers { pc, sp: here.sp + near, fp, lr };
            prop_assert!(walker().walk(registers, &mut stack).is_some());
            let registers = Registers { pc, sp: near, fp, lr };
            prop_assert!(walker().walk(registers, &mut stack).is_some());
        }
    }
}
