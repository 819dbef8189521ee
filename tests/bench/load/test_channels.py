"""Channels as bytes: against the `h2` library as the server, and against answers cut at every place."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise
from typing import Any

import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, PingAckReceived, RequestReceived, StreamEnded
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from penstock_bench.load import frames
from penstock_bench.load.channel import Variant
from penstock_bench.load.headers import blocks, request_fields
from penstock_bench.load.http1 import Http1Channel
from penstock_bench.load.http2 import STATUSES
from penstock_bench.load.ledger import Ledger
from penstock_bench.load.streams import StreamChannel, answered_id
from penstock_bench.load.unary import UnaryChannel
from penstock_proto.open_inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from tests.bench.load.h2_server import HEADERS, OK, Server, header_blocks, said


class Seen:
    """A judge that notes what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[bytes, str]] = []

    def verdict(self, message: bytes, request_id: str) -> str:
        self.shown.append((message, request_id))
        return "" if message else "empty"


def variant(body: bytes = b"body", end: int = frames.END_STREAM) -> Variant:
    size = 3 + 10 + len(body)
    return Variant(0, b"led", body, Seen(), size, frames.head(size, frames.DATA, end))


def unary(ledger: Ledger, limit: int = 8, timeouts: Iterator[bytes] | None = None) -> UnaryChannel:
    def made(size: int) -> Sequence[Any]:
        return [blocks(request_fields("/p", "h"), timeout_digits=0 if timeouts is None else 5, table_size=size)]

    return UnaryChannel(ledger, limit, made, count(), timeouts)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(0.0, 100.0, [""])


def test_calls_are_understood(ledger: Ledger) -> None:
    """The server sees whole calls with the fields of gRPC, each with an id and a timeout of its own."""
    channel = unary(ledger, timeouts=iter([b"1000m", *(b"%04dm" % n for n in range(1, 300))]))
    server = Server(channel)
    for number in range(200):
        channel.start(1.0, variant(), checked=False)
        stream = 2 * number + 1
        server.exchange()
        server.answer(stream)
        server.exchange()
        assert server.body(stream) == b"led%010dbody" % number
    sent = [{str(name): str(value) for name, value in event.headers or ()} for event in server.all(RequestReceived)]
    assert [one["grpc-timeout"] for one in sent] == [f"{n:04d}m" for n in range(1, 201)]
    assert {one[":path"] for one in sent} == {"/p"}
    assert len(server.all(StreamEnded)) == ledger.answers == 200
    assert channel.in_flight == 0


def test_answers_are_checked(ledger: Ledger) -> None:
    """The judge is shown the message without its framing, with the id that was sent."""
    channel, one = unary(ledger), variant()
    server = Server(channel)
    channel.start(1.0, one, checked=True)
    server.exchange()
    server.answer(1)
    server.exchange()
    assert isinstance(one.judge, Seen)
    assert one.judge.shown == [(b"right", "0000000000")]
    assert (ledger.checked, ledger.wrong) == (1, 0)


@pytest.mark.parametrize("data", [b"", b"\0\0\0\0", b"\0\0\0\0\2a", b"\1\0\0\0\1a", b"\0\0\0\0\1a\0\0\0\0\1a"])
def test_an_answer_is_one_message(ledger: Ledger, data: bytes) -> None:
    """None, half of one, a compressed one, and two are wrong."""
    channel = unary(ledger)
    server = Server(channel)
    channel.start(1.0, variant(), checked=True)
    server.exchange()
    server.h2.send_headers(1, HEADERS)
    server.h2.send_data(1, data)
    server.h2.send_headers(1, OK, end_stream=True)
    server.exchange()
    assert (ledger.checked, ledger.wrong) == (1, 1)


def test_large_requests_keep_to_the_windows(ledger: Ledger) -> None:
    """h2 would end the connection over a byte too many; what arrives is whole, and in frames of the allowed size."""
    channel, body = unary(ledger), bytes(range(256)) * 800
    server = Server(channel, {SettingCodes.INITIAL_WINDOW_SIZE: 30_000})
    for _ in range(3):
        channel.start(1.0, variant(body), checked=False)
    given_back = 0
    for _ in range(100):
        server.exchange()
        arrived = server.all(DataReceived)
        for event in arrived[given_back:]:
            server.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        given_back = len(arrived)
    assert [server.body(stream) for stream in (1, 3, 5)] == [b"led%010d" % number + body for number in range(3)]


def test_a_window_that_shrinks_below_nothing_is_waited_for(ledger: Ledger) -> None:
    """Settings may make a stream's window negative: nothing is sent until it has grown above nothing again."""
    channel = unary(ledger)
    server = Server(channel, {SettingCodes.INITIAL_WINDOW_SIZE: 20_000})
    channel.start(1.0, variant(b"x" * 50_000), checked=False)
    server.exchange()
    server.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1_000})
    channel.receive(server.h2.data_to_send(), 2.0)
    server.exchange()
    assert len(server.body(1)) == 20_000
    server.h2.increment_flow_control_window(10_000, 1)
    server.exchange()
    server.exchange()
    assert len(server.body(1)) == 20_000
    server.h2.increment_flow_control_window(21_000, 1)
    server.exchange()
    server.exchange()
    assert len(server.body(1)) == 32_000


def test_the_server_limits_the_streams(ledger: Ledger) -> None:
    """Room is what SETTINGS_MAX_CONCURRENT_STREAMS leaves of the limit."""
    channel = unary(ledger, limit=8)
    assert channel.room() == 0  # nothing before the server's settings
    server = Server(channel, {SettingCodes.MAX_CONCURRENT_STREAMS: 3})
    assert channel.room() == 3
    channel.start(1.0, variant(), checked=False)
    assert channel.room() == 2
    server.exchange()


def test_pings_and_settings_are_answered(ledger: Ledger) -> None:
    """Servers end connections that do not."""
    channel = unary(ledger)
    server = Server(channel)
    server.h2.ping(b"12345678")
    server.exchange()
    server.exchange()
    assert [event.ping_data for event in server.all(PingAckReceived)] == [b"12345678"]
    assert any(type(event).__name__ == "SettingsAcknowledged" for event in server.events)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda h2: h2.send_headers(1, [*HEADERS, ("grpc-status", "8"), ("grpc-message", "full")], end_stream=True), 8),
        (lambda h2: h2.send_headers(1, [(":status", "503")], end_stream=True), 14),
        (lambda h2: h2.send_headers(1, [*HEADERS, ("grpc-status", "99")], end_stream=True), 2),
        (lambda h2: h2.reset_stream(1, ErrorCodes.REFUSED_STREAM), 14),
        (lambda h2: h2.reset_stream(1, ErrorCodes.CANCEL), 1),
        (lambda h2: h2.reset_stream(1, ErrorCodes.INTERNAL_ERROR), 13),
        (lambda h2: (h2.send_headers(1, HEADERS), h2.send_data(1, b"", end_stream=True)), 13),
    ],
)
def test_failures_have_grpcs_status(ledger: Ledger, end: Callable[[H2Connection], None], status: int) -> None:
    """Whatever way a server has of failing."""
    channel = unary(ledger)
    server = Server(channel)
    channel.start(1.0, variant(), checked=True)
    server.exchange()
    end(server.h2)
    server.exchange()
    assert dict(ledger.failed) == {STATUSES[status]: 1}
    assert (channel.in_flight, ledger.checked) == (0, 0)


def test_headers_in_parts_and_padding(ledger: Ledger) -> None:
    """A block over CONTINUATION frames, a padded DATA frame: rare, and right."""
    channel = unary(ledger)
    server = Server(channel)
    channel.start(1.0, variant(), checked=True)
    server.exchange()
    server.h2.send_headers(1, HEADERS)
    server.h2.send_data(1, b"\0\0\0\0\5right", pad_length=9)
    channel.receive(server.h2.data_to_send(), 2.0)
    block = b"\x00\x0bgrpc-status\x010"
    channel.receive(frames.frame(frames.HEADERS, frames.END_STREAM, 1, block[:5]), 2.0)
    channel.receive(frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[5:]), 2.0)
    assert (ledger.answers, ledger.checked, ledger.wrong) == (1, 1, 0)


def test_a_server_that_goes_away(ledger: Ledger) -> None:
    """Calls up to its last one are still answered, those above have failed, and nothing more begins."""
    channel = unary(ledger)
    server = Server(channel)
    for _ in range(2):
        channel.start(1.0, variant(), checked=False)
    server.exchange()
    channel.receive(frames.frame(frames.GOAWAY, 0, 0, (1).to_bytes(4, "big") + bytes(4) + b"bye"), 2.0)
    assert channel.room() == 0
    assert dict(ledger.failed) == {"UNAVAILABLE": 1}
    server.answer(1)
    channel.receive(server.h2.data_to_send(), 2.0)
    assert (ledger.answers, channel.in_flight) == (1, 0)
    assert "bye" in channel.closed


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1.1"),
        (frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff"), "cannot be read"),
    ],
)
def test_garbage_ends_the_connection(ledger: Ledger, said: bytes, reason: str) -> None:
    """With a reason, and what was in flight has failed."""
    channel = unary(ledger)
    channel.receive(frames.settings({}), 1.0)
    channel.start(1.0, variant(), checked=False)
    channel.receive(said, 2.0)
    assert reason in channel.closed
    assert (channel.in_flight, ledger.failures) == (0, 1)


def answers_of_h2(calls: int) -> bytes:
    """What a server says to some calls, with header blocks that change the table."""
    channel = unary(Ledger(0.0, 9.0, [""]))
    server = Server(channel)
    for number in range(calls):
        channel.start(1.0, variant(), checked=True)
        server.events += server.h2.receive_data(b"".join(channel.output))
        channel.output = []
        server.answer(2 * number + 1, b"m%d" % number, [*OK, ("server-timing", f"{number}")])
    return frames.settings({}) + server.h2.data_to_send()


ANSWERS = answers_of_h2(6)


@given(st.lists(st.integers(0, len(ANSWERS)), max_size=8))
def test_answers_may_come_in_any_pieces(cuts: list[int]) -> None:
    """Wherever a read ends, the same answers are found."""
    ledger = Ledger(0.0, 9.0, [""])
    channel = unary(ledger)
    channel.ready = True
    asked = [variant() for _ in range(6)]
    for one in asked:
        channel.start(1.0, one, checked=True)
    ends = [0, *sorted(cuts), len(ANSWERS)]
    for begin, end in pairwise(ends):
        channel.receive(ANSWERS[begin:end], 2.0)
    assert (ledger.answers, ledger.wrong, channel.in_flight) == (6, 0, 0)
    shown = [one.judge.shown for one in asked if isinstance(one.judge, Seen)]
    assert [messages[0][0] for messages in shown] == [b"m%d" % number for number in range(6)]


# ── streams ───────────────────────────────────────────────────────────────────────────────────────


def streaming(ledger: Ledger, streams: int = 1, limit: int = 8) -> StreamChannel:
    return StreamChannel(ledger, limit, header_blocks, count(), streams, own_streams=False)


def test_a_stream_carries_many_requests(ledger: Ledger) -> None:
    """Answers come in any order, in any pieces; each counts for the request that it is of."""
    channel, one = streaming(ledger), variant(end=0)
    server = Server(channel)
    for due in (1.0, 1.1, 1.2):
        channel.start(due, one, checked=True)
    server.exchange()
    assert len(server.all(RequestReceived)) == 1
    assert server.body(1) == b"".join(b"led%010dbody" % number for number in range(3))
    server.h2.send_headers(1, HEADERS)
    text = said("0000000002") + said("0000000000")
    server.h2.send_data(1, text[:7])
    server.exchange()
    server.h2.send_data(1, text[7:])
    server.exchange()
    assert (channel.in_flight, ledger.answers) == (1, 2)
    assert isinstance(one.judge, Seen)
    assert [request_id for _, request_id in one.judge.shown] == ["0000000002", "0000000000"]
    channel.finish()
    server.exchange()
    server.h2.send_data(1, said("0000000001"))
    server.h2.send_headers(1, OK, end_stream=True)
    server.exchange()
    assert (channel.in_flight, ledger.answers, ledger.failures) == (0, 3, 0)


def test_requests_go_to_the_streams_in_turn(ledger: Ledger) -> None:
    """Each stream of a connection has its share."""
    channel = streaming(ledger, streams=3)
    server = Server(channel)
    for _ in range(6):
        channel.start(1.0, variant(end=0), checked=False)
    server.exchange()
    assert [len(server.body(stream)) for stream in (1, 3, 5)] == [34, 34, 34]


@pytest.mark.parametrize("request_id", ["0000000000", ""])
def test_errors_in_a_stream_count(ledger: Ledger, request_id: str) -> None:
    """With the server's words; without an id it is the oldest request's."""
    channel = streaming(ledger)
    server = Server(channel)
    for _ in range(2):
        channel.start(1.0, variant(end=0), checked=True)
    server.exchange()
    server.h2.send_headers(1, HEADERS)
    server.h2.send_data(1, said(request_id, "no such shape"))
    server.exchange()
    assert (channel.in_flight, dict(ledger.failed)) == (1, {"STREAM_ERROR": 1})
    assert ledger.examples == {"STREAM_ERROR": "no such shape"}


def test_a_stream_that_ends_is_opened_again(ledger: Ledger) -> None:
    """What was in flight on it has failed."""
    channel = streaming(ledger)
    server = Server(channel)
    channel.start(1.0, variant(end=0), checked=False)
    server.exchange()
    server.h2.send_headers(1, [*HEADERS, ("grpc-status", "12"), ("grpc-message", "no streams")], end_stream=True)
    server.exchange()
    assert dict(ledger.failed) == {"UNIMPLEMENTED": 1}
    channel.start(1.0, variant(end=0), checked=False)
    server.exchange()
    assert len(server.all(RequestReceived)) == 2


def test_further_answers_of_a_decoupled_model_are_passed_over(ledger: Ledger) -> None:
    """A request is measured to its first answer."""
    channel = streaming(ledger)
    server = Server(channel)
    channel.start(1.0, variant(end=0), checked=False)
    server.exchange()
    server.h2.send_headers(1, HEADERS)
    server.h2.send_data(1, said("0000000000") * 3)
    server.exchange()
    assert (channel.in_flight, ledger.answers, ledger.failures) == (0, 1, 0)


@given(st.builds(ModelInferResponse, model_name=st.text(max_size=200), model_version=st.text(), id=st.text()))
def test_an_id_is_found_or_left_to_the_parser(response: ModelInferResponse) -> None:
    """Never another one than protobuf would find."""
    message = ModelStreamInferResponse(infer_response=response).SerializeToString()
    assert answered_id(message) in (None, response.id.encode())
    if response.id and len(response.SerializeToString()) < 100:
        assert answered_id(message) == response.id.encode()


@given(st.binary(max_size=40))
def test_any_bytes_may_be_an_answer(message: bytes) -> None:
    """Looking for the id never fails."""
    answered_id(message)


# ── HTTP/1.1 ──────────────────────────────────────────────────────────────────────────────────────

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nri\r\n3;x=y\r\nght\r\n0\r\n\r\n"


@given(st.sampled_from([LENGTH, CHUNKED, b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH]), st.lists(st.integers(0, 90)))
def test_http_answers_may_come_in_any_pieces(text: bytes, cuts: list[int]) -> None:
    """With a length or in chunks."""
    ledger = Ledger(0.0, 9.0, [""])
    channel, one = Http1Channel(ledger), variant()
    channel.start(1.0, one, checked=True)
    ends = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for begin, end in pairwise(ends):
        if end > begin:
            channel.receive(text[begin:end], 2.0)
    assert (ledger.answers, channel.in_flight, channel.closed) == (1, 0, "")
    assert isinstance(one.judge, Seen)
    assert one.judge.shown == [(b"right", "")]


@pytest.mark.parametrize(
    ("text", "failed", "closed"),
    [
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 3\r\n\r\nwhy", {"HTTP 500": 1}, ""),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", {}, "the server closed the connection"),
        (b"SSH-2.0\r\n\r\n", {"UNAVAILABLE": 1}, "the server's answer is no HTTP/1.1"),
    ],
)
def test_http_ends(ledger: Ledger, text: bytes, failed: dict[str, int], closed: str) -> None:
    """Errors count by their status; a server may close."""
    channel = Http1Channel(ledger)
    channel.start(1.0, variant(), checked=False)
    channel.receive(text, 2.0)
    assert (dict(ledger.failed), channel.closed, channel.in_flight) == (failed, closed, 0)


def test_requests_parse(ledger: Ledger) -> None:
    """What a channel sends after its settings is a request that protobuf reads."""
    channel = unary(ledger)
    server = Server(channel)
    lead = ModelInferRequest(model_name="m").SerializeToString() + b"\x1a\x0a"
    channel.start(1.0, Variant(0, lead, b"", Seen(), len(lead) + 10, frames.head(len(lead) + 10, 0, 1)), checked=False)
    server.exchange()
    assert ModelInferRequest.FromString(server.body(1)).id == "0000000000"
