"""Has urgent messages delivered in several attempts, and waits for who is offline."""

import json
from dataclasses import replace

import wit_world
from componentize_py_types import Err
from wit_world.imports import host
from wit_world.imports.types import (
    AckPlan, Cause, Decision, Decision_Continue, Decision_Retry, Decision_Wait, Failure, Level, Message,
)

# How long somebody who is offline is waited for until the broker looks again.
OFFLINE_MS = 60_000


# The least priority that is urgent, the attempts, and what one may take. Here and not in the class, of which each call has an object of
# its own.
policy: tuple[int, int, int]


class WitWorld(wit_world.WitWorld):
    def configure(self, config: str) -> None:
        global policy
        read = json.loads(config)
        urgent = number(read, "urgent", 7, range(256))
        attempts = number(read, "attempts", 5, range(1, 1_001))
        policy = (urgent, attempts, number(read, "timeout_ms", 2_000, range(1, 86_400_001)))

    def self_test(self) -> None:
        pass

    def plan(self, message: Message, configured: AckPlan) -> AckPlan | None:
        """None leaves it to the next policy."""
        urgent, attempts, timeout_ms = policy
        if message.priority < urgent:
            return None
        host.counter("urgent", 1)
        return replace(configured, level=Level.DELIVERED, attempts=attempts, timeout_ms=timeout_ms)

    def failed(self, failure: Failure) -> Decision:
        if failure.cause == Cause.OFFLINE:
            return Decision_Wait(OFFLINE_MS)
        if failure.cause == Cause.NACK and failure.retry_ms is not None:
            return Decision_Retry(failure.retry_ms)
        return Decision_Continue()


def number(config: dict, key: str, default: int, bounds: range) -> int:
    value = config.get(key, default)
    if type(value) is not int or value not in bounds:
        raise Err(f"`{key}` must be a number from {bounds.start} to {bounds.stop - 1}")
    return value
