//! Profiles of the process this is part of: where its threads spend CPU time, and what its code allocates and keeps.
//!
//! [`cpu`] samples threads with `SIGPROF`, [`heap`] samples allocations through a global allocator around another one.
//! Both take stacks with the same `walk`, which takes no lock, allocates nothing and reads no memory that it has not
//! tried before, because it runs in signal handlers and below the allocator. Names are found at the end, by `symbols`,
//! on the thread that asked. What comes out is a [`Profile`], to be written as [`pprof`](Profile::pprof) or as a
//! [`flame graph`](Profile::svg).
//!
//! Invariants: while no profile runs there is no timer, and an allocation costs one relaxed load and a branch; whatever
//! is held has a bound in [`limits`], and what is beyond it is counted in [`Profile::notes`]. Deliberately not here: who may
//! ask, and how an answer travels.
//!
//! ```text
//!   cpu:  timers -> SIGPROF -> walk -> ring -> (every 100 ms) stacks --+
//!   heap: alloc -> countdown -> walk -> stacks, live table ------------+--> symbols -> Profile -> pprof, svg
//! ```

mod encode;
mod flame;
mod profile;
mod stop;

pub mod limits;

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod elsewhere;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod linux;

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub use elsewhere::{cpu, heap};
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub use linux::{cpu, heap};

pub use heap::Sampled;
pub use profile::{Error, Frame, Kind, Profile, Sample};
pub use stop::Stop;
