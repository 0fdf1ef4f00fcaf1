//! `errno`, which code that is interrupted, or that allocates, may be about to read.

/// Does something, and puts back what `errno` was.
#[expect(unsafe_code, reason = "the library gives a pointer")]
pub(super) fn kept<T>(within: impl FnOnce() -> T) -> T {
    // SAFETY: the thread's own variable, there as long as the thread is; it is only copied.
    let before = unsafe { *libc::__errno_location() };
    let done = within();
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = before };
    done
}
