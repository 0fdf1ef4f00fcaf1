//! What hooks are told, laid out as the contract has it.

use super::outbox::{List, Lower, Outbox};
use super::types::Type;
use super::world;
use crate::bindings::{AckPlan, Message, Quorum};
use wasmtime::Result;
use waspmq_core::policy::QueueMembers;

impl Lower for &QueueMembers {
    const TYPE: Type = world::QUEUE_MEMBERS;

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        let [pattern, queue, version, members] =
            ["pattern", "queue", "version", "members"].map(|field| at + Self::TYPE.field_at(field));
        self.pattern.as_str().lay_out(outbox, block, pattern)?;
        self.queue.as_str().lay_out(outbox, block, queue)?;
        self.version.lay_out(outbox, block, version)?;
        List(self.members.iter()).lay_out(outbox, block, members)
    }
}

impl Lower for &Message<'_> {
    const TYPE: Type = world::MESSAGE;

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        self.sender.lay_out(outbox, block, at + const { world::MESSAGE.field_at("sender") })?;
        self.address.lay_out(outbox, block, at + const { world::MESSAGE.field_at("address") })?;
        (self.kind as u8).lay_out(outbox, block, at + const { world::MESSAGE.field_at("kind") })?;
        self.key.lay_out(outbox, block, at + const { world::MESSAGE.field_at("key") })?;
        self.size.lay_out(outbox, block, at + const { world::MESSAGE.field_at("size") })?;
        self.priority.lay_out(outbox, block, at + const { world::MESSAGE.field_at("priority") })?;
        self.ts.lay_out(outbox, block, at + const { world::MESSAGE.field_at("ts") })
    }
}

impl Lower for &AckPlan {
    const TYPE: Type = world::ACK_PLAN;

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        (self.level as u8).lay_out(outbox, block, at + const { world::ACK_PLAN.field_at("level") })?;
        self.quorum.lay_out(outbox, block, at + const { world::ACK_PLAN.field_at("quorum") })?;
        self.timeout_ms.lay_out(outbox, block, at + const { world::ACK_PLAN.field_at("timeout-ms") })?;
        self.attempts.lay_out(outbox, block, at + const { world::ACK_PLAN.field_at("attempts") })?;
        self.initial_ms.lay_out(outbox, block, at + const { world::ACK_PLAN.field_at("initial-ms") })?;
        self.max_ms.lay_out(outbox, block, at + const { world::ACK_PLAN.field_at("max-ms") })?;
        self.jitter_percent.lay_out(
            outbox,
            block,
            at + const { world::ACK_PLAN.field_at("jitter-percent") },
        )?;
        (self.exhausted as u8).lay_out(outbox, block, at + const { world::ACK_PLAN.field_at("exhausted") })
    }
}

impl Lower for Quorum {
    const TYPE: Type = world::QUORUM;

    fn lay_out(&self, outbox: &mut Outbox, block: usize, at: usize) -> Result<()> {
        const ANY: u8 = world::QUORUM.case("any");
        const COUNT: u8 = world::QUORUM.case("count");
        const ALL: u8 = world::QUORUM.case("all");
        let case = match self {
            Self::Any => ANY,
            Self::Count(count) => {
                count.lay_out(outbox, block, at + const { world::QUORUM.payload_at() })?;
                COUNT
            }
            Self::All => ALL,
        };
        case.lay_out(outbox, block, at)
    }
}
