//! What is mapped where in this process: `/proc/self/maps`.

use std::fs;
use std::io;

/// A mapping with code in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Where in the file it begins.
    pub(super) offset: u64,
    /// Of the file; empty for memory that no file is behind, which is where policies are compiled to.
    pub(super) path: String,
}

impl Mapping {
    /// The last part of its path.
    pub(super) fn file(&self) -> &str {
        let path = self.path.strip_suffix(" (deleted)").unwrap_or(&self.path);
        path.rsplit('/').next().unwrap_or_default()
    }
}

/// Mappings with code, by address.
pub(super) fn code() -> io::Result<Vec<Mapping>> {
    Ok(fs::read_to_string("/proc/self/maps")?.lines().filter_map(code_of).collect())
}

/// `start-end permissions offset device inode path`, the path with its spaces.
fn code_of(line: &str) -> Option<Mapping> {
    let (range, rest) = line.split_once(' ')?;
    let (permissions, rest) = rest.split_once(' ')?;
    let (offset, rest) = rest.split_once(' ')?;
    let (_device, rest) = rest.split_once(' ')?;
    let path = rest.trim_start_matches(|character: char| character.is_ascii_digit()).trim_start();
    let (start, end) = range.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let mapping =
        Mapping { start: number(start)?, end: number(end)?, offset: number(offset)?, path: path.to_owned() };
    permissions.contains('x').then_some(mapping)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let check = |line, expected: Option<(u64, u64, u64, &str, &str)>| {
            let mapping = code_of(line);
            let read = mapping.as_ref().map(|one| (one.start, one.end, one.offset, &*one.path, one.file()));
            assert_eq!(read, expected);
        };
        check(
            "55d0a0001000-55d0a0003000 r-xp 00001000 08:01 1234      /opt/a b/waspmq (deleted)",
            Some((0x55d0_a000_1000, 0x55d0_a000_3000, 0x1000, "/opt/a b/waspmq (deleted)", "waspmq")),
        );
        check(
            "7f0000000000-7f0000001000 r-xp 00000000 00:00 0 ",
            Some((0x7f00_0000_0000, 0x7f00_0000_1000, 0, "", "")),
        );
        check("7f0000000000-7f0000001000 rw-p 00000000 00:00 0 ", None);
        check(
            "7ffd3000-7ffd4000 r-xp 00000000 00:00 0          [vdso]",
            Some((0x7ffd_3000, 0x7ffd_4000, 0, "[vdso]", "[vdso]")),
        );
        check("nonsense", None);
    }

    #[test]
    fn this_test_is_in_one_of_them() {
        let here = this_test_is_in_one_of_them as fn() as usize as u64;
        assert!(code().unwrap().iter().any(|one| (one.start..one.end).contains(&here)));
    }
}
