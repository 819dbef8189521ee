"""Streams that are sequences, as bytes: against the `h2` library as the server."""

import struct
from collections.abc import Sequence
from itertools import count

import pytest

from penstock_bench.load.channel import Variant
from penstock_bench.load.ledger import Ledger
from penstock_bench.load.sequences import Script, SequenceChannel, first_step
from penstock_proto.open_inference_pb2 import ModelInferRequest
from tests.bench.load.h2_server import HEADERS, OK, Server, header_blocks, said

STEPS = 50
ID_TAG = b"\x1a\x0a"


class Nobody:
    """Streams know their steps and what is right: no judge is asked."""

    def verdict(self, message: bytes, request_id: str) -> str:
        raise AssertionError("nobody asks")


NONE = Variant(0, b"", b"", Nobody())


def body_of(step: int) -> bytes:
    return ModelInferRequest(raw_input_contents=[b"%03d" % step]).SerializeToString()


def script(*, named: bool = True, expected: Sequence[Sequence[float]] = ()) -> Script:
    lead = ModelInferRequest(model_name="m").SerializeToString() + ID_TAG
    return Script(lead, [body_of(step) for step in range(STEPS)], named, expected)


class House:
    """A channel with some streams, and the server at its other end."""

    def __init__(self, ledger: Ledger, script: Script, streams: int, depth: int = 1) -> None:
        self.ledger = ledger
        self.channel = SequenceChannel(ledger, streams * depth, header_blocks, count(), streams, script, count())
        self.server = Server(self.channel)
        self.responded = set[int]()

    def fill(self) -> int:
        """Begin all that has room."""
        begun = 0
        while self.channel.room():
            self.channel.start(1.0, NONE, checked=False)
            begun += 1
        self.server.exchange()
        return begun

    def requests(self, stream: int) -> list[ModelInferRequest]:
        found: list[ModelInferRequest] = []
        data = self.server.body(stream)
        while data:
            size = int.from_bytes(data[1:5], "big")
            found.append(ModelInferRequest.FromString(data[5 : 5 + size]))
            data = data[5 + size :]
        return found

    def answer(self, stream: int, value: float = 0.0, request_id: str | None = None, error: str = "") -> None:
        """The last request of a stream, or another one."""
        if stream not in self.responded:
            self.responded.add(stream)
            self.server.h2.send_headers(stream, HEADERS)
        name = self.requests(stream)[-1].id if request_id is None else request_id
        self.server.h2.send_data(stream, said(name, error, struct.pack("<f", value)))
        self.server.exchange()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(0.0, 100.0, [""])


def test_each_stream_is_a_sequence_of_its_own(ledger: Ledger) -> None:
    """With an id, a START on its first request alone, and steps in order from a place of its own."""
    house = House(ledger, script(), streams=3)
    for _ in range(STEPS + 1):
        assert house.fill() == 3
        for stream in (1, 3, 5):
            house.answer(stream)
    assert (ledger.answers, ledger.failures, ledger.wrong) == (3 * (STEPS + 1), 0, 0)
    for number, stream in enumerate((1, 3, 5)):
        requests = house.requests(stream)
        assert [one.parameters["sequence_id"].int64_param for one in requests] == [number + 1] * (STEPS + 1)
        assert [one.parameters["sequence_start"].bool_param for one in requests] == [True] + [False] * STEPS
        steps = [int(one.raw_input_contents[0]) for one in requests]
        assert steps == [(first_step(number, STEPS) + step) % STEPS for step in range(STEPS + 1)]
    assert len({first_step(number, STEPS) for number in range(STEPS)}) == STEPS


def test_a_step_waits_for_the_answer_to_the_one_before(ledger: Ledger) -> None:
    """Or to that as many before as may be in flight: only the stream that was answered goes on."""
    house = House(ledger, script(), streams=2, depth=2)
    assert house.fill() == 4
    assert [len(house.requests(stream)) for stream in (1, 3)] == [2, 2]
    house.answer(3, request_id=house.requests(3)[0].id)
    assert house.channel.in_flight == 3
    assert house.fill() == 1
    assert [len(house.requests(stream)) for stream in (1, 3)] == [2, 3]


def test_streams_without_names_send_no_parameters(ledger: Ledger) -> None:
    """A client that knows nothing of sequences just opens a stream."""
    house = House(ledger, script(named=False), streams=1)
    house.fill()
    assert not house.requests(1)[0].parameters


def test_the_first_streams_answers_are_compared(ledger: Ledger) -> None:
    """Step by step, as far as it is known what is right; a value that belongs to another sequence is wrong."""
    house = House(ledger, script(expected=[[0.25, 0.5]]), streams=2)
    for value in (0.25, 0.75, 99.0):
        house.fill()
        house.answer(1, value)
        house.answer(3, 99.0)
    assert (ledger.answers, ledger.checked, ledger.wrong) == (6, 2, 1)
    assert ledger.examples["wrong"] == "step 1 of a sequence was answered 0.750000, and 0.500000 is right"


def test_answers_must_come_in_order(ledger: Ledger) -> None:
    """Of all streams: whoever keeps a state must not be answered out of turn."""
    house = House(ledger, script(), streams=1, depth=2)
    house.fill()
    house.answer(1)
    assert ledger.wrong == 1
    assert ledger.examples["wrong"] == "the answer to 0000000001 came, and that to 0000000000 was due"


@pytest.mark.parametrize("request_id", ["0000000000", ""])
def test_after_a_failed_step_a_new_sequence_begins(ledger: Ledger, request_id: str) -> None:
    """What the server remembers is not what it should: the stream goes on with another id and a START."""
    house = House(ledger, script(expected=[[0.5, 0.5]]), streams=1)
    house.fill()
    house.answer(1, request_id=request_id, error="no such sequence")
    assert dict(ledger.failed) == {"STREAM_ERROR": 1}
    assert house.fill() == 1
    first, second = house.requests(1)
    assert first.parameters["sequence_id"].int64_param != second.parameters["sequence_id"].int64_param
    assert second.parameters["sequence_start"].bool_param
    house.answer(1, 99.0)
    assert (ledger.answers, ledger.checked) == (1, 0)


def test_a_stream_that_ends_takes_no_others_with_it(ledger: Ledger) -> None:
    """Its step has failed, the other goes on; once none is left, all are opened again."""
    house = House(ledger, script(), streams=2)
    house.fill()
    house.server.h2.send_headers(1, [*HEADERS, ("grpc-status", "14"), ("grpc-message", "gone")], end_stream=True)
    house.server.exchange()
    assert dict(ledger.failed) == {"UNAVAILABLE": 1}
    house.answer(3)
    assert house.fill() == 1
    house.server.h2.send_headers(3, OK, end_stream=True)
    house.server.exchange()
    assert house.channel.in_flight == 0
    assert house.fill() == 2
    assert [len(house.requests(stream)) for stream in (5, 7)] == [1, 1]
