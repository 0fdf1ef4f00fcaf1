"""Keeps what is urgent in the store for a recipient that does not keep up, and of topics the newest of each key."""

import json

import wit_world
from componentize_py_types import Err
from wit_world.imports import host
from wit_world.imports.types import Action, Kind, Overflowing


# The least priority that is urgent. Here and not in the class, of which each call has an object of its own.
urgent = 7


class WitWorld(wit_world.WitWorld):
    def configure(self, config: str) -> None:
        global urgent
        wanted = json.loads(config).get("urgent", urgent)
        if type(wanted) is not int or not 0 <= wanted <= 255:
            raise Err("`urgent` must be a number from 0 to 255")
        urgent = wanted

    def self_test(self) -> None:
        pass

    def overflow(self, what: Overflowing) -> Action:
        if what.priority >= urgent:
            host.counter("spilled", 1)
            return Action.SPILL
        return Action.CONFLATE if what.kind == Kind.TOPIC else Action.CONTINUE
