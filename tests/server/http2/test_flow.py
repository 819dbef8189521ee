"""Flow control in both directions, and what waits for it."""

import random
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_server.http2.connection import ConnectionSettings
from penstock_server.http2.errors import ErrorCode
from penstock_server.http2.flow import Outbox, ReceiveWindow
from penstock_server.http2.frames import PREFACE, Flag, FrameType, Setting, settings_frame, window_update
from tests.server.http2.peers import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    Frame,
    Recorder,
    data,
    headers,
    opened,
    parsed,
    request,
    reset,
)

WINDOW = 65_535


def with_window(size: int) -> Recorder:
    """A connection whose peer's streams have this window."""
    server = Recorder()
    server.receive(PREFACE + settings_frame({Setting.INITIAL_WINDOW_SIZE: size}))
    server.written()
    return server


def sent(frames: list[Frame]) -> dict[int, bytes]:
    """The data by stream."""
    result: dict[int, bytes] = {}
    for each in frames:
        if each.kind is FrameType.DATA:
            result[each.stream_id] = result.get(each.stream_id, b"") + each.payload
    return result


# -- receiving ---------------------------------------------------------------------------------------------------------


def test_credit_comes_in_halves() -> None:
    """Consumed bytes are announced when they are half of the window: many frames, one WINDOW_UPDATE."""
    window = ReceiveWindow(100)
    assert window.received(100)
    assert [window.consumed(10) for _ in range(5)] == [0, 0, 0, 0, 50]
    assert (window.left, window.unconsumed, window.credit) == (50, 50, 0)
    assert not window.received(51)
    with pytest.raises(ValueError, match="consumed of"):
        window.consumed(102)


def test_what_is_not_consumed_is_not_given_back() -> None:
    """A slow handler stops its stream; its neighbour has the connection's window still."""
    server = opened(ConnectionSettings(stream_window=WINDOW, connection_window=3 * WINDOW), consumes=False)
    server.receive(headers(1), headers(3), *(data(1, bytes(13_107)) for _ in range(5)))
    assert not server.connection.output
    assert server.connection.held_bytes == WINDOW
    server.connection.consumed(server.streams[1].stream, 40_000)
    assert server.frames() == [Frame(FrameType.WINDOW_UPDATE, 0, 1, (40_000).to_bytes(4, "big"))]
    server.receive(data(3, bytes(10_000)))
    server.connection.consumed(server.streams[1].stream, 20_000)
    server.connection.consumed(server.streams[3].stream, 10_000)
    assert server.connection.held_bytes == WINDOW - 60_000
    server.connection.consumed(server.streams[1].stream, WINDOW - 60_000)
    server.receive(headers(5), *(data(5, bytes(13_107)) for _ in range(2)))
    assert server.streams[5].reset is None
    server.connection.consumed(server.streams[5].stream, 2 * 13_107)
    increments = [each for each in server.frames() if each.stream_id == 0]
    assert increments == [Frame(FrameType.WINDOW_UPDATE, 0, 0, (WINDOW + 10_000 + 2 * 13_107).to_bytes(4, "big"))]


@pytest.mark.parametrize("size", [100, 10_000])
def test_more_than_the_window(size: int) -> None:
    """FLOW_CONTROL_ERROR: of the stream for its own window, of the connection for the common one."""
    server = opened(ConnectionSettings(stream_window=WINDOW, connection_window=2 * WINDOW), consumes=False)
    server.receive(headers(1), *(data(1, bytes(13_107)) for _ in range(5)), data(1, bytes(size)))
    (fault,) = (each for each in server.frames() if each.kind is FrameType.RST_STREAM)
    assert (fault.stream_id, fault.code) == (1, ErrorCode.FLOW_CONTROL_ERROR)
    assert server.connection.held_bytes == 0
    server = opened(ConnectionSettings(stream_window=2 * WINDOW, connection_window=WINDOW), consumes=False)
    server.receive(headers(1), *(data(1, bytes(13_107)) for _ in range(5)), headers(3) + data(3, bytes(size), end=True))
    assert server.closed is not None
    assert server.closed[0] == ErrorCode.FLOW_CONTROL_ERROR


def test_requests_in_one_read_give_their_bytes_back() -> None:
    """The connection's window is refilled behind `on_requests`, in halves."""
    server = opened(ConnectionSettings(connection_window=WINDOW))
    for number in range(40):
        server.receive(request(2 * number + 1, bytes(10_000)))
        server.connection.reset(server.streams[2 * number + 1].stream, ErrorCode.CANCEL)
    updates = [each for each in server.frames() if each.kind is FrameType.WINDOW_UPDATE]
    assert [int.from_bytes(each.payload, "big") for each in updates] == [40_000] * 10
    assert server.at_once == 40


@pytest.mark.parametrize("how", ["reset by the peer", "reset here", "answered"])
def test_a_stream_that_ends_gives_back_what_it_held(how: str) -> None:
    """The connection's window does not shrink for ever by streams whose data was never consumed."""
    server = opened(ConnectionSettings(connection_window=WINDOW), consumes=False)
    server.receive(headers(1), data(1, bytes(16_000)) * 2, data(1, bytes(8000)))
    stream = server.streams[1].stream
    if how == "reset by the peer":
        server.receive(reset(1))
    elif how == "reset here":
        server.connection.reset(stream, ErrorCode.CANCEL)
    else:
        server.connection.end(stream, TRAILERS)
        server.receive(data(1, b"", end=True))
    assert [each for each in server.frames() if each.kind is FrameType.WINDOW_UPDATE and each.stream_id == 0]
    assert server.connection.statistics().held_bytes == 0


def test_padding_is_consumed_by_itself() -> None:
    """The layer above never sees it, so it cannot give it back."""
    server = opened()
    frames = data(1, b"\x64" + bytes(100), more=Flag.PADDED)
    server.receive(headers(1), *(frames for _ in range(9)))
    assert server.connection.held_bytes == 0


# -- sending -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=20), max_size=8), st.lists(st.integers(1, 30), max_size=20))
def test_an_outbox_keeps_order(parts: list[bytes], limits: list[int]) -> None:
    """What comes out is what went in, in pieces no larger than asked for."""
    outbox, out = Outbox(), b""
    outbox.put(parts)
    for limit in limits:
        taken, size = outbox.take(limit)
        assert sum(len(part) for part in taken) == size == min(limit, size + outbox.size)
        out += b"".join(taken)
    assert b"".join(parts) == out + b"".join(outbox.take(1000)[0])


def test_a_response_waits_for_its_stream() -> None:
    """Beyond the stream's window it is queued, in order, and its trailers behind it; a neighbour is not held up."""
    server = with_window(5)
    server.receive(request(1), request(3))
    server.connection.respond(server.streams[1].stream, RESPONSE, (b"abc", b"defgh"), TRAILERS)
    server.connection.respond(server.streams[3].stream, RESPONSE, (b"12345",), TRAILERS)
    frames = server.frames()
    assert sent(frames) == {1: b"abcde", 3: b"12345"}
    assert [each.stream_id for each in frames if each.flags & Flag.END_STREAM] == [3]
    assert server.connection.held_bytes == 3
    server.receive(window_update(1, 2))
    assert sent(server.frames()) == {1: b"fg"}
    server.receive(window_update(1, 2))
    last = server.frames()
    assert [each.kind for each in last] == [FrameType.DATA, FrameType.HEADERS]
    assert (sent(last), last[-1].flags & Flag.END_STREAM) == ({1: b"h"}, Flag.END_STREAM)
    assert server.connection.statistics().streams == 0


def test_a_window_may_become_negative() -> None:
    """A smaller SETTINGS_INITIAL_WINDOW_SIZE takes from streams that have sent; they wait until it is above zero."""
    server = with_window(10)
    server.receive(headers(1))
    stream = server.streams[1].stream
    assert server.connection.send_data(stream, (b"12345678",))
    server.receive(settings_frame({Setting.INITIAL_WINDOW_SIZE: 3}))
    assert stream.send_window == -5
    assert not server.connection.send_data(stream, (b"9",))
    server.written()
    server.receive(window_update(1, 5))
    assert sent(server.frames()) == {}
    assert server.streams[1].writable == 0
    server.receive(settings_frame({Setting.INITIAL_WINDOW_SIZE: 4}))
    assert sent(server.frames()) == {1: b"9"}
    assert server.streams[1].writable == 1


def test_turns_are_fair() -> None:
    """Streams that wait for the connection's window send a frame each in turn."""
    server = with_window(2**31 - 1)
    server.receive(headers(1), headers(3), headers(5))
    server.connection.send_data(server.streams[1].stream, (bytes(65_535),))
    for number in (1, 3, 5):
        assert not server.connection.send_data(server.streams[number].stream, (bytes(40_000),))
    server.written()
    server.receive(window_update(0, 6 * 16_384))
    order = [each.stream_id for each in server.frames() if each.kind is FrameType.DATA]
    assert order == [1, 3, 5, 1, 3, 5]


def test_output_that_is_not_taken_stops_the_data() -> None:
    """A transport that is paused: data stays in the queues beyond the budget, and goes on as output is taken."""
    server = Recorder(ConnectionSettings(output_bytes=50_000))
    connection = server.connection
    server.receive(
        PREFACE + settings_frame({Setting.INITIAL_WINDOW_SIZE: 10**6}) + window_update(0, 10**6) + headers(1)
    )
    server.written()
    stream = server.streams[1].stream
    assert not connection.send_data(stream, (bytes(120_000),))
    assert connection.output_bytes == 50_000
    assert connection.held_bytes == 120_000
    sizes = [sum(len(part) for part in connection.take_output()) for _ in range(3)]
    assert [size // 1000 for size in sizes] == [50, 50, 20]
    assert server.streams[1].writable == 1
    assert connection.held_bytes == 0


def test_the_table_size_update_comes_first() -> None:
    """A peer that makes its table smaller is told so at the next header block, also on the short path."""
    server = Recorder()
    server.receive(PREFACE + settings_frame({Setting.HEADER_TABLE_SIZE: 100}) + request(1) + request(3))
    server.written()
    for number in (1, 3):
        server.connection.respond(server.streams[number].stream, RESPONSE, (b"x",), TRAILERS)
    blocks = [each.payload for each in server.frames() if each.kind is FrameType.HEADERS]
    assert blocks == [b"\x20" + RESPONSE.block, TRAILERS.block, RESPONSE.block, TRAILERS.block]


# -- another implementation as the client ------------------------------------------------------------------------------


class Talk:
    """The h2 library as a client that checks all it gets (windows, states, header blocks), and a server beside it."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.h2: Any = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        window = self.choose.choice([0, 100, 65_535])
        initial: dict[Any, int] = {Setting.INITIAL_WINDOW_SIZE: window, Setting.ENABLE_PUSH: 0}
        self.h2.local_settings = h2.settings.Settings(client=True, initial_values=initial)
        self.h2.initiate_connection()
        self.server = Recorder(ConnectionSettings(stream_window=WINDOW, connection_window=WINDOW, output_bytes=70_000))
        self.received: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.unacknowledged: list[tuple[int, int]] = []
        self.asked: dict[int, bytes] = {}
        self.unsent: dict[int, bytes] = {}
        self.answers: dict[int, bytes] = {}

    def exchange(self) -> None:
        self.server.receive(self.h2.data_to_send())
        for event in self.h2.receive_data(b"".join(self.server.connection.take_output())):
            if isinstance(event, h2.events.DataReceived):
                self.received[event.stream_id] = self.received.get(event.stream_id, b"") + event.data
                self.unacknowledged.append((event.flow_controlled_length, event.stream_id))
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            assert not isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated), event

    def open(self) -> None:
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, list(REQUEST))
        self.asked[stream_id] = b""
        self.unsent[stream_id] = self.choose.randbytes(self.choose.choice([0, 10, 1000, 50_000]))

    def send(self) -> None:
        if not self.unsent:
            return
        stream_id = self.choose.choice(list(self.unsent))
        room = min(self.h2.local_flow_control_window(stream_id), 16_384, self.choose.randrange(1, 20_000))
        piece, rest = self.unsent[stream_id][:room], self.unsent.pop(stream_id)[room:]
        self.h2.send_data(stream_id, piece, end_stream=not rest)
        self.asked[stream_id] += piece
        if rest:
            self.unsent[stream_id] = rest

    def acknowledge(self) -> None:
        if self.unacknowledged:
            self.h2.acknowledge_received_data(*self.unacknowledged.pop())

    def resize(self) -> None:
        self.h2.update_settings({Setting.INITIAL_WINDOW_SIZE: self.choose.choice([0, 100, 5000, 200_000])})

    def answer(self) -> None:
        for stream_id, seen in self.server.streams.items():
            if seen.ended and stream_id not in self.answers and self.choose.random() < 0.5:
                answer = self.answers[stream_id] = self.choose.randbytes(self.choose.choice([0, 5, 3000, 40_000]))
                self.server.connection.respond(seen.stream, RESPONSE, (answer[:7], memoryview(answer)[7:]), TRAILERS)


@pytest.mark.parametrize("seed", range(20))
def test_against_another_implementation(seed: int) -> None:
    """Random calls of random sizes through small windows that change: both sides end with the same bytes, and h2, which
    holds us to its windows and to the states of its streams, finds nothing wrong."""
    talk = Talk(seed)
    talk.exchange()
    talk.exchange()
    actions = [talk.open, talk.open, talk.send, talk.send, talk.send, talk.acknowledge, talk.resize, talk.answer]
    for _ in range(120):
        talk.choose.choice(actions)()
        if talk.choose.random() < 0.7:
            talk.exchange()
    talk.h2.update_settings({Setting.INITIAL_WINDOW_SIZE: 10**6})
    talk.h2.increment_flow_control_window(10**8)
    for _ in range(20):
        talk.exchange()
    assert talk.answers
    assert {number: talk.received.get(number, b"") for number in talk.answers} == talk.answers
    assert talk.answers.keys() <= talk.ended
    assert {number: bytes(seen.data) for number, seen in talk.server.streams.items()} == talk.asked
    held = talk.server.connection.statistics()
    assert held.streams == len(talk.asked) - len(talk.answers)
    assert held.held_bytes == 0
    assert talk.server.closed is None


@given(st.integers(0, 2**31 - 1), st.lists(st.integers(0, 70_000), max_size=8))
def test_no_frame_exceeds_a_window(size: int, messages: list[int]) -> None:
    """Whatever the peer's initial window: no more is sent on a stream than it allows, nor 65,535 bytes in all."""
    server = with_window(size)
    server.receive(headers(1))
    stream = server.streams[1].stream
    for message in messages:
        server.connection.send_data(stream, (bytes(message),))
    total = sum(len(each.payload) for each in parsed(server.written()) if each.kind is FrameType.DATA)
    assert total == min(size, 65_535, sum(messages))
