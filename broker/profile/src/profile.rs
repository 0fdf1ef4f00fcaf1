//! What a profile is, once its addresses have names.

use crate::{encode, flame};
use std::sync::Arc;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("profiles of this kind are taken on Linux on x86-64 and AArch64 only")]
    Unsupported,
    #[error("one runs already")]
    Running,
    #[error("SIGPROF belongs to another part of this process")]
    SignalTaken,
    #[error("the allocator of this process is not the one that samples")]
    OtherAllocator,
    #[error("the system refuses timers on the CPU time of threads: {0}")]
    NoTimers(#[source] std::io::Error),
    #[error("the process cannot be read: {0}")]
    Io(#[from] std::io::Error),
}

/// What is counted, in which unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub name: &'static str,
    pub unit: &'static str,
}

/// A place in the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub address: u64,
    /// Of the function, or in brackets of what it is part of.
    pub name: Arc<str>,
    /// The file it is mapped from.
    pub file: Arc<str>,
}

/// What was counted in one stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// One for each of the profile's kinds.
    pub values: Vec<i64>,
    /// The name of its thread, where that is known.
    pub thread: Option<Arc<str>>,
    /// Places in the profile's frames, the innermost first.
    pub stack: Vec<u32>,
}

/// What was counted in a span of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub kinds: Vec<Kind>,
    /// Which of the kinds is shown unless another one is asked for.
    pub main_kind: usize,
    pub period_kind: Kind,
    pub period: i64,
    pub started_unix_ns: i64,
    pub duration_ns: i64,
    pub frames: Vec<Frame>,
    pub samples: Vec<Sample>,
    /// What is not in it, and why.
    pub notes: Vec<String>,
}

impl Profile {
    /// The protocol buffer that `go tool pprof` and others read, compressed with gzip.
    pub fn pprof(&self) -> std::io::Result<Vec<u8>> {
        encode::pprof(self)
    }

    /// A picture: each frame as wide as its share.
    pub fn svg(&self, title: &str) -> String {
        flame::svg(self, title)
    }

    /// The sum of one kind.
    pub fn total(&self, kind: usize) -> i64 {
        self.samples.iter().filter_map(|sample| sample.values.get(kind)).sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two threads, `main` and what it calls.
    pub(crate) fn example() -> Profile {
        let frame = |address, name: &str| Frame { address, name: name.into(), file: "/bin/x".into() };
        let sample = |values: [i64; 2], thread: &str, stack: &[u32]| Sample {
            values: values.to_vec(),
            thread: Some(thread.into()),
            stack: stack.to_vec(),
        };
        Profile {
            kinds: vec![Kind { name: "samples", unit: "count" }, Kind { name: "cpu", unit: "nanoseconds" }],
            main_kind: 1,
            period_kind: Kind { name: "cpu", unit: "nanoseconds" },
            period: 10_000_000,
            started_unix_ns: 1_790_000_000_000_000_000,
            duration_ns: 2_000_000_000,
            frames: vec![frame(0x10, "main"), frame(0x20, "a::<&str>"), frame(0x30, "b")],
            samples: vec![
                sample([3, 30_000_000], "worker-0", &[1, 0]),
                sample([1, 10_000_000], "worker-0", &[2, 0]),
                sample([4, 40_000_000], "worker-1", &[0]),
            ],
            notes: vec!["7 samples were lost".to_owned()],
        }
    }

    #[test]
    fn totals_are_of_one_kind() {
        assert_eq!(example().total(0), 8);
        assert_eq!(example().total(1), 80_000_000);
        assert_eq!(example().total(2), 0);
    }
}
