//! Reading a thread's own stack where its registers may say anything.
//!
//! Code without frame pointers keeps other things in that register, so an address is only read if all memory from the
//! stack pointer up to it can be read: one stretch, which begins in the stack that this very thread runs on, and which
//! ends where the stack does or after [`STACK_BYTES_MAX`]. Whether a page can be read is asked of the kernel: it copies a
//! signal mask from there, for an operation that does not exist, and answers `EFAULT` or `EINVAL`. Nothing is changed
//! by that, no file is needed, and it may be asked in a signal handler. `errno` is the caller's to keep.

use super::image::PAGE_BYTES;
use crate::limits::STACK_BYTES_MAX;

pub(super) struct Readable {
    from: u64,
    /// Everything before this can be read.
    until: u64,
}

impl Readable {
    /// The stack of this thread, from its stack pointer or one of a frame further out.
    pub(super) const fn from(sp: u64) -> Self {
        Self { from: sp, until: sp - sp % PAGE_BYTES }
    }

    #[expect(unsafe_code, reason = "reads the thread's own stack")]
    pub(super) fn read(&mut self, address: u64) -> Result<u64, ()> {
        let end = address.checked_add(8).ok_or(())?;
        if address < self.from || !address.is_multiple_of(8) || end - self.from > STACK_BYTES_MAX {
            return Err(());
        }
        while self.until < end {
            if !can_be_read(self.until) {
                return Err(());
            }
            self.until += PAGE_BYTES;
        }
        let pointer = std::ptr::with_exposed_provenance::<u64>(usize::try_from(address).map_err(|_| ())?);
        // SAFETY: aligned; between the stack pointer of this thread and the end of readable memory that begins there,
        // which nobody takes away while this thread runs on it. Others may write there: volatile, and any value will do.
        Ok(unsafe { pointer.read_volatile() })
    }
}

/// Whether the page at this address can be read now.
#[expect(unsafe_code, reason = "a system call that libraries have no safe name for")]
fn can_be_read(page: u64) -> bool {
    const NO_SUCH_OPERATION: libc::c_int = -1;
    const MASK_BYTES: usize = 8;
    // SAFETY: the kernel reads 8 bytes there, if there are any, and changes nothing because of the operation.
    let answer = unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, NO_SUCH_OPERATION, page, std::ptr::null::<u8>(), MASK_BYTES)
    };
    // SAFETY: the thread's own variable.
    answer == -1 && unsafe { *libc::__errno_location() } == libc::EINVAL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_the_stack_is_read_and_nothing_below() {
        let values = [7_u64, 8, 9];
        let address = values.as_ptr() as u64;
        let mut readable = Readable::from(address);
        assert_eq!(readable.read(address), Ok(7));
        assert_eq!(readable.read(address + 16), Ok(9));
        assert_eq!(readable.read(address - 8), Err(()));
        assert_eq!(readable.read(address + 1), Err(()));
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        let local = 0_u64;
        let here = std::ptr::from_ref(&local) as u64;
        for address in [0, 8, u64::MAX, u64::MAX - 7, 1 << 63, here + STACK_BYTES_MAX] {
            assert_eq!(Readable::from(8).read(address), Err(()), "{address:x}");
        }
        assert!(!can_be_read(0));
        assert!(!can_be_read(1 << 63));
        assert!(can_be_read(here - here % PAGE_BYTES));
    }

    #[test]
    fn the_guard_page_is_not_read() {
        // A thread's stack is one mapping; from its very top, reading stops at what is not readable or at the bound.
        let reached = std::thread::spawn(|| {
            let local = 0_u64;
            let start = std::ptr::from_ref(&local) as u64;
            let mut readable = Readable::from(start);
            (start..start + 2 * STACK_BYTES_MAX)
                .step_by(4_096)
                .take_while(|one| readable.read(*one).is_ok())
                .count()
        });
        assert!((1..=256).contains(&reached.join().unwrap()));
    }
}
