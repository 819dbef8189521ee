"""Whose turn comes in which pass of the loop: a clock of the tests' own, and turns that take time by it."""

import asyncio
from collections.abc import Callable

from penstock_server.engine.round_robin import RoundRobin


class Table:
    """Those who take turns, and what happens in each pass of the loop."""

    def __init__(self) -> None:
        self.now = 100.0
        self.round_robin = RoundRobin(lambda: self.now)
        self.said = ""

    def due(self, name: str, seconds: float = 0.0, then: Callable[[], None] | None = None) -> None:
        """A turn that takes so long."""

        def turn() -> None:
            self.said += name
            self.now += seconds
            if then is not None:
                then()

        self.round_robin.add(turn)

    async def passes(self) -> list[str]:
        """Whose turns were taken in each pass, until nothing is due."""
        said: list[str] = []
        while ": 0 due" not in repr(self.round_robin):
            assert len(said) < 10, "it goes on and on"
            await asyncio.sleep(0)
            said.append(self.said)
            self.said = ""
        return said


async def test_short_turns_are_taken_in_one_pass() -> None:
    """In the order in which they came due."""
    table = Table()
    for name in "abcdef":
        table.due(name, 50e-6)
    assert table.said == ""
    assert await table.passes() == ["abcdef"]


async def test_after_some_time_the_loop_has_its_pass() -> None:
    """And those that had none go first then."""
    table = Table()
    for name in "abcdefgh":
        table.due(name, 120e-6)
    table.due("i", 1.0)
    table.due("j")
    assert await table.passes() == ["abc", "def", "ghi", "j"]


async def test_who_comes_due_again_has_to_wait() -> None:
    """For those that are due already, and for the next pass if there is nobody."""
    table = Table()
    table.due("a", 0.2e-3, then=lambda: table.due("A"))
    table.due("b", 0.2e-3, then=lambda: table.due("B"))
    table.due("c")
    assert await table.passes() == ["ab", "cAB"]
    table.due("x", then=lambda: table.due("X"))
    assert await table.passes() == ["x", "X"]


async def test_a_turn_that_fails_takes_nobody_elses() -> None:
    """The loop hears of it."""
    table = Table()

    def fail() -> None:
        raise RuntimeError("no luck")

    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(str(context["exception"])))
    table.due("a", then=fail)
    table.due("b")
    assert await table.passes() == ["a", "b"]
    assert heard == ["no luck"]
    table.due("c")
    assert await table.passes() == ["c"]
