//! The registers that a stack is walked from, of this thread now or where a signal came.

use framehop::UnwindRegsNative;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Registers {
    pub(super) pc: u64,
    pub(super) sp: u64,
    pub(super) fp: u64,
    /// Where the innermost function returns to, on machines that keep that in a register.
    pub(super) lr: u64,
}

impl Registers {
    /// Of the function this is called in, and so always part of it.
    #[inline(always)]
    #[expect(unsafe_code, reason = "there is no other way to registers")]
    pub(super) fn here() -> Self {
        let (pc, sp, fp): (u64, u64, u64);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: registers are read; memory, stack and flags are not touched.
        unsafe {
            std::arch::asm!(
                "lea {pc}, [rip]", "mov {sp}, rsp", "mov {fp}, rbp",
                pc = out(reg) pc, sp = out(reg) sp, fp = out(reg) fp,
                options(nomem, nostack, preserves_flags)
            );
            Self { pc, sp, fp, lr: 0 }
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            let lr: u64;
            std::arch::asm!(
                // First what an output may be put in.
                "mov {lr}, x30", "adr {pc}, .", "mov {sp}, sp", "mov {fp}, x29",
                pc = out(reg) pc, sp = out(reg) sp, fp = out(reg) fp, lr = out(reg) lr,
                options(nomem, nostack, preserves_flags)
            );
            Self { pc, sp, fp, lr }
        }
    }

    /// Of the code that a signal interrupted.
    pub(super) fn interrupted(context: &libc::ucontext_t) -> Self {
        let machine = &context.uc_mcontext;
        #[cfg(target_arch = "x86_64")]
        {
            let register = |index: libc::c_int| {
                usize::try_from(index)
                    .ok()
                    .and_then(|index| machine.gregs.get(index))
                    .map_or(0, |value| value.cast_unsigned())
            };
            Self {
                pc: register(libc::REG_RIP),
                sp: register(libc::REG_RSP),
                fp: register(libc::REG_RBP),
                lr: 0,
            }
        }
        #[cfg(target_arch = "aarch64")]
        Self { pc: machine.pc, sp: machine.sp, fp: machine.regs[29], lr: machine.regs[30] }
    }

    pub(super) fn for_unwinding(self) -> UnwindRegsNative {
        #[cfg(target_arch = "x86_64")]
        let registers = UnwindRegsNative::new(self.pc, self.sp, self.fp);
        #[cfg(target_arch = "aarch64")]
        let registers = UnwindRegsNative::new(self.lr, self.sp, self.fp);
        registers
    }
}
