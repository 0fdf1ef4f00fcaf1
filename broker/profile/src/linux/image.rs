//! The file behind a mapping, and where its contents are in memory.
//!
//! Only the parts that are asked for are read. A file that was replaced since it was mapped is found out by its segments
//! where these differ, and otherwise gives wrong names; the broker's own is read through `/proc/self/exe`, which is
//! the one that runs.

use super::maps::Mapping;
use object::{Object, ObjectSegment, ReadCache, SegmentFlags, elf::PF_X};
use std::fs::{self, File};
use std::io::{Cursor, Read, Seek};
use std::os::unix::fs::FileExt;

pub(super) trait Source: Read + Seek {}
impl<T: Read + Seek> Source for T {}

/// Calls `look` with the file behind a mapping, and what has to be added to its addresses. `None`: there is no such file.
pub(super) fn with<T>(
    mapping: &Mapping,
    look: impl FnOnce(&object::File<'_, &ReadCache<Box<dyn Source>>>, u64) -> Option<T>,
) -> Option<T> {
    let cache = ReadCache::new(open(mapping)?);
    let file = object::File::parse(&cache).ok()?;
    let bias = bias(&file, mapping)?;
    look(&file, bias)
}

fn open(mapping: &Mapping) -> Option<Box<dyn Source>> {
    if mapping.path == "[vdso]" {
        // The kernel's, and nowhere but in memory.
        let mut bytes = vec![0; usize::try_from(mapping.end - mapping.start).ok()?];
        File::open("/proc/self/mem").ok()?.read_exact_at(&mut bytes, mapping.start).ok()?;
        return Some(Box::new(Cursor::new(bytes)));
    }
    if !mapping.path.starts_with('/') {
        return None;
    }
    let own = fs::read_link("/proc/self/exe").ok()?;
    let is_own = own.as_os_str() == mapping.path.as_str();
    Some(Box::new(File::open(if is_own { "/proc/self/exe" } else { &mapping.path }).ok()?))
}

/// What to add to an address of the file to have it in memory.
fn bias<'a>(file: &object::File<'a, &'a ReadCache<Box<dyn Source>>>, mapping: &Mapping) -> Option<u64> {
    let has_code = |flags| matches!(flags, SegmentFlags::Elf { p_flags } if p_flags & PF_X != 0);
    file.segments().filter(|segment| has_code(segment.flags())).find_map(|segment| {
        let (offset, size) = segment.file_range();
        let begins = offset - offset % PAGE_BYTES;
        let is_mapped = (begins..offset.saturating_add(size)).contains(&mapping.offset);
        let in_memory = mapping.start.wrapping_add(offset).wrapping_sub(mapping.offset);
        is_mapped.then(|| in_memory.wrapping_sub(segment.address()))
    })
}

/// The smallest one, to which segments are aligned.
pub(super) const PAGE_BYTES: u64 = 4_096;

#[cfg(test)]
mod tests {
    use super::super::maps;
    use super::*;
    use object::ObjectSection;

    #[test]
    fn the_file_of_this_test_and_the_kernels_are_read() {
        let here = the_file_of_this_test_and_the_kernels_are_read as fn() as usize as u64;
        let mappings = maps::code().unwrap();
        let own = mappings.iter().find(|one| (one.start..one.end).contains(&here)).unwrap();
        let text = with(own, |file, bias| {
            let text = file.section_by_name(".text")?;
            Some(bias + text.address()..bias + text.address() + text.size())
        });
        assert!(text.unwrap().contains(&here));
        let kernels = mappings.iter().find(|one| one.path == "[vdso]").unwrap();
        assert!(with(kernels, |file, bias| (bias == kernels.start).then_some(file.is_64())).unwrap());
    }

    #[test]
    fn memory_without_a_file_has_none() {
        let mapping = |path: &str| Mapping { start: 0, end: 4_096, offset: 0, path: path.to_owned() };
        for path in ["", "[stack]", "/no/such/file", "/proc/self/maps"] {
            assert!(with(&mapping(path), |_, _| Some(())).is_none(), "{path}");
        }
    }
}
