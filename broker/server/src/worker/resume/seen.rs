//! How far the client of a session has seen what the session had, by the positions it names when it comes back.

use super::super::catchup::Start;
use crate::resumes::{Begin, Record, Replay};
use hashbrown::HashMap;
use std::sync::Arc;
use waspmq_core::{Address, Kind, Name, Pattern, Position, limits};

/// A place in the order of one address's messages.
const fn place(position: Position) -> (u32, u64) {
    (position.stream.epoch, position.offset)
}

/// What the client has seen of what its session had.
#[derive(Debug)]
pub(in crate::worker) struct Seen {
    /// The client's latest position in each shard.
    positions: HashMap<u16, Position>,
    /// The last positions before the session had these.
    since: Vec<(Pattern, Arc<[Position]>)>,
    replays: Vec<Replay>,
    /// Whose stored cursors tell what was not acknowledged; without, the session's own cursors go on.
    cursors_of: Option<(Name, Option<Name>)>,
}

impl Seen {
    pub(in crate::worker) fn new(record: &Record, positions: &[Position]) -> Self {
        let mut latest: HashMap<u16, Position> = HashMap::new();
        for &position in positions {
            let known = latest.entry(position.stream.shard).or_insert(position);
            if place(*known) < place(position) {
                *known = position;
            }
        }
        let implied = record.implied.iter().map(|had| (Pattern::from(&had.to), [had.since].into()));
        let plain = record.subscriptions.iter().filter(|subscribed| subscribed.subscription.queue.is_none());
        let plain =
            plain.map(|subscribed| (subscribed.subscription.pattern.clone(), subscribed.since.clone()));
        Self {
            positions: latest,
            since: implied.chain(plain).collect(),
            replays: record.replays.clone(),
            cursors_of: (!record.has_cursors).then(|| (record.user.clone(), record.device.clone())),
        }
    }

    /// What the session was reading.
    pub(in crate::worker) fn replays(&self) -> &[Replay] {
        &self.replays
    }

    /// The later of a position and what the client has seen of its shard.
    pub(super) fn later(&self, since: Position) -> Position {
        let seen = self.positions.get(&since.stream.shard).copied();
        seen.filter(|seen| place(*seen) > place(since)).unwrap_or(since)
    }

    /// The last position before the session had an address; `None` for one it did not have.
    fn had_since(&self, to: &Address, shard: u16) -> Option<Position> {
        let had = self.since.iter().filter(|(pattern, _)| pattern.matches(to));
        let since = had.filter_map(|(_, since)| since.iter().find(|since| since.stream.shard == shard));
        since.min_by_key(|since| place(**since)).copied()
    }

    /// The position behind which the client has seen nothing of an address; `None` for one the session did not have.
    pub(super) fn upto(&self, to: &Address, shard: u16) -> Option<Position> {
        self.had_since(to, shard).map(|since| self.later(since))
    }

    /// Where a subscription goes on in each shard, by what the client has seen.
    pub(in crate::worker) fn places(&self, pattern: &Pattern) -> impl Iterator<Item = Position> {
        let had = self.since.iter().find(|(had, _)| had == pattern);
        had.into_iter().flat_map(|(_, since)| since.iter()).map(|since| self.later(*since))
    }

    /// Where reading an address begins again; `None` for one the session did not have, or of which only the store
    /// knows. The flag says whether all that is read lies behind what the client has seen of the stream. One that may
    /// not go back any more begins no earlier than it had the address.
    pub(in crate::worker) fn start(
        &self,
        to: &Address,
        shard: u16,
        may_go_back: bool,
    ) -> Option<(Start, bool)> {
        let since = self.had_since(to, shard)?;
        let upto = self.later(since);
        let is_of_shard =
            |replay: &Replay| replay.shard_of_pattern().is_none_or(|(_, of_shard)| of_shard == shard);
        let is_open =
            |replay: &&Replay| replay.of.matches(to) && is_of_shard(replay) && !self.is_over(replay, shard);
        let (mut from, mut is_last) = (upto, false);
        for replay in self.replays.iter().filter(is_open) {
            match replay.begin {
                Begin::Cursor => return None,
                Begin::Earliest | Begin::Last | Begin::Time(_) if !may_go_back => from = since,
                Begin::After(position) if !may_go_back && place(position) < place(since) => from = since,
                Begin::Earliest => return Some((Start::Earliest, false)),
                Begin::Last => is_last = true,
                Begin::Time(unix_ms) => return Some((Start::Time(unix_ms), false)),
                Begin::After(position) if place(position) < place(from) => from = position,
                Begin::After(_) => {}
            }
        }
        if is_last {
            // What came since the session had the address is read, too: it may have waited for the one before.
            let upto = if place(from) < place(since) { from } else { since };
            let behind = Position { offset: upto.offset.saturating_add(1), ..upto };
            return Some((Start::LastBefore(behind), false));
        }
        Some(match &self.cursors_of {
            Some((user, device)) if to.kind() != Kind::Topic => {
                (Start::CursorUpTo { user: user.clone(), device: device.clone(), upto: from }, false)
            }
            _ => (Start::After(from), from == upto),
        })
    }

    /// Shards, as bits, where the client's latest position does not say what it has seen of the addresses that were
    /// read from the store.
    pub(super) fn unclear_shards(&self, shard_of: impl Fn(&Address) -> u16) -> u64 {
        let mut shards = 0;
        for replay in &self.replays {
            let of_pattern = replay.shard_of_pattern().map(|(_, shard)| shard);
            let of_address = || replay.of.to_address().map(|to| shard_of(&to));
            let Some(shard) = of_pattern.or_else(of_address) else { return u64::MAX };
            if !self.is_over(replay, shard) {
                shards |= 1 << (shard % 64);
            }
        }
        shards
    }

    /// Whether the client has seen all of a reading of an address in this shard.
    fn is_over(&self, replay: &Replay, shard: u16) -> bool {
        let seen = self.positions.get(&shard).map(|seen| place(*seen)).unwrap_or_default();
        replay.until.is_some_and(|(last, end)| seen == place(last) || seen > place(end))
    }
}

const _: () = assert!(limits::SHARD_COUNT <= 64, "shards are bits of 64");
