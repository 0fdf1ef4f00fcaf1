//! Where no profile can be taken: everything says so, and the allocator is the one within.

/// Where threads spend CPU time.
pub mod cpu {
    use crate::{Error, Profile, Stop};
    use std::time::Duration;

    /// # Errors
    /// Always.
    pub fn profile(_: Duration, _: &Stop) -> Result<Profile, Error> {
        Err(Error::Unsupported)
    }
}

/// What is allocated and kept.
pub mod heap {
    use crate::{Error, Profile, Stop};
    use std::time::Duration;

    /// # Errors
    /// Always.
    pub fn profile(_: Duration, _: &Stop) -> Result<Profile, Error> {
        Err(Error::Unsupported)
    }

    /// Never.
    pub const fn is_on() -> bool {
        false
    }

    /// The allocator within.
    #[derive(Debug)]
    pub struct Sampled<A>(A);

    impl<A> Sampled<A> {
        pub const fn new(within: A) -> Self {
            Self(within)
        }
    }

    #[expect(unsafe_code, reason = "an allocator hands out memory")]
    // SAFETY: every call is the allocator's within, with the same arguments.
    unsafe impl<A: std::alloc::GlobalAlloc> std::alloc::GlobalAlloc for Sampled<A> {
        unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
            // SAFETY: the caller keeps the contract.
            unsafe { self.0.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: std::alloc::Layout) {
            // SAFETY: the caller keeps the contract.
            unsafe { self.0.dealloc(pointer, layout) }
        }

        unsafe fn alloc_zeroed(&self, layout: std::alloc::Layout) -> *mut u8 {
            // SAFETY: the caller keeps the contract.
            unsafe { self.0.alloc_zeroed(layout) }
        }

        unsafe fn realloc(&self, pointer: *mut u8, layout: std::alloc::Layout, size: usize) -> *mut u8 {
            // SAFETY: the caller keeps the contract.
            unsafe { self.0.realloc(pointer, layout, size) }
        }
    }
}
