"""What a peer may cost: the bounds of a connection, each with its default.

Two kinds. *Sizes* (streams, header bytes, queued control frames) are compared where they grow. *Rates* are token
buckets, one a kind of frame that costs the sender less than the receiver: a frame takes a token, and tokens come back
with time and with honest work, since a busy client rightly sends more WINDOW_UPDATEs and PINGs than an idle one. A
bucket is told the time, and only looks at it when it has run out, so a well-behaved frame costs a subtraction.

Whoever breaks a bound is answered GOAWAY with ENHANCE_YOUR_CALM; a stream too many is refused (REFUSED_STREAM), which
promises the client that a retry is safe.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from penstock_server.http2.errors import ConnectionFault, ErrorCode


@dataclass(frozen=True, slots=True)
class Rate:
    """What a bucket holds and how it fills."""

    burst: int
    """Frames that may come at once."""
    per_second: float
    per_work: float = 0.0
    """Tokens that one unit of work gives back: a request, or 16 KiB of data."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one connection. The rates are far above what clients do and far below what hurts."""

    concurrent_streams: int = 256
    header_list_bytes: int = 16 * 1024
    """A header list as RFC 9113, section 6.5.2 counts it: names, values, and 32 bytes a field."""
    header_block_bytes: int = 64 * 1024
    """A header block, compressed, over all its frames; also what a list that is too long may have and only end its
    stream, where the client can read why."""
    continuations: int = 8
    """CONTINUATION frames of one header block."""
    control_output_bytes: int = 64 * 1024
    """Answers to PING, SETTINGS and faulty streams that the peer has not fetched."""
    resets: Rate = field(default=Rate(burst=1000, per_second=200))
    """Streams that end by a reset, whoever sent it, if the peer caused it (CVE-2023-44487, CVE-2025-8671)."""
    settings: Rate = field(default=Rate(burst=100, per_second=10))
    pings: Rate = field(default=Rate(burst=1000, per_second=100, per_work=2))
    window_updates: Rate = field(default=Rate(burst=10_000, per_second=1000, per_work=8))
    empty_data: Rate = field(default=Rate(burst=1000, per_second=100))
    """DATA without payload that does not end its stream."""
    ignored: Rate = field(default=Rate(burst=1000, per_second=100, per_work=2))
    """Frames that say nothing: PRIORITY, unknown types, and those on streams that are over."""


class Bucket:
    """The tokens of one rate."""

    __slots__ = ("_burst", "_filled_at", "_per_second", "_per_work", "_seen_work", "_so_far", "name", "tokens")

    def __init__(self, name: str, rate: Rate, so_far: Callable[[], tuple[float, int]]) -> None:
        self.name = name
        self.tokens = float(rate.burst)
        self._burst = float(rate.burst)
        self._per_second = rate.per_second
        self._per_work = rate.per_work
        self._so_far = so_far
        """The time, and all the work that the connection has done."""
        self._filled_at, self._seen_work = so_far()

    def __repr__(self) -> str:
        return f"<Bucket {self.name}: {self.tokens:.0f} of {self._burst:.0f}>"

    def take(self) -> None:
        """Take a token. ConnectionFault when there is none."""
        self.tokens -= 1
        if self.tokens < 0:
            self._fill()

    def _fill(self) -> None:
        now, work = self._so_far()
        earned = (now - self._filled_at) * self._per_second + (work - self._seen_work) * self._per_work
        self._filled_at, self._seen_work = now, work
        self.tokens = min(self._burst, self.tokens + 1 + earned) - 1  # the frame's own was taken already
        if self.tokens < 0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many frames: {self.name}")
