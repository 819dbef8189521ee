"""What a peer is to those who measure it.

A peer is prepared once (its environment is made), and then started and stopped for each turn. All of it is synchronous:
one server runs at a time, and everybody waits for it. Whatever goes wrong with a peer is a `PeerFailed` with one
sentence, which ends up in the tables: a peer that cannot be measured is reported, not left out.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from penstock_bench.peers.bodies import Bodies
from penstock_bench.peers.models import ModelSet

ProtocolName = Literal["gRPC", "HTTP/1.1"]


class PeerFailed(Exception):
    """A peer cannot be installed, started or believed. One sentence."""


@dataclass(frozen=True, slots=True)
class RunningPeer:
    """A server that answers."""

    host: str
    port: int
    pids: tuple[int, ...]
    """The processes whose CPU, with that of all their children, is the server's."""
    remark: str = ""
    """What a reader of its numbers must know."""
    bodies: Bodies | None = None
    """Of an HTTP server: how requests are written. None: it speaks the V2 protocol over gRPC."""
    metrics: str = ""
    """Where Penstock's own metrics are; empty: this server has none of them."""


class Peer(Protocol):
    """A server that can be measured."""

    @property
    def name(self) -> str:
        """As it is typed: `triton`."""
        ...

    @property
    def title(self) -> str:
        """As it stands in tables: `Triton 2.51`."""
        ...

    @property
    def protocol(self) -> ProtocolName: ...

    @property
    def remark(self) -> str: ...

    @property
    def default(self) -> bool:
        """Whether it is measured without `--all`; then its environment is kept for the next time."""
        ...

    def prepare(self) -> None:
        """Make its environment, or find it made. Raises PeerFailed."""
        ...

    def start(self, models: ModelSet) -> RunningPeer:
        """Serve these models, and return once it is ready. Raises PeerFailed, and then nothing runs."""
        ...

    def stop(self) -> None:
        """End whatever of it runs, and remove what it wrote. May be called at any time."""
        ...

    def remove(self) -> None:
        """Delete its environment."""
        ...
