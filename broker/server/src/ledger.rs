//! The delivery ledger of one message as a document: what operators read, and what the store keeps of a delivery
//! that has ended.
//!
//! It is put together from what the publishing worker tracks, what the sessions have in flight, dead letters, and
//! the store. Every moment is in milliseconds since 1970. Deliberately not here: who asks for it and where the parts
//! come from.

use crate::worker::ledger::InFlight;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use waspmq_core::delivery::{DeviceRow, LedgerEntry, Quorum, RecipientRow, State};
use waspmq_core::{Address, MessageId, Name, Position};
use waspmq_store::{DeadLetter, Delayed};

/// What the broker knows about the delivery of one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Ledger {
    /// 32 hexadecimal digits.
    pub(crate) id: String,
    /// Where it is known from: `memory`, as it is now; `ledger`, as it was when the delivery ended; `history`, from the
    /// stored message and the cursors that have passed it; `delayed`, from the message that waits for its time;
    /// `dead_letters`, from nothing else.
    pub(crate) source: String,
    /// Its address; of a message that a policy gave several, one of them. Each recipient has its own.
    pub(crate) to: String,
    /// The publishing user; null for the admin API.
    pub(crate) from: Option<String>,
    /// When it was published, milliseconds since 1970.
    pub(crate) ts: u64,
    /// The level that was asked for or that the address demands; null where it is not known any more.
    pub(crate) level: Option<String>,
    /// Of the whole message: `under_way` while a recipient has not ended, `acked` when all have it, `incomplete` when
    /// one was given up, `stored` when it is kept and no recipient is known, `delayed` until it is due.
    pub(crate) state: String,
    /// Of a message that is delayed: when it is published to its recipients, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) due: Option<u64>,
    /// Its place in its address, where it is stored and was found there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pos: Option<String>,
    /// How it is acknowledged and retried, at `to`; null where it is not known.
    pub(crate) plan: Option<Plan>,
    pub(crate) recipients: Vec<RecipientDocument>,
    /// Those that it was given up for and that nobody has requeued or removed.
    #[serde(default)]
    pub(crate) dead_letters: Vec<LetterDocument>,
}

/// How a message is acknowledged and retried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = AckPlan)]
pub(crate) struct Plan {
    /// `all`, `any`, or how many recipients must acknowledge.
    pub(crate) quorum: String,
    pub(crate) timeout_ms: u32,
    pub(crate) attempts: u16,
}

/// How far a message is with one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Recipient)]
pub(crate) struct RecipientDocument {
    /// The address by which it goes to this recipient.
    #[serde(default)]
    #[schema(required)]
    pub(crate) to: String,
    /// `user/<name>` or `queue/<name>/<pattern>`.
    pub(crate) recipient: String,
    /// `planned`, `sent`, `retrying`, `acked`, `expired`, `dead_lettered` or `dropped`; `stored` where it waits in the
    /// history.
    pub(crate) state: String,
    /// Deliveries made so far; null where they are not counted.
    pub(crate) attempts: Option<u16>,
    /// Why the last attempt failed.
    pub(crate) cause: Option<String>,
    /// Since when it is in this state; null where that is not known.
    pub(crate) at: Option<u64>,
    /// What its sessions did, oldest first.
    pub(crate) devices: Vec<DeviceDocument>,
}

/// What one session did with a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Device)]
pub(crate) struct DeviceDocument {
    /// Of a queue: the member's user, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    pub(crate) device: Option<String>,
    /// Null when no session was found, and for a cursor.
    pub(crate) session: Option<String>,
    /// `sent`, `acked`, `nacked` or `failed`.
    pub(crate) state: String,
    pub(crate) attempt: Option<u16>,
    pub(crate) sent_at: Option<u64>,
    pub(crate) acked_at: Option<u64>,
    pub(crate) cause: Option<String>,
    /// What it said when it refused the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// A dead letter in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = LetterOfMessage)]
pub(crate) struct LetterDocument {
    /// The address by which it went to the recipient.
    pub(crate) to: String,
    pub(crate) recipient: String,
    pub(crate) cause: String,
    pub(crate) attempts: u16,
    pub(crate) at: u64,
}

impl Ledger {
    /// Of a delivery that is tracked, or was lately, at each of the message's addresses; `None` without any.
    pub(crate) fn of(entries: &[LedgerEntry]) -> Option<Self> {
        let entry = entries.first()?;
        let mut ledger = Self::about(entry.id, &entry.to, entry.from.as_ref(), entry.unix_ms);
        ledger.level = Some(entry.level.as_str().to_owned());
        ledger.plan = Some(Plan {
            quorum: match entry.plan.quorum {
                Quorum::All => "all".to_owned(),
                Quorum::Any => "any".to_owned(),
                Quorum::Count(count) => count.to_string(),
            },
            timeout_ms: entry.plan.timeout_ms,
            attempts: entry.plan.attempts,
        });
        let rows = || entries.iter().flat_map(|entry| entry.recipients.iter().map(|row| (&entry.to, row)));
        ledger.recipients = rows().map(|(to, row)| RecipientDocument::of(to, row)).collect();
        let mut states = rows().map(|(_, row)| row.state);
        ledger.state = if !states.clone().all(State::is_end) {
            "under_way"
        } else if states.clone().all(|state| state == State::Acked) {
            "acked"
        } else if states.all(|state| matches!(state, State::Acked | State::Stored)) {
            "stored"
        } else {
            "incomplete"
        }
        .to_owned();
        Some(ledger)
    }

    /// As the store kept it; an earlier version did so at one address, and did not name it with the recipients.
    pub(crate) fn read_back(mut self) -> Self {
        "ledger".clone_into(&mut self.source);
        for row in self.recipients.iter_mut().filter(|row| row.to.is_empty()) {
            row.to.clone_from(&self.to);
        }
        self
    }

    /// Of a message about which no more is known than this.
    pub(crate) fn about(id: MessageId, to: &Address, from: Option<&Name>, ts: u64) -> Self {
        Self {
            id: id.to_string(),
            source: "memory".to_owned(),
            to: to.to_string(),
            from: from.map(ToString::to_string),
            ts,
            level: None,
            state: "stored".to_owned(),
            due: None,
            pos: None,
            plan: None,
            recipients: Vec::new(),
            dead_letters: Vec::new(),
        }
    }

    /// Of a message that was found in the history of its address. `user` is whose address it is, `cursors` are those of
    /// their devices.
    pub(crate) fn of_stored(
        batch: &waspmq_core::message::Batch,
        id: MessageId,
        user: Option<&Name>,
        cursors: Vec<(Option<Name>, Position)>,
    ) -> Self {
        let mut ledger = Self::about(id, &batch.to, batch.from.as_ref(), batch.unix_ms);
        "history".clone_into(&mut ledger.source);
        ledger.pos = Some(batch.first.to_string());
        let Some(user) = user else { return ledger };
        let place = |position: Position| (position.stream.epoch, position.offset);
        let passed = cursors.into_iter().filter(|&(_, cursor)| place(cursor) >= place(batch.first));
        let devices: Vec<_> = passed.map(|(device, _)| DeviceDocument::passed(device.as_ref())).collect();
        let state = if devices.is_empty() { "stored" } else { "acked" };
        state.clone_into(&mut ledger.state);
        ledger.recipients.push(RecipientDocument {
            to: batch.to.to_string(),
            recipient: format!("user/{user}"),
            state: state.to_owned(),
            attempts: None,
            cause: None,
            at: None,
            devices,
        });
        ledger
    }

    /// Of a stored message that waits for its time.
    pub(crate) fn of_delayed(delayed: &Delayed, id: MessageId) -> Self {
        let batch = &delayed.batch;
        Self {
            source: "delayed".to_owned(),
            state: "delayed".to_owned(),
            level: Some(batch.level.as_str().to_owned()),
            due: Some(delayed.due_unix_ms),
            ..Self::about(id, &batch.to, batch.from.as_ref(), batch.unix_ms)
        }
    }

    /// Of a message of which only dead letters are left; `None` without any.
    pub(crate) fn of_letters(id: MessageId, letters: &[DeadLetter]) -> Option<Self> {
        let batch = &letters.first()?.batch;
        let mut ledger = Self::about(id, &batch.to, batch.from.as_ref(), batch.unix_ms);
        "dead_letters".clone_into(&mut ledger.source);
        "incomplete".clone_into(&mut ledger.state);
        ledger.level = Some(batch.level.as_str().to_owned());
        let row = |letter: &DeadLetter| RecipientDocument {
            to: letter.batch.to.to_string(),
            recipient: letter.recipient.clone(),
            state: State::DeadLettered.as_str().to_owned(),
            attempts: Some(letter.attempts),
            cause: Some(letter.cause.clone()),
            at: Some(letter.unix_ms),
            devices: Vec::new(),
        };
        ledger.recipients = letters.iter().map(row).collect();
        Some(ledger)
    }

    /// Adds what sessions were sent and have not answered.
    pub(crate) fn add_in_flight(&mut self, in_flight: &[InFlight]) {
        in_flight.iter().for_each(|sent| self.add_sent(sent));
    }

    /// Of those of its address, a session belongs to its user's row; else to the queue that has noted it as a member, else to the
    /// first queue.
    fn add_sent(&mut self, sent: &InFlight) {
        let (user, session) = (format!("user/{}", sent.user), sent.session.to_string());
        let has = |row: &RecipientDocument| {
            row.devices.iter().any(|device| device.session.as_deref() == Some(&*session))
        };
        let to = sent.to.as_str();
        let find = |wanted: &dyn Fn(&RecipientDocument) -> bool| {
            self.recipients.iter().position(|row| row.to == to && wanted(row))
        };
        let is_queue = |row: &RecipientDocument| row.recipient.starts_with("queue/");
        let (own, first_queue) = (find(&|row| row.recipient == user), find(&is_queue));
        let noted = find(&|row| is_queue(row) && has(row));
        let is_member = own.is_none() || noted.is_some();
        let Some(row) = noted.or(own).or(first_queue).and_then(|index| self.recipients.get_mut(index)) else {
            return;
        };
        row.add(DeviceDocument {
            user: is_member.then(|| sent.user.to_string()),
            device: sent.device.as_ref().map(ToString::to_string),
            session: Some(session),
            state: State::Sent.as_str().to_owned(),
            attempt: Some(sent.attempt),
            sent_at: Some(sent.sent_unix_ms),
            acked_at: None,
            cause: None,
            reason: None,
        });
    }

    pub(crate) fn add_letters(&mut self, letters: &[DeadLetter]) {
        self.dead_letters = letters
            .iter()
            .map(|letter| LetterDocument {
                to: letter.batch.to.to_string(),
                recipient: letter.recipient.clone(),
                cause: letter.cause.clone(),
                attempts: letter.attempts,
                at: letter.unix_ms,
            })
            .collect();
    }
}

impl RecipientDocument {
    fn of(to: &Address, row: &RecipientRow) -> Self {
        let mut document = Self {
            to: to.to_string(),
            recipient: row.recipient.to_string(),
            state: row.state.as_str().to_owned(),
            attempts: Some(row.attempts),
            cause: row.cause.map(|cause| cause.as_str().to_owned()),
            at: Some(row.at_ms),
            devices: Vec::new(),
        };
        row.devices.iter().for_each(|device| document.add(DeviceDocument::of(device)));
        document
    }

    /// What a session did later replaces what it did before in the same attempt; an answer is later than `sent`.
    fn add(&mut self, device: DeviceDocument) {
        let same = |other: &&mut DeviceDocument| {
            device.session.is_some() && (&other.session, other.attempt) == (&device.session, device.attempt)
        };
        match self.devices.iter_mut().find(same) {
            Some(known) if device.state == "sent" && known.state != "sent" => {}
            Some(known) => *known = device,
            None => self.devices.push(device),
        }
    }
}

impl DeviceDocument {
    fn of(row: &DeviceRow) -> Self {
        Self {
            user: None,
            device: row.device.as_ref().map(ToString::to_string),
            session: row.session.map(|session| session.to_string()),
            state: row.state.as_str().to_owned(),
            attempt: Some(row.attempt),
            sent_at: Some(row.sent_ms),
            acked_at: row.acked_ms,
            cause: row.cause.map(|cause| cause.as_str().to_owned()),
            reason: row.reason.as_deref().map(str::to_owned),
        }
    }

    /// Of a device whose cursor has passed the message.
    fn passed(device: Option<&Name>) -> Self {
        Self {
            user: None,
            device: device.map(ToString::to_string),
            session: None,
            state: State::Acked.as_str().to_owned(),
            attempt: None,
            sent_at: None,
            acked_at: None,
            cause: None,
            reason: None,
        }
    }
}
