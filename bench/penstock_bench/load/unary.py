"""Unary calls over one HTTP/2 connection.

A call is a HEADERS frame and a DATA frame that were made before the run; its stream, its id and the digits of its
timeout are filled in. What does not fit one frame or the windows goes the slower way of `Http2Connection`.
"""

from collections.abc import Callable, Iterator, Sequence

from penstock_bench.load import frames
from penstock_bench.load.channel import Variant
from penstock_bench.load.headers import Blocks
from penstock_bench.load.http2 import Http2Connection
from penstock_bench.load.ledger import Ledger

_LAST_STREAM = 2**31 - 3


class UnaryChannel(Http2Connection):
    """One connection. `blocks` makes the header blocks of each item of the mix for a size of the header table."""

    def __init__(
        self,
        ledger: Ledger,
        limit: int,
        blocks: Callable[[int], Sequence[Blocks]],
        ids: Iterator[int],
        timeouts: Iterator[bytes] | None = None,
    ) -> None:
        super().__init__(ledger, limit)
        self._make_blocks = blocks
        self._blocks: Sequence[Blocks] = ()
        self._heads: list[list[bytes]] = []
        """The heads of the HEADERS frames, by item and position in the cycle."""
        self._position = 0
        self._ids = ids
        self._timeouts = timeouts
        self._pending: dict[int, tuple[float, int]] = {}
        """By stream: when the call was due, and its item."""
        self._checked: dict[int, tuple[Variant, bytes]] = {}
        """Of the calls whose answers are looked at: what was asked, and its id."""

    def __repr__(self) -> str:
        return f"<UnaryChannel: {len(self._pending)} of {self._limit} in flight, closed '{self.closed}'>"

    @property
    def in_flight(self) -> int:
        return len(self._pending)

    def room(self) -> int:
        if not self._has_way():
            return 0
        return min(self._limit, self._streams_allowed) - len(self._pending)

    def start(self, due: float, variant: Variant, checked: bool) -> None:
        if not self._blocks:
            self._prepare()
        stream, item = self._next_stream, variant.item
        self._next_stream = stream + 2
        if stream >= _LAST_STREAM:
            self.closed = "all stream ids of the connection are used"
        self._ledger.send(due)
        self._pending[stream] = (due, item)
        number = stream.to_bytes(4, "big")
        request_id = b"%010d" % next(self._ids)
        if checked:
            self._checked[stream] = (variant, request_id)
            self._collecting[stream] = []
        blocks, position = self._blocks[item], self._position
        self._position = blocks.following(position)
        output = self.output
        output += (self._heads[item][position], number, blocks.cycle[position])
        if self._timeouts is not None:
            output.append(next(self._timeouts))
        size = variant.size
        if size <= self._frame and size <= self._window and size <= self._initial_window and not self._blocked:
            self._window -= size
            output += (variant.frame_head, number, variant.lead, request_id, variant.body)
        else:
            self._send_message(stream, variant.lead + request_id, variant.body, frames.END_STREAM)

    def _prepare(self) -> None:
        digits = 0 if self._timeouts is None else len(next(self._timeouts))
        self._blocks = self._make_blocks(self.table_size)
        self._heads = [
            [frames.head(len(block) + digits, frames.HEADERS, frames.END_HEADERS) for block in each.cycle]
            for each in self._blocks
        ]

    def finish(self) -> None:
        """Calls end by themselves."""

    def _open_streams(self) -> Sequence[int]:
        return list(self._pending)

    def _data(self, stream: int, payload: bytes, now: float) -> None:
        self._collecting[stream].append(payload)

    def _ended(self, stream: int, status: str, words: str, now: float) -> None:
        pending = self._pending.pop(stream, None)
        if pending is None:
            return
        if self._windows:
            self._forget(stream)
        if status == "OK":
            self._ledger.answer(*pending, now)
        else:
            self._ledger.fail(pending[0], status or "UNKNOWN", words)
        if stream in self._checked:
            variant, request_id = self._checked.pop(stream)
            payload = b"".join(self._collecting.pop(stream))
            if status == "OK":
                self._ledger.check(wrong_with(payload, variant, request_id))


def wrong_with(payload: bytes, variant: Variant, request_id: bytes) -> str:
    """What is wrong with the data of an answer: one message of gRPC's framing, and what is in it."""
    if len(payload) < 5 or int.from_bytes(payload[1:5], "big") != len(payload) - 5:
        return "the answer is not exactly one message"
    if payload[0]:
        return "the answer is compressed, which was not asked for"
    return variant.judge.verdict(payload[5:], request_id.decode())
