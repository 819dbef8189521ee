"""Keeps the loop awake for a moment after answers were written, since those who got them may ask again at once.

A core that has nothing to do goes to sleep, and what wakes it costs some 20 µs: more than to read the next request. So
after answers the loop looks for what comes instead of waiting for it, for some 50 µs. That is busy polling, as network
drivers and Go's scheduler do it. Under load nothing changes, since the loop does not sleep then; without requests
nothing does either. Between two looks the core is offered to whoever else wants it, such as a client on the same one.
"""

import os
import time
from collections.abc import Callable
from typing import Protocol


class _Loop(Protocol):
    """The part of the event loop that is used."""

    def call_soon(self, callback: Callable[[], object], /) -> object: ...


_yield: Callable[[], None] = getattr(os, "sched_yield", lambda: None)  # not everywhere


class BusyPoll:
    """Of one loop."""

    def __init__(self, loop: _Loop, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`seconds` after the last answer the loop may sleep; 0: at once."""
        self._loop = loop
        self._seconds = seconds
        self._clock = clock
        self._ends = 0.0
        self._is_awake = False

    def __repr__(self) -> str:
        return f"<BusyPoll for {self._seconds * 1e6:.0f} µs: {'awake' if self._is_awake else 'may sleep'}>"

    def answered(self) -> None:
        """Answers were written."""
        if self._seconds <= 0:
            return
        self._ends = self._clock() + self._seconds
        if not self._is_awake:
            self._is_awake = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """One pass of the loop has looked for what has come. Another one, or let it sleep."""
        self._is_awake = self._clock() < self._ends
        if self._is_awake:
            _yield()
            self._loop.call_soon(self._look)
