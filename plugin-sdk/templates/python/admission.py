"""Takes in so many messages a second of each sender."""

import json

import wit_world
from componentize_py_types import Err
from wit_world.imports import host
from wit_world.imports.types import Admission, Admission_Continue, Admission_Refuse, Message, Refusal

# When to try again, for who was refused.
RETRY_MS = 1_000


# Messages a second, and as many as are taken in at once. Here and not in the class, of which each call has an object of its own.
policy: tuple[int, int]


class WitWorld(wit_world.WitWorld):
    def configure(self, config: str) -> None:
        global policy
        read = json.loads(config)
        policy = (at_least_one(read, "per_second", 10), at_least_one(read, "burst", 20))

    def self_test(self) -> None:
        pass

    def admit(self, message: Message) -> Admission:
        per_second, burst = policy
        if host.take(f"from/{message.sender}", 1, per_second, burst):
            return Admission_Continue()
        host.counter("refused", 1)
        return Admission_Refuse(Refusal(f"more than {per_second} messages a second", RETRY_MS))


def at_least_one(config: dict, key: str, default: int) -> int:
    value = config.get(key, default)
    if type(value) is not int or not 1 <= value < 1 << 32:
        raise Err(f"`{key}` must be a number, at least 1")
    return value
