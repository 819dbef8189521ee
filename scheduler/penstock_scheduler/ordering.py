"""Answers in order of arrival (`preserve_ordering`): whose turn it is to be answered.

Only the answers wait, not the execution: a request that is done before one that came earlier is released after it.
Requests that were dropped, cancelled or failed are released in their turn too, since they are answered like any
other. Without the setting there is none of this, and every answer goes out at once.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Generic

from penstock_scheduler.values import State, T

_SETTLED = (State.DONE, State.GONE)


class Ordering(Generic[T]):
    """The admitted requests that have not been released."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[T] = deque()

    def admitted(self, tickets: Sequence[T]) -> None:
        """Hear of new tickets, those that were refused among them."""
        self._waiting.extend(ticket for ticket in tickets if ticket.state is State.QUEUED)

    def released(self) -> Iterator[T]:
        """The settled tickets with none before them that is not."""
        while self._waiting and self._waiting[0].state in _SETTLED:
            yield self._waiting.popleft()
