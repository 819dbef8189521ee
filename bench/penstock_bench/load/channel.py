"""What the engine knows of a connection: bytes in, bytes out, no socket and no clock.

A channel turns requests into bytes, and bytes into answers that it notes in the ledger. What is to be written gathers
in `output` until the engine takes it, once for all requests of a pass.
"""

from dataclasses import dataclass
from typing import Protocol

from penstock_bench.load.answers import Judge


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """A request, ready but for its id.

    Its message is `lead`, ten digits of id, and `body`. Over HTTP/1.1 there is no id: `body` is the whole request.
    """

    item: int
    """Its number in the mix."""
    lead: bytes
    body: bytes
    judge: Judge
    """Knows the right answer."""
    size: int = 0
    """Bytes of the message, with gRPC's five before it."""
    frame_head: bytes = b""
    """The head of the one DATA frame that the message is, where it fits one."""


ID_DIGITS = 10
"""Of a request's id: decimal, with leading zeros, so that all messages of a variant have one length."""


class Channel(Protocol):
    """One connection."""

    output: list[bytes | memoryview]
    """What is to be written. The engine takes it and leaves an empty list."""
    backlog: int
    """Bytes that the engine could not write yet; it says so here."""
    ready: bool
    """Whether requests may begin."""
    closed: str
    """Why nothing more can come of this connection; empty while something can."""

    @property
    def in_flight(self) -> int: ...

    def room(self) -> int:
        """How many more requests may begin now."""
        ...

    def start(self, due: float, variant: Variant, checked: bool) -> None:
        """Begin a request. Only with room."""
        ...

    def receive(self, data: bytes, now: float) -> None:
        """Take what was read. Notes answers; may close."""
        ...

    def lose(self, now: float, reason: str) -> None:
        """The connection is gone: what was in flight has failed."""
        ...

    def finish(self) -> None:
        """No more requests begin: end what the server should see ended."""
        ...


BACKLOG = 4 << 20
"""Bytes not yet written over which no further request begins: an open loop would pile them up in memory."""
