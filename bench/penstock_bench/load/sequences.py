"""Sequences over ModelStreamInfer: each stream is one, and its requests are steps that follow each other.

A stream has `depth` requests in flight, mostly one: the next step goes when an answer has come, as from somebody who
speaks. All streams walk through the same steps, each from a place of its own, over and over. So whoever knows the model
can tell what the first streams of a load must be answered, step by step, and that is compared; a server that mixes up
the states of two sequences is found by it. Of all streams it is looked at that answers come in order.

A sequence whose step has failed is over. The stream then goes on with the next one, which begins anew.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from penstock_bench.load import frames
from penstock_bench.load.channel import ID_DIGITS, Variant
from penstock_bench.load.headers import Blocks
from penstock_bench.load.ledger import Ledger
from penstock_bench.load.streams import OpenStream, StreamChannel, answered_id
from penstock_proto.open_inference_pb2 import ModelInferRequest, ModelStreamInferResponse

_APART = 37
"""Steps between the places of two streams: a prime, so that no two of many streams are at the same one."""
_TOLERANCE = 1e-4
"""Of a value that comes out of hundreds of steps, each computed in a batch of another size."""


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """What all streams of a load send, and what the first ones must hear."""

    lead: bytes
    """A message up to the digits of its id, without the five bytes of its length."""
    bodies: Sequence[bytes]
    """For each step what stands after the parameters."""
    named: bool
    """Whether requests carry the id of their sequence."""
    expected: Sequence[Sequence[float]] = ()
    """By the stream's number: the first value of each answer, as far as it is known."""

    def __repr__(self) -> str:
        return f"<Script of {len(self.bodies)} steps, {len(self.expected)} streams are known>"


def first_step(number: int, steps: int) -> int:
    """Where the stream of this number begins."""
    return number * _APART % steps


class _Sequence:
    """One sequence, on its stream."""

    __slots__ = ("at", "expected", "first", "heard", "next")

    def __init__(self, script: Script, number: int, id: int) -> None:
        self.at = first_step(number, len(script.bodies))
        self.expected: Sequence[float] = script.expected[number] if number < len(script.expected) else ()
        self.heard = 0
        self.first = _begin(script, id, True)
        """The beginning of a message: once that which starts the sequence, then that of all others."""
        self.next = _begin(script, id, False)


Begin = tuple[bytes, bytes, int]
"""What stands before the id and after it, and how many bytes both are with the id."""


def _begin(script: Script, id: int, start: bool) -> Begin:
    request = ModelInferRequest()
    if script.named:  # as Triton's client writes them
        request.parameters["sequence_id"].int64_param = id
        request.parameters["sequence_start"].bool_param = start
        request.parameters["sequence_end"].bool_param = False
    parameters = request.SerializeToString(deterministic=True)
    return script.lead, parameters, len(script.lead) + ID_DIGITS + len(parameters)


class SequenceChannel(StreamChannel):
    """One connection with some streams, each a sequence. `numbers` are the streams', over all connections."""

    def __init__(
        self,
        ledger: Ledger,
        limit: int,
        blocks: Callable[[int], Sequence[Blocks]],
        ids: Iterator[int],
        streams: int,
        script: Script,
        numbers: Iterator[int],
    ) -> None:
        super().__init__(ledger, limit, blocks, ids, streams, own_streams=False)
        self._script = script
        self._numbers = numbers
        self._depth = max(1, limit // streams)
        self._sequences: dict[int, _Sequence] = {}
        """By the stream's id."""
        self._free: deque[int] = deque()
        """Streams that may send; one that may send several times stands here as often."""

    def __repr__(self) -> str:
        return f"<SequenceChannel: {len(self._sequences)} streams, {self._in_flight} of {self._limit} in flight>"

    def room(self) -> int:
        if not self._has_way():
            return 0
        if not self._sequences:
            return min(self._count, self._streams_allowed) * self._depth
        return len(self._free)

    def start(self, due: float, variant: Variant, checked: bool) -> None:
        """The next step of a stream that has room. Which one that is, is the stream's to know: `variant` is none."""
        if not self._sequences:
            self._open_all()
        number = self._free.popleft()
        stream, sequence = self._streams[number], self._sequences[number]
        lead, parameters, size = sequence.first
        sequence.first = sequence.next
        body = self._script.bodies[sequence.at]
        sequence.at += 1
        if sequence.at == len(self._script.bodies):
            sequence.at = 0
        request_id = b"%010d" % next(self._ids)
        self._ledger.send(due)
        stream.pending[request_id] = (due, 0)
        self._in_flight += 1
        size += len(body)
        whole = size + 5
        windows = self._windows
        if whole <= self._frame and whole <= self._window and whole <= windows[number] and not self._blocked:
            self._window -= whole
            windows[number] -= whole
            head = frames.head(whole, frames.DATA, 0)
            stream_id = number.to_bytes(4, "big")
            self.output += (head, stream_id, size.to_bytes(5, "big"), lead, request_id, parameters, body)
        else:
            self._send_message(number, b"".join((size.to_bytes(5, "big"), lead, request_id, parameters)), body, 0)

    def _open_all(self) -> None:
        for stream in self._open(0):
            self._sequences[stream.number] = self._new()
            self._free.extend([stream.number] * self._depth)

    def _new(self) -> _Sequence:
        number = next(self._numbers)
        return _Sequence(self._script, number, number + 1)  # 0 is no id

    def _message(self, stream: OpenStream, message: bytes, now: float) -> None:
        request_id = answered_id(message)
        error = ""
        if request_id is None:  # an error, or fields in an unusual order
            response = ModelStreamInferResponse.FromString(message)
            error, request_id = response.error_message, response.infer_response.id.encode()
        oldest = next(iter(stream.pending), None)
        if oldest is None:
            self._ledger.check("an answer came that nobody waited for")
            return
        due, item = stream.pending.pop(oldest)
        self._in_flight -= 1
        self._free.append(stream.number)
        if request_id != oldest and not (error and not request_id):
            self._ledger.check(f"the answer to {request_id.decode()} came, and that to {oldest.decode()} was due")
        sequence = self._sequences[stream.number]
        if error:
            self._ledger.fail(due, "STREAM_ERROR", error)
            self._sequences[stream.number] = self._new()
            return
        self._ledger.answer(due, item, now)
        if sequence.heard < len(sequence.expected):
            self._ledger.check(_wrong(message, sequence.expected[sequence.heard], sequence.heard))
            sequence.heard += 1

    def _ended(self, stream: int, status: str, words: str, now: float) -> None:
        super()._ended(stream, status, words, now)
        if self._sequences.pop(stream, None) is not None:
            self._free = deque(each for each in self._free if each != stream)


def _wrong(message: bytes, expected: float, step: int) -> str:
    """What is wrong with the answer to a step; empty: nothing."""
    raw = ModelStreamInferResponse.FromString(message).infer_response.raw_output_contents
    if not raw or len(raw[0]) < 4:
        return f"the answer to step {step} has no value"
    value = float(np.frombuffer(raw[0], "<f4", 1)[0])
    if abs(value - expected) <= _TOLERANCE:
        return ""
    return f"step {step} of a sequence was answered {value:.6f}, and {expected:.6f} is right"
