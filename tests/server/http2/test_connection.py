"""A connection's life: its beginning, its answers, its end, and what it tells a driver's timers."""

from collections.abc import Sequence

import pytest

from penstock_server.http2.connection import ConnectionSettings, Phase, Request
from penstock_server.http2.errors import ErrorCode
from penstock_server.http2.fields import Headers
from penstock_server.http2.frames import PREFACE, Flag, FrameType, Setting, frame, ping, settings_frame, window_update
from penstock_server.http2.limits import Limits, Rate
from penstock_server.http2.streams import State
from tests.server.http2.peers import (
    REQUEST,
    RESPONSE,
    TRAILERS,
    VARYING,
    Frame,
    Recorder,
    block,
    data,
    headers,
    literal,
    opened,
    request,
    reset,
)

ACK = Frame(FrameType.SETTINGS, Flag.ACK, 0, b"")


def goaways(server: Recorder) -> list[tuple[int, ErrorCode]]:
    sent = (each for each in server.frames() if each.kind is FrameType.GOAWAY)
    return [(int.from_bytes(each.payload[:4], "big"), each.code) for each in sent]


def test_the_first_words() -> None:
    """SETTINGS with our limits, the connection's window, and the ACK of the peer's SETTINGS; nothing before its
    preface."""
    server = Recorder(ConnectionSettings(stream_window=100_000, connection_window=200_000))
    assert not server.connection.output
    server.receive(PREFACE)
    assert server.connection.phase.name == "SETTINGS"
    own, window = server.frames()
    settings = {int.from_bytes(own.payload[at : at + 2], "big"): own.payload[at + 2 : at + 6] for at in range(0, 24, 6)}
    assert {name: int.from_bytes(value, "big") for name, value in settings.items()} == {
        Setting.MAX_CONCURRENT_STREAMS: 256,
        Setting.INITIAL_WINDOW_SIZE: 100_000,
        Setting.MAX_FRAME_SIZE: 262_144,
        Setting.MAX_HEADER_LIST_SIZE: 16_384,
    }
    assert window == Frame(FrameType.WINDOW_UPDATE, 0, 0, (200_000 - 65_535).to_bytes(4, "big"))
    server.receive(settings_frame({}))
    assert server.frames() == [ACK]
    assert server.connection.phase is Phase.OPEN
    assert not server.connection.settings_acknowledged
    server.receive(frame(FrameType.SETTINGS, Flag.ACK, 0))
    assert server.connection.settings_acknowledged


@pytest.mark.parametrize("size", [65_534, 2**31])
def test_windows_have_bounds(size: int) -> None:
    """The peer may send 65,535 bytes before it has heard of a smaller window."""
    with pytest.raises(ValueError, match="a window is"):
        ConnectionSettings(stream_window=size)
    with pytest.raises(ValueError, match="a window is"):
        ConnectionSettings(connection_window=size)


def test_http1_gets_a_readable_answer() -> None:
    """Somebody who points curl at the port reads why it does not work."""
    server = Recorder()
    server.receive(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = server.written()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"content-length: %d" % len(body) in head
    assert b"gRPC" in body
    assert server.connection.finished
    assert server.closed is not None


def test_garbage_gets_goaway() -> None:
    """A TLS client on a port without TLS, for one: SETTINGS first, as always, then PROTOCOL_ERROR."""
    server = Recorder()
    server.receive(b"\x16\x03\x01\x02\x00\x01")
    settings, goaway = server.frames()
    assert (settings.kind, goaway.kind, goaway.code) == (FrameType.SETTINGS, FrameType.GOAWAY, ErrorCode.PROTOCOL_ERROR)


def test_a_unary_call() -> None:
    """The whole response is HEADERS, DATA and HEADERS with END_STREAM, and the stream is forgotten."""
    server = opened()
    server.receive(request(1, b"question"))
    seen = server.streams[1]
    assert (bytes(seen.data), seen.ended, server.at_once) == (b"question", True, 1)
    server.connection.respond(seen.stream, RESPONSE, (b"\0\0\0\0\6", b"answer"), TRAILERS)
    assert server.frames() == [
        Frame(FrameType.HEADERS, Flag.END_HEADERS, 1, RESPONSE.block),
        Frame(FrameType.DATA, 0, 1, b"\0\0\0\0\6answer"),
        Frame(FrameType.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, 1, TRAILERS.block),
    ]
    statistics = server.connection.statistics()
    assert (statistics.requests, statistics.requests_at_once, statistics.responses_at_once) == (1, 1, 1)
    assert (statistics.streams, statistics.held_bytes) == (0, 0)


def test_the_window_update_of_grpcio_keeps_the_short_path() -> None:
    """It sends one between HEADERS and DATA; the stream's window grows by it."""
    server = opened()
    server.receive(headers(1) + window_update(1, 5) + data(1, b"abc", end=True))
    assert server.at_once == 1
    assert server.streams[1].stream.send_window == 65_540


def test_heads_before_their_data_keep_the_short_path() -> None:
    """Some clients send the heads of many requests, then the data of all: in one read that costs no more."""
    server = opened()
    ids = range(1, 21, 2)
    server.receive(b"".join(map(headers, ids)) + b"".join(data(id, b"%d" % id, end=True) for id in reversed(ids)))
    assert server.at_once == 10
    assert {id: bytes(seen.data) for id, seen in server.streams.items()} == {id: b"%d" % id for id in ids}


def test_heads_wait_for_their_data_no_longer_than_a_read() -> None:
    """Nor beyond any other frame; so what is said of the streams next finds them there."""
    server = opened()
    server.receive(headers(1) + headers(3))
    assert list(server.streams) == [1, 3]
    server.receive(headers(5) + headers(7) + data(5, b"more"))
    assert (list(server.streams), bytes(server.streams[5].data)) == ([1, 3, 5, 7], b"more")
    server.receive(headers(9) + reset(9) + data(7, end=True))
    assert server.streams[9].reset == ErrorCode.CANCEL
    assert (server.at_once, len(server.connection.streams)) == (0, 4)


def test_heads_that_are_new_keep_the_short_path() -> None:
    """A timeout that differs on every call does not part the requests of a read."""
    server = opened()
    ids = range(1, 9, 2)
    heads = [headers(id, [*REQUEST, (b"grpc-timeout", b"%dm" % id)]) for id in ids]
    server.receive(b"".join(heads) + b"".join(data(id, b"%d" % id, end=True) for id in ids))
    assert server.at_once == 4
    assert [seen.varying for seen in server.streams.values()] == [b"1m", b"3m", b"5m", b"7m"]


def test_a_block_that_cannot_be_decoded_comes_after_the_requests_before_it() -> None:
    """They are told of, and the data that a head has waited for, before the connection ends."""
    server = opened()
    broken = frame(FrameType.HEADERS, Flag.END_HEADERS, 5, b"\xbf")
    server.receive(request(1) + headers(3) + broken)
    assert (list(server.streams), server.streams[1].ended) == ([1, 3], True)
    assert server.closed is not None
    assert server.closed[0] == ErrorCode.COMPRESSION_ERROR


def test_a_malformed_head_comes_after_the_requests_before_it() -> None:
    """Though its reset is one too many, and ends the connection; a single one leaves it alone."""
    malformed = headers(3, REQUEST[1:])
    server = opened()
    server.receive(request(1) + malformed + request(5))
    assert (list(server.streams), server.closed, server.at_once) == ([1, 5], None, 2)
    assert [(each.kind, each.stream_id) for each in server.frames()] == [(FrameType.RST_STREAM, 3)]
    server = opened(ConnectionSettings(limits=Limits(resets=Rate(0, 0))))
    server.receive(request(1) + malformed + request(5))
    assert list(server.streams) == [1]
    assert server.closed is not None
    assert server.closed[0] == ErrorCode.ENHANCE_YOUR_CALM


def test_heads_that_wait_are_among_the_streams_there_may_be() -> None:
    """A peer cannot have more of them by sending their data late."""
    server = opened(ConnectionSettings(limits=Limits(concurrent_streams=2)))
    server.receive(headers(1) + headers(3) + headers(5) + data(1, b"a", end=True) + data(3, b"b", end=True))
    assert list(server.streams) == [1, 3]
    assert [(each.kind, each.stream_id) for each in server.frames()] == [(FrameType.RST_STREAM, 5)]


def test_data_of_another_size_than_announced_ends_a_head_that_waits() -> None:
    """Its content-length holds on the short path too."""
    server = opened()
    server.receive(headers(1, [*REQUEST, (b"content-length", b"2")]) + headers(3) + data(1, b"abc", end=True))
    assert server.streams[1].reset == ErrorCode.PROTOCOL_ERROR
    assert (bytes(server.streams[1].data), server.at_once) == (b"", 0)


def test_whoever_closes_gets_nothing_more() -> None:
    """What lies behind the requests of which one made the layer above close is not served."""

    class Closing(Recorder):
        def on_requests(self, requests: Sequence[Request[Headers]]) -> None:
            super().on_requests(requests)
            self.connection.close(ErrorCode.ENHANCE_YOUR_CALM)

    for more in (
        headers(5),
        data(1, b"a"),
        headers(5, [*REQUEST, (b"new", b"1")]),
        data(9)[:5],
        data(3, bytes(20_000)),
    ):
        server = Closing()
        server.receive(PREFACE + settings_frame({}) + request(1) + headers(3) + more + request(7))
        assert set(server.streams) <= {1, 7}
        assert server.closed is not None


def test_the_varying_field_is_beside_the_head() -> None:
    """It is not in what is interpreted, so one interpretation serves all its values."""
    server = opened()
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a/b")]
    for number in range(4):
        server.receive(headers(2 * number + 1, [*fields, (VARYING, b"%dm" % number)]))
    assert [seen.varying for seen in server.streams.values()] == [b"0m", b"1m", b"2m", b"3m"]
    assert all(seen.head == fields for seen in server.streams.values())
    assert server.interpreted == 1


def test_a_late_answer_does_nothing() -> None:
    """The layer above may answer a stream that has been reset, or answer twice."""
    server = opened()
    server.receive(request(1), request(3), headers(5), reset(1))
    connection = server.connection
    assert server.streams[1].reset == ErrorCode.CANCEL
    connection.respond(server.streams[3].stream, RESPONSE, (b"x",), TRAILERS)
    connection.reset(server.streams[5].stream, ErrorCode.INTERNAL_ERROR)
    server.written()
    for seen in server.streams.values():
        connection.respond(seen.stream, RESPONSE, (b"x",), TRAILERS)
        connection.send_headers(seen.stream, RESPONSE)
        assert not connection.send_data(seen.stream, (b"x",))
        connection.end(seen.stream, TRAILERS)
        connection.reset(seen.stream, ErrorCode.CANCEL)
        connection.consumed(seen.stream, 3)
    assert not connection.output


def ended_early() -> Recorder:
    """A server whose response has ended before its request."""
    server = opened()
    server.receive(headers(1) + data(1, b"abc"))
    server.connection.send_headers(server.streams[1].stream, TRAILERS, end_stream=True)
    (end,) = server.frames()
    assert (end.kind, end.flags) == (FrameType.HEADERS, Flag.END_HEADERS | Flag.END_STREAM)
    return server


@pytest.mark.parametrize(
    "rest",
    [
        data(1, bytes(9000)) + data(1, b"def", end=True),
        data(1, bytes(9000), end=True),
        data(1, b"") + headers(1, [(b"a", b"b")], end=True),
        reset(1),
        data(1, b"x", end=True) + reset(1) + window_update(1, 5),
    ],
    ids=["data", "large data", "trailers", "reset", "a late reset"],
)
def test_the_rest_of_a_request_that_was_answered_early(rest: bytes) -> None:
    """It is dropped without a word to either side, and the stream is over with it."""
    server = ended_early()
    server.receive(rest)
    assert bytes(server.streams[1].data) == b"abc"
    assert server.streams[1].reset is None
    assert server.connection.statistics().streams == 0
    assert not server.connection.output
    assert server.connection.held_bytes == 0


def test_a_request_that_does_not_end_after_its_answer_is_stopped() -> None:
    """RST_STREAM with NO_ERROR after a second, without an event; what is on its way then is ignored."""
    server = ended_early()
    server.now = 0.9
    server.receive(data(1, b"def"))
    assert not server.connection.output
    server.now = 1.0
    server.receive(data(1, b"ghi"))
    (stopped,) = server.frames()
    assert (stopped.kind, stopped.stream_id, stopped.code) == (FrameType.RST_STREAM, 1, ErrorCode.NO_ERROR)
    server.receive(data(1, bytes(9000)) + data(1, b"jkl") + headers(1, [(b"a", b"b")], end=True))
    assert bytes(server.streams[1].data) == b"abc"
    assert (server.streams[1].reset, server.closed) == (None, None)
    assert not server.connection.output


def test_streams_that_linger_hold_up_nothing() -> None:
    """Neither a new stream when there are as many as may be, nor the end of a connection."""
    server = opened(ConnectionSettings(limits=Limits(concurrent_streams=1)))
    for stream_id in (1, 3):
        server.receive(headers(stream_id))
        server.connection.end(server.streams[stream_id].stream, TRAILERS)
    server.receive(request(5))
    server.connection.respond(server.streams[5].stream, RESPONSE, (b"x",), TRAILERS)
    assert server.connection.statistics().refused == 0
    server.receive(headers(7))
    server.connection.end(server.streams[7].stream, TRAILERS)
    server.connection.shutdown()
    server.connection.shutdown()
    assert server.connection.finished
    server.connection.lost()
    assert all(seen.reset is None for seen in server.streams.values())


def test_an_end_without_trailers() -> None:
    """An empty DATA frame ends the stream."""
    server = opened()
    server.receive(request(1))
    server.connection.send_headers(server.streams[1].stream, RESPONSE)
    server.connection.end(server.streams[1].stream, None)
    assert server.frames()[-1] == Frame(FrameType.DATA, Flag.END_STREAM, 1, b"")


def test_pings() -> None:
    """Theirs are answered with the same bytes, ours come back to the handler."""
    server = opened()
    server.receive(ping(b"12345678"))
    server.connection.ping(b"abcdefgh")
    assert server.frames() == [
        Frame(FrameType.PING, Flag.ACK, 0, b"12345678"),
        Frame(FrameType.PING, 0, 0, b"abcdefgh"),
    ]
    server.receive(ping(b"abcdefgh", ack=True))
    assert server.pongs == [b"abcdefgh"]


@pytest.mark.parametrize("by_ping", [True, False], ids=["the peer answers", "the timer ends it"])
def test_draining(by_ping: bool) -> None:
    """Two GOAWAYs: what was on its way when the first was sent is served, later streams are not."""
    server = opened()
    server.receive(request(1))
    server.connection.shutdown()
    first, asked = server.frames()
    assert (first.payload[:4], first.code) == (b"\x7f\xff\xff\xff", ErrorCode.NO_ERROR)
    server.receive(request(3))
    if by_ping:
        server.receive(ping(asked.payload, ack=True))
    else:
        server.connection.shutdown()
    assert goaways(server) == [(3, ErrorCode.NO_ERROR)]
    server.receive(request(5), request(7), data(7, b"x"), reset(5), headers(9) + window_update(9, 1))
    server.connection.shutdown()
    assert (list(server.streams), server.pongs, server.connection.output) == ([1, 3], [], [])
    for number in (1, 3):
        assert not server.connection.finished
        server.connection.respond(server.streams[number].stream, RESPONSE, (b"x",), TRAILERS)
    assert server.connection.finished
    assert server.closed is None
    server.connection.close()
    assert goaways(server) == [(3, ErrorCode.NO_ERROR)]


def test_close_and_lost() -> None:
    """Both tell every open stream and then the handler, once; only `close` has something to say to the peer."""
    for how in ("close", "lost"):
        server = opened()
        server.receive(headers(1), request(3))
        getattr(server.connection, how)()
        assert [seen.reset for seen in server.streams.values()] == [ErrorCode.CANCEL] * 2
        assert server.closed is not None
        assert goaways(server) == ([(3, ErrorCode.NO_ERROR)] if how == "close" else [])
        server.connection.close()
        server.connection.lost()
        server.connection.shutdown()
        assert not server.connection.output


def test_too_many_streams_are_refused() -> None:
    """REFUSED_STREAM says that a retry is safe; the header block of a refused stream still counts for the next."""
    server = opened(ConnectionSettings(limits=Limits(concurrent_streams=2)))
    first = literal(b"x-first", b"1", 0x40)
    second = literal(b"x-second", b"2", 0x40)
    server.receive(request(1), headers(3), frame(FrameType.HEADERS, Flag.END_HEADERS, 5, block() + first))
    server.receive(frame(FrameType.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, 7, block() + second))
    refused = server.frames()
    assert [(each.stream_id, each.code) for each in refused] == [
        (5, ErrorCode.REFUSED_STREAM),
        (7, ErrorCode.REFUSED_STREAM),
    ]
    server.receive(data(7, b"late"))
    server.connection.respond(server.streams[1].stream, RESPONSE, (b"x",), TRAILERS)
    server.receive(frame(FrameType.HEADERS, Flag.END_HEADERS, 9, block() + b"\xbe\xbf"))
    assert list(server.streams) == [1, 3, 9]
    assert server.streams[9].head[-2:] == [(b"x-second", b"2"), (b"x-first", b"1")]
    assert server.connection.statistics().refused == 2


def test_who_keeps_us_waiting() -> None:
    """`waiting_since` is when the peer began what it has not finished, and progress sets it anew."""
    server = Recorder(now=10.0)
    connection = server.connection

    def after(now: float, *reads: bytes) -> float | None:
        server.now = now
        server.receive(*reads)
        return connection.waiting_since

    assert connection.waiting_since == 10.0
    assert after(11.0, PREFACE[:5]) == 10.0
    assert after(12.0, PREFACE[5:]) == 10.0
    assert after(13.0, settings_frame({})) is None
    assert after(14.0, headers(1)[:20]) == 14.0
    assert after(15.0, headers(1)[20:25]) == 14.0
    assert after(16.0, headers(1)[25:] + data(1, b"abc")[:5]) == 16.0
    assert after(17.0, data(1, b"abc")[5:]) is None
    assert after(18.0, frame(FrameType.HEADERS, 0, 3, b"")) == 18.0
    assert connection.last_received == 18.0


def test_who_has_stalled() -> None:
    """Streams whose request has not gone on since then; those that are answered or ended do not count."""
    server = opened()
    server.now = 1.0
    server.receive(headers(1), headers(3), request(5), headers(7, end=True))
    server.now = 2.0
    server.receive(data(3, b"x"))
    assert [stream.id for stream in server.connection.stalled(before=1.5)] == [1]
    assert [stream.id for stream in server.connection.stalled(before=2.5)] == [1, 3]
    assert server.connection.stalled(before=1.0) == []


def test_the_state_can_be_printed() -> None:
    """Each object says where it is."""
    server = opened(consumes=False)
    server.receive(headers(1) + data(1, b"abc"))
    stream = server.streams[1].stream
    assert repr(server.connection) == "<Connection open: 1 streams, 3 bytes held>"
    assert repr(stream) == "<Stream 1 OPEN>"
    assert repr(stream.inbox) == "<Inbox: 1048573 of 1048576 left, 3 unconsumed>"
    assert stream.state is State.OPEN


@pytest.mark.parametrize("size", [16_384, 196_608])
@pytest.mark.parametrize("step", [1000, 1448, 5000, 16_000])
def test_a_slow_body_goes_on_with_every_frame(step: int, size: int) -> None:
    """A read that ends a frame and begins the next is progress, however small it is; so are 16 KiB of a larger one."""
    server = opened()
    server.receive(headers(1))
    body = data(1, bytes(size)) * (12 * 16_384 // size)
    longest = 0.0
    for start in range(0, len(body), step):
        server.now += 1.0
        server.receive(body[start : start + step])
        if server.connection.waiting_since is not None:
            longest = max(longest, server.now - server.connection.waiting_since)
    assert len(server.streams[1].data) == 12 * 16_384
    assert longest <= 16_393 / step + 2
