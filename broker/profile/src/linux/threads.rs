//! The threads of this process: `/proc/self/task`.

use std::fs;
use std::io;
use std::sync::Arc;

/// Their numbers.
pub(super) fn all() -> io::Result<Vec<u32>> {
    let number = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    Ok(fs::read_dir("/proc/self/task")?.filter_map(number).collect())
}

/// What a thread is called, at most 15 bytes of it; `None` when it has ended.
pub(super) fn name(thread: u32) -> Option<Arc<str>> {
    let name = fs::read(format!("/proc/self/task/{thread}/comm")).ok()?;
    Some(String::from_utf8_lossy(name.trim_ascii_end()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_listed_by_its_name() {
        let body = || {
            let own = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
            (all().unwrap().contains(&own), name(own), own)
        };
        let named = std::thread::Builder::new().name("a wasp".to_owned()).spawn(body).unwrap();
        let (is_listed, name_then, own) = named.join().unwrap();
        assert!(is_listed);
        assert_eq!(name_then.as_deref(), Some("a wasp"));
        // Joined is not yet ended, but soon.
        while name(own).is_some() {
            std::thread::yield_now();
        }
    }
}
