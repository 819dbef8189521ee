"""Whose turn comes in which pass of the loop."""

import asyncio
from collections.abc import Callable

from penstock_server.engine.round_robin import RoundRobin


class Table:
    """Those who take turns, and what happens in each pass of the loop."""

    def __init__(self) -> None:
        self.round_robin = RoundRobin()
        self.said = ""

    def due(self, *names: str, then: Callable[[], None] | None = None) -> None:
        """Somebody's turn, who says his name and does something."""
        for name in names:
            self._due(name, then)

    def _due(self, name: str, then: Callable[[], None] | None) -> None:
        def turn() -> None:
            self.said += name
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


async def test_few_turns_are_taken_in_one_pass() -> None:
    """In the order in which they came due, and not at once."""
    table = Table()
    table.due(*"abcdef")
    assert table.said == ""
    assert await table.passes() == ["abcdef"]


async def test_after_six_turns_the_loop_has_its_pass() -> None:
    """And those that had none go first then."""
    table = Table()
    table.due(*"abcdefghijklmn")
    assert await table.passes() == ["abcdef", "ghijkl", "mn"]


async def test_who_comes_due_again_has_to_wait() -> None:
    """For those that are due already, and for the next pass if there is nobody."""
    table = Table()
    table.due("a", then=lambda: table.due("A"))
    table.due(*"bcdef")
    table.due("g", then=lambda: table.due("G"))
    assert await table.passes() == ["abcdef", "gA", "G"]
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


def test_what_was_due_on_a_loop_that_has_ended_is_forgotten() -> None:
    """Whoever comes after it, on a loop of his own, has his turn."""
    table = Table()

    async def leave() -> None:
        table.due(*"a" * 30)

    async def stay() -> list[str]:
        table.due("b")
        return await table.passes()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    assert len(table.said) < 30
    table.said = ""
    assert asyncio.run(stay()) == ["b"]
