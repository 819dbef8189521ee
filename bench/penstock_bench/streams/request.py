"""What was asked for on the command line, checked for form only: no package beside the standard library is needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SERVERS = ("penstock", "penstock-own", "penstock-single", "triton")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of `penstock bench streams`. Times are seconds."""

    servers: Sequence[str]
    """The first is what the others are compared with."""
    streams: int
    connections: int
    depth: int
    """Frames in flight on each stream."""
    calls: bool
    """Whether calls are compared with messages, too."""
    seconds: float
    warmup: float
    rounds: int
    processes: int
    seed: int
    transport: str
    results: Path
    work: Path
    typed: Sequence[str]
    """The command's words after `penstock bench`."""

    def __post_init__(self) -> None:
        """ValueError with a sentence."""
        if not self.servers:
            raise ValueError(f"name at least one server: {', '.join(SERVERS)}")
        for name in self.servers:
            if name not in SERVERS:
                raise ValueError(f"there is no server '{name}': there are {', '.join(SERVERS)}")
        if self.streams % self.connections:
            raise ValueError(f"{self.streams} streams cannot be shared evenly by {self.connections} connections")
        if not 0.1 <= self.seconds <= 3600:
            raise ValueError("a load is measured for 0.1 s to an hour")
        if not 0 <= self.warmup <= 600:
            raise ValueError("a warm-up is at most ten minutes")
