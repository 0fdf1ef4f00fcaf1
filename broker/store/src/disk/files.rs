//! Which file keeps a database from being opened: fjall says what is wrong and not where.
//!
//! fjall's own checksums of whole files lead from each keyspace to its tables. They are read here for nothing but a name.
//!
//! ```text
//! version                    "FJL" 3
//! keyspaces/<n>/current      id(8) xxh3(16) 0        of the file v<id>
//! keyspaces/<n>/v<id>        sections … | "TOC!" count(4), each: position(8) length(8) name(2+n)
//!                            | "SFA!" 1 0 xxh3(16) position of TOC(8) length(8)
//!   section "tables"         levels(1), each: runs(1), each: tables(4), each: id(8) 0 xxh3(16) seqno(8)
//! keyspaces/<n>/tables/<id>
//! ```
//! Numbers are little endian.

use crate::record::Reader;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

const VERSION: &[u8] = b"FJL\x03";

/// Bytes of a table that are read at once.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Bytes of what ends a file of sections.
const TRAILER_BYTES: usize = 38;

/// The first file that is not what was written, and what is wrong with it. Reads all tables up to it.
pub(crate) fn find_damaged(db: &Path) -> Option<(PathBuf, String)> {
    let version = db.join("version");
    if let Err(damage) = read(&version).and_then(|found| expect(found == VERSION, "is not what fjall writes"))
    {
        return Some((version, damage));
    }
    let keyspaces = std::fs::read_dir(db.join("keyspaces")).ok()?;
    let mut keyspaces: Vec<_> = keyspaces.flatten().map(|entry| entry.path()).collect();
    keyspaces.sort();
    keyspaces.iter().find_map(|keyspace| find_damaged_in(keyspace).err())
}

fn find_damaged_in(keyspace: &Path) -> Result<(), (PathBuf, String)> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |damage| (path, damage)
    };
    let current = keyspace.join("current");
    let found = read(&current).map_err(at(&current))?;
    let (id, checksum) = parse_current(&found).ok_or_else(|| at(&current)("is too short".to_owned()))?;
    let index = keyspace.join(format!("v{id}"));
    let found = read(&index).map_err(at(&index))?;
    expect(xxh3_128(&found) == checksum, DIFFERS).map_err(at(&index))?;
    // One that is whole and not understood here is of another version of fjall.
    for (id, checksum) in parse_index(&found).unwrap_or_default() {
        let table = keyspace.join("tables").join(id.to_string());
        let found = checksum_of(&table).map_err(at(&table))?;
        expect(found == checksum, DIFFERS).map_err(at(&table))?;
    }
    Ok(())
}

const DIFFERS: &str = "does not match its checksum";

fn expect(holds: bool, damage: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("it {damage}")) }
}

fn told(error: &std::io::Error) -> String {
    if error.kind() == ErrorKind::NotFound {
        return "it is missing".to_owned();
    }
    format!("it cannot be read: {error}")
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| told(&error))
}

fn checksum_of(path: &Path) -> Result<u128, String> {
    let checksum = || {
        let (mut file, mut hasher) = (File::open(path)?, Xxh3::new());
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match file.read(&mut chunk)? {
                0 => return Ok(hasher.digest128()),
                len => hasher.update(chunk.get(..len).unwrap_or_default()),
            }
        }
    };
    checksum().map_err(|error: std::io::Error| told(&error))
}

fn number<const N: usize>(reader: &mut Reader<'_>) -> Option<usize> {
    let mut bytes = [0; 8];
    bytes.get_mut(..N)?.copy_from_slice(&reader.array::<N>()?);
    usize::try_from(u64::from_le_bytes(bytes)).ok()
}

fn checksum(reader: &mut Reader<'_>) -> Option<u128> {
    reader.array().map(u128::from_le_bytes)
}

/// The id of the file that says which tables there are, and its checksum.
fn parse_current(current: &[u8]) -> Option<(usize, u128)> {
    let mut reader = Reader { rest: current };
    Some((number::<8>(&mut reader)?, checksum(&mut reader)?))
}

/// Ids and checksums of a keyspace's tables.
fn parse_index(file: &[u8]) -> Option<Vec<(usize, u128)>> {
    let trailer = file.get(file.len().checked_sub(TRAILER_BYTES)?..)?;
    let mut reader = Reader { rest: trailer.strip_prefix(b"SFA!\x01\x00")?.get(16..)? };
    let toc = file.get(number::<8>(&mut reader)?..)?.strip_prefix(b"TOC!")?;
    let mut reader = Reader { rest: toc };
    for _ in 0..number::<4>(&mut reader)? {
        let (position, len) = (number::<8>(&mut reader)?, number::<8>(&mut reader)?);
        let name_len = number::<2>(&mut reader)?;
        if reader.bytes(name_len)? == b"tables" {
            return parse_tables(file.get(position..)?.get(..len)?);
        }
    }
    None
}

fn parse_tables(section: &[u8]) -> Option<Vec<(usize, u128)>> {
    let (mut reader, mut tables) = (Reader { rest: section }, Vec::new());
    for _level in 0..reader.u8()? {
        for _run in 0..reader.u8()? {
            for _table in 0..number::<4>(&mut reader)? {
                let id = number::<8>(&mut reader)?;
                (reader.u8()? == 0).then_some(())?;
                tables.push((id, checksum(&mut reader)?));
                number::<8>(&mut reader)?;
            }
        }
    }
    Some(tables)
}
