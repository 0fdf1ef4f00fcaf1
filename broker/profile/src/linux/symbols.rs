//! Names of addresses, from the symbol tables of the files that are mapped.
//!
//! A symbol is only taken for an address within its size: in a library without its own table, the nearest name is mostly
//! a wrong one. Code that no file is behind is a policy's: only the engine makes such.

use super::image;
use super::maps::{self, Mapping};
use crate::profile::Frame;
use object::{Object, ObjectSymbol, SymbolKind};
use std::io;
use std::sync::Arc;

/// What compiled policies are called.
const POLICY: &str = "[policy code]";

/// A frame for each of the addresses, which are sorted.
pub(super) fn frames(addresses: &[u64]) -> io::Result<Vec<Frame>> {
    let mappings = maps::code()?;
    let mut frames = Vec::with_capacity(addresses.len());
    let mut rest = addresses;
    for mapping in &mappings {
        let (before, from) = rest.split_at(rest.partition_point(|address| *address < mapping.start));
        let (within, behind) = from.split_at(from.partition_point(|address| *address < mapping.end));
        frames.extend(before.iter().map(|address| unknown(*address)));
        frames.append(&mut of_mapping(mapping, within));
        rest = behind;
    }
    frames.extend(rest.iter().map(|address| unknown(*address)));
    Ok(frames)
}

fn unknown(address: u64) -> Frame {
    Frame { address, name: "[unknown]".into(), file: "".into() }
}

fn of_mapping(mapping: &Mapping, addresses: &[u64]) -> Vec<Frame> {
    if addresses.is_empty() {
        return Vec::new();
    }
    let nameless: Arc<str> = match mapping.file() {
        "" => POLICY.into(),
        file => format!("[{}]", file.trim_matches(['[', ']'])).into(),
    };
    let file: Arc<str> = mapping.path.as_str().into();
    let names = image::with(mapping, |file, bias| Some(names(file, bias, addresses)));
    let names = names.unwrap_or_else(|| vec![None; addresses.len()]);
    let frame = |(address, name): (&u64, Option<String>)| {
        let name = name.map_or_else(|| nameless.clone(), Arc::from);
        Frame { address: *address, name, file: file.clone() }
    };
    addresses.iter().zip(names).map(frame).collect()
}

/// The name of the function around each address, of which those are sorted. Only names that are wanted are read.
fn names<'a>(file: &impl Object<'a>, bias: u64, addresses: &[u64]) -> Vec<Option<String>> {
    let mut names = vec![None; addresses.len()];
    for symbol in file.symbols().chain(file.dynamic_symbols()) {
        if symbol.kind() != SymbolKind::Text {
            continue;
        }
        let start = symbol.address().wrapping_add(bias);
        let end = start.saturating_add(symbol.size());
        let from = addresses.partition_point(|address| *address < start);
        let (addresses, names) = (addresses.iter().skip(from), names.iter_mut().skip(from));
        let places = addresses.zip(names).take_while(|(address, _)| **address < end);
        for (_, place) in places.filter(|(_, place)| place.is_none()) {
            let name = symbol.name().ok().filter(|name| !name.is_empty());
            *place = name.map(|name| format!("{:#}", rustc_demangle::demangle(name)));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_of_this_test_has_its_name() {
        let here = a_function_of_this_test_has_its_name as fn() as usize as u64;
        let frames = frames(&[1, here, u64::MAX]).unwrap();
        let names: Vec<&str> = frames.iter().map(|frame| &*frame.name).collect();
        assert_eq!(names[0], "[unknown]");
        assert!(names[1].contains("a_function_of_this_test_has_its_name"), "{names:?}");
        assert_eq!(names[2], "[unknown]");
    }

    #[test]
    fn what_has_no_symbols_is_named_by_its_file() {
        let check = |path: &str, expected: &str| {
            let mapping = Mapping { start: 0, end: 4_096, offset: 0, path: path.to_owned() };
            let frames = of_mapping(&mapping, &[8]);
            assert_eq!(&*frames[0].name, expected);
        };
        check("", POLICY);
        check("/no/such/libx.so.1", "[libx.so.1]");
        check("[vsyscall]", "[vsyscall]");
    }
}
