"""What a peer may cost: each attack of the list ends in ENHANCE_YOUR_CALM, and an honest client never sees it."""

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from penstock_server.http2.connection import ConnectionSettings
from penstock_server.http2.errors import ConnectionFault, ErrorCode
from penstock_server.http2.frames import Flag, FrameType, frame, ping, settings_frame, window_update
from penstock_server.http2.limits import Bucket, Limits, Rate
from tests.server.http2.peers import REQUEST, RESPONSE, TRAILERS, block, data, headers, opened, request, reset

BLOCK = block()


def rapid_reset() -> Iterator[bytes]:
    """CVE-2023-44487."""
    return (headers(number) + reset(number) for number in count(1, 2))


def resets_that_we_send() -> Iterator[bytes]:
    """CVE-2025-8671: the server is made to reset, so that its own count of resets received stays 0."""
    return (headers(number) + window_update(number, 0) for number in count(1, 2))


def malformed_requests() -> Iterator[bytes]:
    return (headers(number, [*REQUEST, (b"A", b"b")], end=True) for number in count(1, 2))


def refused_streams() -> Iterator[bytes]:
    return (headers(number) for number in count(1, 2))


def continuations() -> Iterator[bytes]:
    """CVE-2024-27316 and others: a header block that never ends."""
    yield frame(FrameType.HEADERS, 0, 1, BLOCK)
    while True:
        yield frame(FrameType.CONTINUATION, 0, 1, b"")


def large_continuations() -> Iterator[bytes]:
    yield frame(FrameType.HEADERS, 0, 1, bytes(16_384))
    while True:
        yield frame(FrameType.CONTINUATION, 0, 1, bytes(16_384))


def settings() -> Iterator[bytes]:
    """CVE-2019-9515."""
    return (settings_frame({}) for _ in count())


def settings_acks() -> Iterator[bytes]:
    return (frame(FrameType.SETTINGS, Flag.ACK, 0) for _ in count())


def pings() -> Iterator[bytes]:
    """CVE-2019-9512."""
    return (ping(bytes(8)) for _ in count())


def pongs() -> Iterator[bytes]:
    return (ping(bytes(8), ack=True) for _ in count())


def empty_data() -> Iterator[bytes]:
    """CVE-2019-9518."""
    yield headers(1)
    while True:
        yield data(1)


def padding() -> Iterator[bytes]:
    yield headers(1)
    while True:
        yield data(1, b"\x03\0\0\0", more=Flag.PADDED)


def window_updates() -> Iterator[bytes]:
    return (window_update(0, 1) for _ in count())


def priorities() -> Iterator[bytes]:
    """CVE-2019-9513."""
    return (frame(FrameType.PRIORITY, 0, 1, bytes(5)) for _ in count())


def unknown_frames() -> Iterator[bytes]:
    return (frame(99, 0, 0) for _ in count())


def goaways() -> Iterator[bytes]:
    return (frame(FrameType.GOAWAY, 0, 0, bytes(8)) for _ in count())


def late_resets() -> Iterator[bytes]:
    yield headers(1)
    while True:
        yield reset(1)


ATTACKS = [
    rapid_reset,
    resets_that_we_send,
    malformed_requests,
    refused_streams,
    continuations,
    large_continuations,
    settings,
    settings_acks,
    pings,
    pongs,
    empty_data,
    padding,
    window_updates,
    priorities,
    unknown_frames,
    goaways,
    late_resets,
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks(attack: Callable[[], Iterator[bytes]]) -> None:
    """GOAWAY with ENHANCE_YOUR_CALM after a bounded number of frames, for a peer that reads what it is told."""
    server = opened()
    for number, frames in enumerate(attack()):
        server.receive(frames)
        if server.closed is not None:
            break
        server.connection.take_output()
        assert number < 10_001
    assert server.closed is not None
    assert server.closed[0] is ErrorCode.ENHANCE_YOUR_CALM
    assert server.frames()[-1].kind is FrameType.GOAWAY
    assert server.connection.held_bytes < 1000


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_slow_one_is_no_attack(attack: Callable[[], Iterator[bytes]]) -> None:
    """The same frames, but a few a second: nothing happens for 300 of them, except for header blocks without end."""
    if attack in (continuations, large_continuations):
        return
    server = opened()
    for number, frames in zip(range(300), attack(), strict=False):
        server.now = number / 5
        server.receive(frames)
        server.connection.take_output()
    assert server.closed is None


@pytest.mark.parametrize("frames", [ping(bytes(8)), settings_frame({})], ids=["PING", "SETTINGS"])
def test_a_peer_that_does_not_read(frames: bytes) -> None:
    """Answers to control frames are bounded in bytes as well, whatever the rates allow."""
    generous = Rate(burst=10**9, per_second=0)
    limits = Limits(control_output_bytes=2000, pings=generous, settings=generous)
    server = opened(ConnectionSettings(limits=limits))
    for _ in range(300):
        server.receive(frames)
    assert server.closed is not None
    assert server.closed[0] is ErrorCode.ENHANCE_YOUR_CALM
    assert server.connection.output_bytes < 2100


def test_a_busy_client_is_no_attacker() -> None:
    """grpcio sends two WINDOW_UPDATEs and sometimes a PING with each call: work earns tokens, with no time passing."""
    server = opened()
    for number in range(6000):
        stream_id = 2 * number + 1
        server.receive(headers(stream_id) + window_update(stream_id, 5) + data(stream_id, b"abc", end=True))
        server.receive(window_update(0, 5) + ping(bytes(8)))
        server.connection.respond(server.streams.pop(stream_id).stream, RESPONSE, (b"answer",), TRAILERS)
        server.connection.take_output()
    assert server.closed is None


def test_a_bucket() -> None:
    """It holds its burst and no more, and fills with time and with work."""
    so_far = (10.0, 0)
    bucket = Bucket("x", Rate(burst=3, per_second=2, per_work=0.5), lambda: so_far)
    for then, tokens in (((10.0, 0), 3), ((11.0, 0), 2), ((11.0, 6), 3), ((1000.0, 8), 3), ((1000.0, 8000), 3)):
        so_far = then
        for _ in range(tokens):
            bucket.take()
        assert bucket.tokens == 0
    assert repr(bucket) == "<Bucket x: 0 of 3>"
    with pytest.raises(ConnectionFault, match="too many frames: x"):
        bucket.take()


def test_streams_are_counted_while_they_live() -> None:
    """256 at once by default, any number one after the other."""
    server = opened()
    for number in range(256):
        server.receive(request(2 * number + 1))
    server.receive(request(513))
    assert server.connection.statistics().refused == 1
    server.connection.reset(server.streams[1].stream, ErrorCode.CANCEL)
    server.receive(request(515))
    assert 515 in server.streams


@pytest.mark.parametrize("size", [65_536, 65_537])
def test_a_header_block_is_bounded_in_bytes(size: int) -> None:
    """Over all its frames, however many there may be: 64 KiB are waited for to the end, a byte more is not."""
    server = opened(ConnectionSettings(limits=Limits(continuations=100)))
    long = block([*REQUEST, (b"a", b"x" * size)])[:size]
    pieces = [long[at : at + 10_000] for at in range(0, size, 10_000)]
    server.receive(frame(FrameType.HEADERS, 0, 1, pieces[0]))
    server.receive(*(frame(FrameType.CONTINUATION, 0, 1, piece) for piece in pieces[1:]))
    assert (server.closed is not None) == (size > 65_536)
