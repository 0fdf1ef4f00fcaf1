"""Sends messages on by the value of one header, and drops those that are too large."""

import json

import wit_world
from componentize_py_types import Err
from wit_world.imports import host
from wit_world.imports.types import Cache, Message, QueueMembers, Route, Route_Continue, Route_Drop, Route_Redirect, Verdict


# The header that is looked at, what its value is put behind, bytes of the largest payload. Here and not in the class, of which each call
# has an object of its own.
policy: tuple[str, str, int]


class WitWorld(wit_world.WitWorld):
    def configure(self, config: str) -> None:
        global policy
        read = json.loads(config)
        header, to, bytes_max = read.get("header"), read.get("to"), read.get("bytes_max", 65_536)
        if not isinstance(header, str):
            raise Err("`header` must be a text")
        if not isinstance(to, str):
            raise Err("`to` must be a text")
        if type(bytes_max) is not int or not 0 <= bytes_max < 1 << 32:
            raise Err("`bytes_max` must be a number")
        policy = (header, to, bytes_max)

    def self_test(self) -> None:
        pass

    def route(self, message: Message) -> Verdict:
        header, to, bytes_max = policy
        if message.size > bytes_max:
            return verdict(Route_Drop(f"more than {bytes_max} bytes"))
        value = host.header(header)
        if value:
            host.counter("sent_on", 1)
            return verdict(Route_Redirect(to + value))
        return verdict(Route_Continue(), [("checked", "yes")])

    def members_changed(self, members: QueueMembers) -> None:
        """This policy chooses no member of a queue."""


def verdict(route: Route, set_headers: list[tuple[str, str]] | None = None) -> Verdict:
    return Verdict(route, set_headers or [], Cache.NEVER)
