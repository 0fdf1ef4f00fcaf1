//! Whose acks a message waits for.

use super::shard::Targets;
use super::{Locked, Queue};
use crate::address::{Address, Kind, Name};
use crate::delivery::Recipient;
use crate::id::SessionId;
use crate::limits;
use crate::reject::{Code, Reject};
use crate::settings::Keep;
use hashbrown::HashMap;
use smallvec::SmallVec;

/// Whose acks a message waits for.
#[derive(Debug, Clone, Default)]
pub struct Recipients {
    pub online: SmallVec<[Recipient; 1]>,
    /// Those without a session.
    pub offline: Vec<Recipient>,
}

/// The session that published and is left out.
#[derive(Debug, Clone, Copy)]
pub struct Excluded<'a> {
    pub user: &'a Name,
    pub session: SessionId,
    /// By how many of its plain subscriptions and memberships it listens to the address.
    pub listens: u32,
}

impl Excluded<'_> {
    /// Whether a user listens with that session alone, where all the user's sessions listen so often.
    fn is_all_of(&self, user: &Name, listening: u32) -> bool {
        user == self.user && listening <= self.listens
    }

    /// Whether a queue has no member beside it.
    fn is_all_of_queue(&self, queue: &Queue) -> bool {
        matches!(queue.members.as_slice(), [member] if member.session == self.session)
    }
}

impl Recipients {
    pub fn len(&self) -> usize {
        self.online.len() + self.offline.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn push(&mut self, user: &Name, online: bool) {
        let recipient = Recipient::User(user.clone());
        if online {
            self.online.push(recipient);
        } else {
            self.offline.push(recipient);
        }
    }

    fn extend(&mut self, user: Option<&Name>, online: bool) {
        if let Some(user) = user {
            self.push(user, online);
        }
    }
}

fn too_many_recipients() -> Reject {
    let message = format!("more than {} recipients would have to acknowledge", limits::ACKED_RECIPIENTS_MAX);
    Reject::new(Code::TooManyRecipients, message)
}

impl Locked<'_> {
    /// Whether a stored message to `to` is read by somebody later: by the user, by a member of the group, or by
    /// whoever asks for the history of an address that keeps everything.
    pub fn is_kept_for_someone(&self, to: &Address, keep: Keep) -> bool {
        match to.kind() {
            Kind::User => true,
            Kind::Group => Name::parse(to.name()).is_ok_and(|name| {
                self.shard.groups.get(&name).is_some_and(|group| !group.members.is_empty())
            }),
            Kind::Topic | Kind::All => keep == Keep::Always,
        }
    }

    /// Everyone whose acks a message to `to` waits for, each once, in no particular order: the user, the members
    /// of the group, else the users and queues that listen. Without the user and the queues that listen with the excluded
    /// session alone.
    pub fn recipients(&self, to: &Address, excluded: Option<&Excluded<'_>>) -> Result<Recipients, Reject> {
        let own = self.shard.audiences.get(to);
        let mut found = Recipients::default();
        let is_excluded =
            |user: &Name, sessions: u32| excluded.is_some_and(|excluded| excluded.is_all_of(user, sessions));
        match to.kind() {
            Kind::User => {
                let user = own.and_then(|audience| audience.users.iter().next());
                match user {
                    Some((user, &sessions)) if is_excluded(user, sessions) => {}
                    Some((user, _)) => found.push(user, true),
                    None => found.extend(Name::parse(to.name()).ok().as_ref(), false),
                }
            }
            Kind::Group => {
                let name = Name::parse(to.name()).ok();
                let members = name.and_then(|name| self.shard.groups.get(&name));
                let members = members.map(|group| &group.members);
                if members.is_some_and(|members| members.len() > limits::ACKED_RECIPIENTS_MAX) {
                    return Err(too_many_recipients());
                }
                for user in members.into_iter().flatten() {
                    let sessions = own.and_then(|audience| audience.users.get(user)).copied();
                    if !is_excluded(user, sessions.unwrap_or(u32::MAX)) {
                        found.push(user, sessions.is_some());
                    }
                }
            }
            Kind::Topic | Kind::All => self.extend_by_listeners(to, excluded, &mut found)?,
        }
        Ok(found)
    }

    /// How many users, per matching pattern, and queues a message to `to` reaches, whose targets are `targets`; without those
    /// it would reach with the excluded session alone.
    pub fn reached(&self, to: &Address, targets: &Targets, excluded: Option<&Excluded<'_>>) -> u32 {
        let is_left_out = |queue: &Queue| excluded.is_some_and(|excluded| excluded.is_all_of_queue(queue));
        let queues = targets.queues.iter().filter(|queue| !is_left_out(queue)).count();
        let mut users = targets.recipients;
        if let Some(excluded) = excluded.filter(|excluded| excluded.listens > 0) {
            let wildcards = self.registry.wildcards.read().unwrap();
            let audiences = wildcards.matches(to).chain(self.shard.audiences.get(to));
            let (mut listening, mut alone) = (0, 0);
            for sessions in audiences.filter_map(|audience| audience.users.get(excluded.user)) {
                listening += sessions;
                alone += u32::from(*sessions == 1);
            }
            // Which of the patterns with one session are those of the excluded one is not known here.
            let has_others = listening > excluded.listens;
            users = users.saturating_sub(alone.min(excluded.listens)).max(has_others.into());
        }
        users.saturating_add(u32::try_from(queues).unwrap_or(u32::MAX))
    }

    fn extend_by_listeners(
        &self,
        to: &Address,
        excluded: Option<&Excluded<'_>>,
        found: &mut Recipients,
    ) -> Result<(), Reject> {
        let wildcards = self.registry.wildcards.read().unwrap();
        let mut audiences: SmallVec<[_; 8]> = wildcards.matches(to).collect();
        audiences.extend(self.shard.audiences.get(to));
        let mut users: HashMap<&Name, u32, foldhash::fast::RandomState> = HashMap::default();
        for audience in &audiences {
            for (user, &sessions) in &audience.users {
                // Sessions may listen by several patterns, each of which counts them.
                *users.entry(user).or_default() += sessions;
                if users.len() > limits::ACKED_RECIPIENTS_MAX {
                    return Err(too_many_recipients());
                }
            }
        }
        for (user, listening) in users {
            if !excluded.is_some_and(|excluded| excluded.is_all_of(user, listening)) {
                found.push(user, true);
            }
        }
        let queues = audiences.iter().flat_map(|audience| &audience.queues);
        for queue in queues.filter(|queue| !excluded.is_some_and(|excluded| excluded.is_all_of_queue(queue)))
        {
            found.online.push(Recipient::Queue(queue.id.clone()));
        }
        Ok(())
    }
}
