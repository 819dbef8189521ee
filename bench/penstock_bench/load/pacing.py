"""Which requests are due now. Pure: told the time, it answers with the moments from which latency is counted.

In a closed loop whatever has room may send, and latency counts from that. In an open loop requests are due when the
schedule says so, and it is that moment which counts, however late they leave: a server that stalls holds up the
requests that come after, and a measurement from their real sending would not see it (coordinated omission).
"""

from bisect import bisect_right
from collections.abc import Sequence
from math import inf
from typing import Protocol


class Pace(Protocol):
    """What a loop asks."""

    @property
    def spread(self) -> bool:
        """Whether requests go to the connections in turn, and do not fill one after the other."""
        ...

    def take(self, now: float, room: int) -> Sequence[float]:
        """The requests to send now, at most `room`, by the moments they count from."""
        ...

    def next_at(self) -> float:
        """When the next one is due; infinity if time alone brings none."""
        ...


class ClosedPace:
    """There is always one more request."""

    spread = False

    def take(self, now: float, room: int) -> Sequence[float]:
        return (now,) * room

    def next_at(self) -> float:
        return inf

    def __repr__(self) -> str:
        return "<ClosedPace>"


class OpenPace:
    """A schedule. What found no room stays due."""

    spread = True

    def __init__(self, moments: Sequence[float]) -> None:
        self._moments = moments
        self._next = 0

    def take(self, now: float, room: int) -> Sequence[float]:
        first = self._next
        if room <= 0 or first >= len(self._moments) or self._moments[first] > now:
            return ()
        due = bisect_right(self._moments, now, first, min(len(self._moments), first + room))
        self._next = due
        return self._moments[first:due]

    def next_at(self) -> float:
        return self._moments[self._next] if self._next < len(self._moments) else inf

    def waiting(self, now: float) -> int:
        """How many are due and were not taken."""
        return bisect_right(self._moments, now, self._next) - self._next

    def __repr__(self) -> str:
        return f"<OpenPace: {self._next} of {len(self._moments)} taken>"
