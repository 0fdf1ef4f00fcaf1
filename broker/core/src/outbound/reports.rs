//! What a client is told of its losses: counts per address and action, exact, for a bounded number of them.

use crate::address::Address;
use crate::limits::OVERFLOW_REPORTS_MAX;
use crate::settings::Overflow;

/// Losses of which the client is to be told at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// `None` for addresses beyond [`OVERFLOW_REPORTS_MAX`], which are told together.
    pub to: Option<Address>,
    pub action: Overflow,
    /// Messages. With `Spill` they are not lost but come later.
    pub dropped: u64,
}

#[derive(Debug, Default)]
pub(super) struct Reports {
    named: Vec<Report>,
    rest: [u64; Overflow::ALL.len()],
}

impl Reports {
    pub(super) fn add(&mut self, to: &Address, action: Overflow, frames: u64) {
        let same = |report: &&mut Report| report.action == action && report.to.as_ref() == Some(to);
        if let Some(report) = self.named.iter_mut().rev().find(same) {
            report.dropped += frames;
        } else if self.named.len() < OVERFLOW_REPORTS_MAX {
            self.named.push(Report { to: Some(to.clone()), action, dropped: frames });
        } else if let Some((_, dropped)) = Self::rest(&mut self.rest).find(|&(other, _)| other == action) {
            *dropped += frames;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.named.is_empty() && self.rest.iter().all(|&dropped| dropped == 0)
    }

    pub(super) fn pop(&mut self) -> Option<Report> {
        if let Some(report) = self.named.pop() {
            return Some(report);
        }
        let (action, dropped) = Self::rest(&mut self.rest).find(|(_, dropped)| **dropped > 0)?;
        Some(Report { to: None, action, dropped: std::mem::take(dropped) })
    }

    fn rest(rest: &mut [u64; Overflow::ALL.len()]) -> impl Iterator<Item = (Overflow, &mut u64)> {
        Overflow::ALL.into_iter().zip(rest)
    }
}
