//! How long a commit waits for company.
//!
//! Publishers that wait for a receipt before they send the next message come back shortly behind each commit, one by one. A
//! commit that starts with the first of them takes a sync for a handful, and the others wait for the next one, and so on:
//! the disk is busy with small commits. So a commit waits until a third of those who were seen lately are there: while one
//! third's commit runs, the others' answers and next messages are on their way. The wait is never longer than a commit
//! takes, and who is alone does not wait at all.
//! `docs/adr/0007-a-commit-waits-for-company.md` has the figures, which were noisy.

use std::time::Duration;

/// The longest wait, however slow the disk is.
const WAIT_MAX: Duration = Duration::from_millis(2);

/// The part of a crowd that makes a commit: one in so many.
const CROWD_SHARE: usize = 3;

/// Others that are worth a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Company {
    /// Writes that somebody waits for, with those that are there.
    pub(super) wanted: usize,
    pub(super) most: Duration,
}

/// Of the writes that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// How many were on their way at once, lately.
    crowd: usize,
    /// What a commit takes, a running mean.
    commit: Duration,
}

impl Pace {
    /// A commit of `awaited` writes took `took`, and `arrived` others came meanwhile.
    pub(super) fn committed(&mut self, awaited: usize, arrived: usize, took: Duration) {
        // A crowd that left is forgotten within some twenty commits.
        self.crowd = (awaited + arrived).max(self.crowd - self.crowd.div_ceil(8));
        self.commit = (self.commit * 7 + took.min(WAIT_MAX)) / 8;
    }

    /// What the next commit is to wait for behind its first write. `None`: it begins with what is there.
    pub(super) fn company(&self) -> Option<Company> {
        let wanted = self.crowd / CROWD_SHARE;
        (wanted > 1).then_some(Company { wanted, most: self.commit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: Duration = Duration::from_micros(200);

    #[test]
    fn who_is_alone_does_not_wait() {
        let mut pace = Pace::default();
        assert_eq!(pace.company(), None);
        for _ in 0..100 {
            pace.committed(1, 0, COMMIT);
            assert_eq!(pace.company(), None);
        }
    }

    #[test]
    fn a_third_of_a_crowd_is_waited_for_no_longer_than_a_commit_takes() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.committed(20, 44, COMMIT);
        }
        let Company { wanted, most } = pace.company().unwrap();
        assert_eq!(wanted, 21);
        assert!(most <= COMMIT && most > COMMIT / 2, "{most:?}");
    }

    #[test]
    fn a_crowd_that_left_is_forgotten() {
        let mut pace = Pace::default();
        pace.committed(64, 0, COMMIT);
        let commits = (0..100).take_while(|_| {
            pace.committed(1, 0, COMMIT);
            pace.company().is_some()
        });
        assert!(commits.count() <= 24);
    }

    #[test]
    fn a_disk_that_hangs_does_not_make_the_next_commit_wait_as_long() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.committed(64, 0, Duration::from_secs(2));
        }
        assert!(pace.company().unwrap().most <= WAIT_MAX);
    }
}
