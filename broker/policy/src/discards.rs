//! Instances that workers gave up, until somebody frees them.
//!
//! Freeing one takes longer than a message may wait, so workers leave it to the policy thread. Meanwhile an instance takes
//! room from the pool, beyond what is reserved for those that serve. Whoever finds no room therefore frees them first, so
//! that whether a change fits depends on the policies there are and not on how busy that thread is.

use crate::binding::lock;
use crate::limits;
use crate::serving::Serving;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

#[derive(Debug)]
pub(crate) struct Discards {
    sender: SyncSender<Serving>,
    receiver: Mutex<Receiver<Serving>>,
}

impl Default for Discards {
    fn default() -> Self {
        let (sender, receiver) = sync_channel(limits::RETIRED_MAX);
        Self { sender, receiver: Mutex::new(receiver) }
    }
}

impl Discards {
    /// Takes what is given up; frees it here when too many wait. Never waits.
    pub(crate) fn put(&self, gone: Serving) {
        drop(self.sender.try_send(gone));
    }

    /// Frees everything that was given up before this call. Where another thread is at it, waits for that one.
    pub(crate) fn free(&self) {
        lock(&self.receiver).try_iter().take(limits::RETIRED_MAX).for_each(drop);
    }

    /// Makes something that needs room. The room is enough for all that is not given up, so one look behind a failure is
    /// enough, too, unless others make and give up at the same moment.
    pub(crate) fn with_room<T, E>(
        &self,
        make: impl Fn() -> Result<T, E>,
        lacks_room: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        for _ in 1..limits::ROOM_ATTEMPTS_MAX {
            match make() {
                Err(error) if lacks_room(&error) => self.free(),
                made => return made,
            }
        }
        make()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn what_lacks_room_is_tried_again_and_a_bounded_number_of_times() {
        let made_at = |attempt: u32, fails: &str| {
            let attempts = Cell::new(0);
            let make = || {
                attempts.set(attempts.get() + 1);
                if attempts.get() == attempt { Ok(()) } else { Err(fails.to_owned()) }
            };
            let made = Discards::default().with_room(make, |error| error == "room");
            (made.is_ok(), attempts.get())
        };
        let most = limits::ROOM_ATTEMPTS_MAX;
        assert_eq!(made_at(1, "room"), (true, 1));
        assert_eq!(made_at(2, "room"), (true, 2));
        assert_eq!(made_at(most, "room"), (true, most));
        assert_eq!(made_at(most + 1, "room"), (false, most));
        assert_eq!(made_at(2, "trap"), (false, 1), "a guest that fails is not asked twice");
    }
}
