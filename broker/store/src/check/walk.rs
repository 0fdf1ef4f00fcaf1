//! Reads everything in the tables of a store, and takes down what is there.
//!
//! Not here: what becomes of it.

use super::around::{self, Part};
use super::{Report, damaged};
use crate::disk::Tables;
use crate::error::OpenError;
use crate::key::{self, Place};
use crate::record::{self, AddressRecord};
use crate::records::{count_behind, describe_run, parse_address, parse_delayed, parse_run};
use crate::shelf::Space;
use crate::store::StoreError;
use std::collections::BTreeMap;
use std::path::Path;

/// What a walk learned.
#[derive(Default)]
pub(super) struct Found {
    pub(super) damaged: Vec<(Space, Vec<u8>)>,
    /// Address records that are whole.
    pub(super) addresses: BTreeMap<String, AddressRecord>,
    /// The last group of the log that was applied.
    pub(super) applied: u64,
    /// Messages that are not removed, bytes and last place of each address as they are stored.
    pub(super) stored: BTreeMap<String, (u64, u64, Place)>,
    /// Those among the messages that the record of their address counts.
    counted: BTreeMap<String, u64>,
}

/// Reads everything, and gives what was learned.
pub(super) fn walk(tables: &Tables, report: &mut Report) -> Result<Found, OpenError> {
    let mut walk = Walk::new(report);
    walk.run(tables, &mut |_, _, _| Ok(()))?;
    Ok(walk.found)
}

pub(super) type Each<'a> = &'a mut dyn FnMut(Space, &[u8], &[u8]) -> fjall::Result<()>;

/// Reads everything that can be.
pub(super) struct Walk<'a> {
    report: &'a mut Report,
    found: Found,
}

impl<'a> Walk<'a> {
    pub(super) fn new(report: &'a mut Report) -> Self {
        Self { report, found: Found::default() }
    }

    pub(super) fn run(&mut self, tables: &Tables, each: Each<'_>) -> Result<(), OpenError> {
        // State first: it says which addresses there are.
        for tag in 0..=u8::MAX {
            self.range(tables, (Space::State, &[tag], &[tag, 0xff, 0xff, 0xff]), each)
                .map_err(damaged(Path::new("db")))?;
        }
        let addresses: Vec<String> = self.found.addresses.keys().cloned().collect();
        let mut from = Vec::new();
        for address in addresses {
            // What lies between two known addresses belongs to none, and is looked at too.
            let (begin, end) = ([address.as_bytes(), &[0]].concat(), key::runs_end(&address));
            for (from, to) in [(&from, &begin), (&begin, &end)] {
                self.range(tables, (Space::Messages, from, to), each).map_err(damaged(Path::new("db")))?;
            }
            from = end;
        }
        self.range(tables, (Space::Messages, &from, &[0xff]), each).map_err(damaged(Path::new("db")))?;
        self.report.addresses = self.found.addresses.len() as u64;
        for address in self.found.stored.keys().filter(|address| !self.found.addresses.contains_key(*address))
        {
            self.report.find(format!("the messages of {address} have no record of their address"));
        }
        if !self.report.is_whole() {
            let counted = |address: &String| self.found.counted.get(address).copied().unwrap_or_default();
            let missing = self.found.addresses.iter();
            let missing = missing.map(|(address, record)| record.count.saturating_sub(counted(address)));
            self.report.missing = missing.sum();
        }
        Ok(())
    }

    fn range(
        &mut self,
        tables: &Tables,
        (space, from, to): (Space, &[u8], &[u8]),
        each: Each<'_>,
    ) -> fjall::Result<()> {
        around::read(tables.of(space), (from, to), &mut |part| match part {
            Part::Record(key, value) => self.record(space, key, value, each),
            Part::Damaged(from) => {
                self.report.unreadable += 1;
                self.report.find(format!("a table behind {}", describe_run(from)));
                Ok(())
            }
        })
    }

    fn record(&mut self, space: Space, key: &[u8], value: &[u8], each: Each<'_>) -> fjall::Result<()> {
        self.report.records += 1;
        self.report.bytes += (key.len() + value.len()) as u64;
        if let Err(error) = self.look(space, key, value) {
            self.report.find(error.to_string());
            self.found.damaged.push((space, key.to_vec()));
            return Ok(());
        }
        each(space, key, value)
    }

    fn look(&mut self, space: Space, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if space == Space::Messages {
            let (last, run) = parse_run(key, value)?;
            let (address, _) = key::parse_run(key).unwrap_or_default();
            let record = self.found.addresses.get(address);
            let (removed, counted) = record.map_or_else(Default::default, |of| (of.removed, of.counted));
            if last <= removed {
                return Ok(());
            }
            // Those that are removed stay in their run until all of it goes.
            let count = count_behind(last, run.entries.len() as u64, removed);
            self.report.messages += count;
            let counted = counted.max(removed);
            let behind =
                if last > counted { count_behind(last, run.entries.len() as u64, counted) } else { 0 };
            *self.found.counted.entry(address.to_owned()).or_default() += count - behind;
            let stored = self.found.stored.entry(address.to_owned()).or_default();
            *stored = (stored.0 + count, stored.1 + (key.len() + value.len()) as u64, stored.2.max(last));
            return Ok(());
        }
        record::open(key, value)?;
        match key.first() {
            Some(&key::ADDRESS) => {
                let record = AddressRecord::parse(key, value)?;
                self.found.addresses.insert(parse_address(key)?.as_str().to_owned(), record);
            }
            Some(&(key::CURSOR | key::READ_MARK | key::MEMBER)) => drop(record::parse_position(key, value)?),
            Some(&key::APPLIED) => self.found.applied = record::parse_number(key, value)?,
            Some(&key::DEAD_LETTER) => drop(record::parse_dead_letter(key, value)?),
            Some(&key::DELAYED) => drop(parse_delayed(key, value)?),
            Some(&key::LAST_SEEN) => drop(record::parse_seen(key, value)?),
            Some(&key::RESUME) => drop(record::parse_resume(key, value)?),
            Some(&key::QUEUE) => drop(record::parse_queue(key, value)?),
            Some(&key::DEDUP) => drop(record::parse_dedup(key, value)?),
            Some(&key::QUEUE_CURSOR) => drop(record::parse_queue_cursor(key, value)?),
            _ => {}
        }
        Ok(())
    }
}
