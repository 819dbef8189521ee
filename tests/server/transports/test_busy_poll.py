"""How long the loop stays awake after answers: a loop and a clock of the tests' own."""

from collections.abc import Callable

from penstock_server.transports.wire.busy_poll import BusyPoll

LONG = 50e-6


class Loop:
    """Runs what was asked for in passes, each of which takes ten microseconds."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list[Callable[[], object]] = []

    def call_soon(self, callback: Callable[[], object], /) -> None:
        self.soon.append(callback)

    def passes(self) -> int:
        """How many passes it makes until it may sleep."""
        count = 0
        while self.soon:
            assert len(self.soon) == 1
            count += 1
            self.now += 10.1e-6
            self.soon.pop()()
        return count


def test_after_answers_it_looks_for_what_comes() -> None:
    """As long as it was told, and then it may sleep; as often as there are answers."""
    loop = Loop()
    poll = BusyPoll(loop, LONG, lambda: loop.now)
    assert loop.passes() == 0
    for _ in range(3):
        poll.answered()
        assert "awake" in repr(poll)
        assert loop.passes() == 5
        assert "may sleep" in repr(poll)


def test_more_answers_keep_it_awake() -> None:
    """From the last ones on, and by one callback: those that are under way are not joined by others."""
    loop = Loop()
    poll = BusyPoll(loop, LONG, lambda: loop.now)
    poll.answered()
    for _ in range(18):
        loop.now += 10e-6
        loop.soon.pop()()
        poll.answered()
    assert loop.passes() == 5


def test_it_can_be_off() -> None:
    """Then nobody asks what time it is."""

    def clock() -> float:
        raise AssertionError

    loop = Loop()
    BusyPoll(loop, 0.0, clock).answered()
    assert loop.soon == []
