"""Turns of many models: in the order in which they came due, and only some of them in one pass of the loop.

Short batches run on the loop, and while they do nothing is read. With sixteen models that are all asked at once, a
pass in which each of them ran would take a millisecond; what comes meanwhile would wait for it, and then be a wave of
the same kind, of half-full batches. So after a few turns the loop gets to read and to write. What it reads goes into
the batches of those whose turn is still to come: under load each model's batch has all that has come since its last.

With fewer turns in a pass batches are larger still, but connections are read and written for every few of them. What
was measured is in ARCHITECTURE.md.
"""

import asyncio
from collections import deque
from collections.abc import Callable

_TURNS = 6
"""In one pass of the loop."""


class RoundRobin:
    """Gives turns, on one loop at a time: what is due when a loop ends is forgotten."""

    def __init__(self) -> None:
        self._due: deque[Callable[[], None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None  # that has been asked for a pass

    def __repr__(self) -> str:
        return f"<RoundRobin: {len(self._due)} due>"

    def add(self, turn: Callable[[], None]) -> None:
        """Call it once, at the end of this pass of the loop or of one of the next."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._due.clear()
            self._loop = loop
            loop.call_soon(self._run)
        self._due.append(turn)

    def _run(self) -> None:
        due = self._due
        try:
            for _ in range(min(_TURNS, len(due))):  # what comes due meanwhile has to wait for the next pass
                due.popleft()()
        finally:  # a turn that fails takes nobody else's
            if due and self._loop is not None:
                self._loop.call_soon(self._run)
            else:
                self._loop = None
