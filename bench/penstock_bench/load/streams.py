"""Bidirectional streams (ModelStreamInfer) over one HTTP/2 connection.

Streams are opened once and carry requests one after the other, `limit` of them in flight over all streams of the
connection. Answers come in any order, so they are told apart by the request's id, which stands at the beginning of an
answer and is found without parsing the rest. An answer without an id, as for an error, is that of the oldest request of
its stream. A model that answers a request several times (decoupled) is measured to its first answer.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from penstock_bench.load import frames
from penstock_bench.load.channel import Variant
from penstock_bench.load.headers import Blocks
from penstock_bench.load.http2 import Http2Connection
from penstock_bench.load.ledger import Ledger
from penstock_proto.open_inference_pb2 import ModelStreamInferResponse

_BYTES = 0x7F  # of a tag and a length that are one byte each


@dataclass(slots=True, eq=False)
class OpenStream:
    number: int
    item: int
    pending: dict[bytes, tuple[float, int]] = field(default_factory=dict[bytes, tuple[float, int]])
    """By the request's id: when it was due, and its item."""
    rest: bytes = b""
    """The beginning of a message."""
    received: int = 0
    """Bytes of the stream's window since it was last given back."""


class StreamChannel(Http2Connection):
    """One connection with some open streams. A stream carries requests of one item, since it has its metadata."""

    def __init__(
        self,
        ledger: Ledger,
        limit: int,
        blocks: Callable[[int], Sequence[Blocks]],
        ids: Iterator[int],
        streams: int,
        own_streams: bool,
    ) -> None:
        super().__init__(ledger, limit)
        self._make_blocks = blocks
        self._blocks: Sequence[Blocks] = ()
        self._position = 0
        self._ids = ids
        self._count = streams
        self._own_streams = own_streams
        """Whether items differ in metadata, and so need streams of their own."""
        self._streams: dict[int, OpenStream] = {}
        self._of_item: dict[int, list[OpenStream]] = {}
        self._turn = 0
        self._in_flight: int = 0
        self._checked: dict[bytes, Variant] = {}

    def __repr__(self) -> str:
        return f"<StreamChannel: {len(self._streams)} streams, {self._in_flight} of {self._limit} in flight>"

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def room(self) -> int:
        return self._limit - self._in_flight if self._has_way() else 0

    def start(self, due: float, variant: Variant, checked: bool) -> None:
        key = variant.item if self._own_streams else 0
        streams = self._of_item.get(key) or self._open(key)
        self._turn += 1
        stream = streams[self._turn % len(streams)]
        request_id = b"%010d" % next(self._ids)
        self._ledger.send(due)
        stream.pending[request_id] = (due, variant.item)
        self._in_flight += 1
        if checked:
            self._checked[request_id] = variant
        size, windows = variant.size, self._windows
        if size <= self._frame and size <= self._window and size <= windows[stream.number] and not self._blocked:
            self._window -= size
            windows[stream.number] -= size
            head = frames.head(size, frames.DATA, 0)
            self.output += (head, stream.number.to_bytes(4, "big"), variant.lead, request_id, variant.body)
        else:
            self._send_message(stream.number, variant.lead + request_id, variant.body, 0)

    def _open(self, key: int) -> list[OpenStream]:
        if not self._blocks:
            self._blocks = self._make_blocks(self.table_size)
        opened: list[OpenStream] = []
        for _ in range(min(self._count, self._streams_allowed)):
            stream = OpenStream(self._next_stream, key)
            self._next_stream += 2
            block = self._blocks[key].cycle[self._position]
            self._position = self._blocks[key].following(self._position)
            self.output.append(frames.frame(frames.HEADERS, frames.END_HEADERS, stream.number, block))
            self._streams[stream.number] = stream
            self._windows[stream.number] = self._initial_window
            self._collecting[stream.number] = []  # all their data matters
            opened.append(stream)
        self._of_item[key] = opened
        return opened

    def finish(self) -> None:
        """Half-close: the server ends its streams when it has answered what is in flight."""
        if not self.closed:
            for number in self._streams:
                self.output.append(frames.frame(frames.DATA, frames.END_STREAM, number))

    def _open_streams(self) -> Sequence[int]:
        return list(self._streams)

    def _data(self, stream: int, payload: bytes, now: float) -> None:
        one = self._streams[stream]
        one.received += len(payload)
        if one.received > frames.LARGEST_WINDOW // 2:
            self.output.append(frames.window_update(stream, one.received))
            one.received = 0
        data = one.rest + payload if one.rest else payload
        position, end = 0, len(data)
        while position + 5 <= end:
            stop = position + 5 + int.from_bytes(data[position + 1 : position + 5], "big")
            if stop > end:
                break
            self._message(one, data[position + 5 : stop], now)
            position = stop
        one.rest = data[position:]

    def _message(self, stream: OpenStream, message: bytes, now: float) -> None:
        request_id = answered_id(message)
        if request_id is None:  # an error, or fields in an unusual order
            response = ModelStreamInferResponse.FromString(message)
            error, request_id = response.error_message, response.infer_response.id.encode()
            pending = stream.pending.pop(request_id or next(iter(stream.pending), b""), None)
            if pending is not None:
                self._in_flight -= 1
                self._checked.pop(request_id, None)
                if error:
                    self._ledger.fail(pending[0], "STREAM_ERROR", error)
                else:
                    self._ledger.answer(*pending, now)
            return
        pending = stream.pending.pop(request_id, None)
        if pending is None:  # a further answer of a decoupled model
            return
        self._in_flight -= 1
        self._ledger.answer(*pending, now)
        if request_id in self._checked:
            variant = self._checked.pop(request_id)
            answer = ModelStreamInferResponse.FromString(message).infer_response.SerializeToString()
            self._ledger.check(variant.judge.verdict(answer, request_id.decode()))

    def _ended(self, stream: int, status: str, words: str, now: float) -> None:
        one = self._streams.pop(stream, None)
        if one is None:
            return
        self._forget(stream)
        self._collecting.pop(stream, None)
        self._of_item.pop(one.item, None)  # the next request opens others
        for due, _ in one.pending.values():
            self._ledger.fail(due, "UNKNOWN" if status in ("OK", "") else status, words or "the stream ended")
        self._in_flight -= len(one.pending)


def answered_id(message: bytes) -> bytes | None:
    """The id in a ModelStreamInferResponse that is an answer; None if that takes a parser to find.

    Field 2 is the answer, in which the fields 1 to 3 are the model's name, its version and the id: three lengths are
    stepped over.
    """
    position, end = 1, len(message)
    if end < 2 or message[0] != 0x12:
        return None
    while position < end and message[position] > _BYTES:  # the answer's own length
        position += 1
    position += 1
    while position + 1 < end and (length := message[position + 1]) <= _BYTES:
        tag = message[position]
        if tag == 0x1A:
            return message[position + 2 : position + 2 + length]
        if tag not in (0x0A, 0x12):
            return None
        position += 2 + length
    return None
