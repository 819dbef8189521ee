"""However a peer's bytes are cut into reads, and whatever buffer holds them, they mean the same."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_server.http2.connection import ConnectionSettings
from penstock_server.http2.errors import ErrorCode
from penstock_server.http2.flow import Buffer
from penstock_server.http2.frames import (
    PREFACE,
    Flag,
    FrameType,
    Setting,
    frame,
    goaway,
    ping,
    settings_frame,
    window_update,
)
from penstock_server.http2.streams import Stream
from tests.server.http2.peers import REQUEST, VARYING, Recorder, block, data, headers, literal, request, reset

BLOCK = block()
TALK = b"".join(
    [
        PREFACE,
        settings_frame({Setting.INITIAL_WINDOW_SIZE: 1000, Setting.ENABLE_PUSH: 0}),
        request(1),
        frame(FrameType.SETTINGS, Flag.ACK, 0),
        frame(FrameType.HEADERS, Flag.END_HEADERS, 3, block(REQUEST, 0x40)),
        window_update(3, 5),
        data(3, b"abc", end=True),
        ping(b"12345678"),
        frame(FrameType.HEADERS, 0, 5, BLOCK[:50]),
        frame(FrameType.CONTINUATION, 0, 5, b""),
        frame(FrameType.CONTINUATION, Flag.END_HEADERS, 5, BLOCK[50:] + literal(VARYING, b"17m", 0x40)),
        data(5, b"x" * 5000),
        data(5, b"\x03yyy\0\0\0", more=Flag.PADDED),
        data(5, b"z" * 6000, end=True),
        headers(7),
        data(7, b"w" * 4500),
        headers(7, [(b"checksum", b"1")], end=True),
        headers(9),
        data(9, b"v"),
        reset(9),
        frame(99, 0, 9, b"????"),
        headers(11, end=True),
        goaway(0, 0),
        ping(b"87654321", ack=True),
        window_update(0, 5),
        request(13),
        headers(15),  # the heads of many first
        headers(17),
        headers(19),
        data(15, b"abc", end=True),
        data(19, b"ab"),
        data(17, b"abcd", end=True),
        data(19, b"c", end=True),
        headers(21),
        headers(23),
        data(23, b"abc", end=True),
        reset(21),
        request(25),
    ]
)
BROKEN = TALK + data(11, b"half-closed") + request(27) + frame(FrameType.PUSH_PROMISE, 4, 1, bytes(4)) + request(29)
GARBAGE = b"PRI * HTTP/1.1\r\n\r\n"
HTTP1 = b"PUT / HTTP/1.1\r\n\r\n"
TALKS = {"legal": TALK, "broken": BROKEN, "garbage": GARBAGE, "HTTP/1": HTTP1}


def whole(talk: bytes) -> Recorder:
    recorder = Recorder()
    recorder.receive(talk)
    return recorder


WHOLE = {name: whole(talk) for name, talk in TALKS.items()}


def cuts_of(talk: bytes) -> list[int]:
    """Every byte, but of the long runs in the payloads only some."""
    return [at for at in range(len(talk)) if at % 97 == 0 or len(set(talk[max(0, at - 12) : at + 12])) > 1]


CUTS = {name: cuts_of(talk) for name, talk in TALKS.items()}


def output(recorder: Recorder) -> bytes:
    return b"".join(recorder.connection.output)


def test_the_talk_says_what_it_should() -> None:
    """The talk that the other tests cut reaches everything: otherwise they would compare nothing with nothing."""
    told = WHOLE["legal"]
    assert {number: bytes(seen.data[:1]) for number, seen in told.streams.items()} == {
        1: b"a", 3: b"a", 5: b"x", 7: b"w", 9: b"v", 11: b"", 13: b"a",
        15: b"a", 17: b"a", 19: b"a", 21: b"", 23: b"a", 25: b"a",
    }  # fmt: skip
    assert len(told.streams[5].data) == 11_003
    assert told.streams[5].varying == b"17m"
    assert told.streams[7].trailers == [(b"checksum", b"1")]
    assert told.streams[9].reset == ErrorCode.CANCEL
    assert (told.goaways, told.pongs, told.closed) == ([0], [b"87654321"], None)
    assert told.at_once == 6
    broken = WHOLE["broken"]
    assert broken.streams[11].reset == ErrorCode.STREAM_CLOSED
    assert 27 in broken.streams
    assert broken.closed is not None
    assert 29 not in broken.streams


@pytest.mark.slow
@pytest.mark.parametrize("name", TALKS)
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_two_reads(name: str, kind: type) -> None:
    """One cut, at every byte."""
    talk, expected = TALKS[name], WHOLE[name].told()
    for cut in CUTS[name]:
        recorder = Recorder()
        recorder.connection.receive(kind(talk[:cut]), 0.0)
        recorder.connection.receive(kind(talk[cut:]), 0.0)
        assert recorder.told() == expected, cut
        assert output(recorder) == output(WHOLE[name]), cut


@pytest.mark.parametrize("name", TALKS)
@pytest.mark.slow
def test_a_byte_a_read(name: str) -> None:
    """A client that sends each byte by itself."""
    recorder = Recorder()
    for at in range(len(TALKS[name])):
        recorder.receive(TALKS[name][at : at + 1])
    assert recorder.told() == WHOLE[name].told()
    assert output(recorder) == output(WHOLE[name])


@given(st.lists(st.integers(0, len(BROKEN)), max_size=12), st.booleans())
def test_any_cuts(cuts: list[int], reused: bool) -> None:
    """Any cuts; `reused`: from a buffer that is overwritten after each read, as BufferedProtocol's is."""
    recorder = Recorder()
    buffer = bytearray(len(BROKEN))
    for start, end in pairwise([0, *sorted(cuts), len(BROKEN)]):
        piece = BROKEN[start:end]
        if reused:
            buffer[: len(piece)] = piece
            recorder.connection.receive(memoryview(buffer)[: len(piece)], 0.0)
            buffer[:] = b"\xff" * len(buffer)
        else:
            recorder.receive(piece)
    assert recorder.told() == WHOLE["broken"].told()
    assert output(recorder) == output(WHOLE["broken"])


class Viewer(Recorder):
    """Notes whose bytes it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers: list[object] = []

    def on_data(self, stream: Stream, data: Buffer, end_stream: bool) -> None:
        self.buffers.append(data.obj if isinstance(data, memoryview) else data)
        super().on_data(stream, data, end_stream)


@pytest.mark.parametrize("step", [999, 65_536, 300_000])
@pytest.mark.parametrize("size", [16_385, 262_144])
def test_a_large_frame(size: int, step: int) -> None:
    """DATA may be larger than other frames, and comes in pieces."""
    settings = ConnectionSettings(stream_window=1 << 20, connection_window=1 << 20)
    server = Recorder(settings)
    server.receive(PREFACE + settings_frame({}))
    body = bytes(range(256)) * 1024
    talk = headers(1) + data(1, body[:size]) + data(1, body[:size]) + data(1, b"end", end=True) + request(3)
    for at in range(0, len(talk), step):
        server.receive(talk[at : at + step])
    assert bytes(server.streams[1].data) == body[:size] * 2 + b"end"
    assert server.streams[1].ended
    assert server.streams[3].ended


def test_a_large_read_is_not_copied() -> None:
    """The payload of a large DATA frame comes as a view of the buffer that was read into."""
    viewer = Viewer()
    buffer = bytearray(PREFACE + settings_frame({}) + headers(1) + data(1, bytes(16_384)) * 20)
    viewer.connection.receive(memoryview(buffer), 0.0)
    assert len(viewer.streams[1].data) == 20 * 16_384
    # All but those in the first 64 KiB, which are copied for the small frames among them.
    assert sum(each is buffer for each in viewer.buffers) >= 16


@given(
    st.lists(st.integers(0, 16_384) | st.integers(0, 32_000), min_size=1, max_size=8),
    st.sampled_from([None, -1, 0, 1]),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(0, 140_000), max_size=4),
)
def test_large_data_in_a_run(
    sizes: list[int], wrong: int | None, consumes: bool, as_bytes: bool, cuts: list[int]
) -> None:
    """DATA frames of one stream that follow each other are taken together, and mean what they mean one by one: also
    where they are more than the window (which nobody gives back) or another body than was announced."""
    fields = [*REQUEST, (b"content-length", b"%d" % (sum(sizes) + wrong))] if wrong is not None else REQUEST
    if wrong is not None and sum(sizes) + wrong < 0:
        fields = REQUEST
    frames = [data(1, bytes([size % 251]) * size) for size in sizes[:-1]]
    talk = b"".join(
        [
            PREFACE + settings_frame({}) + headers(1, fields),
            *frames,
            data(1, b"z" * sizes[-1], end=True),
            request(3),
        ]
    )
    settings = ConnectionSettings(stream_window=65_535, varying=VARYING)
    one_by_one, in_runs = (Recorder(settings, consumes=consumes) for _ in range(2))
    for at in range(0, len(talk), 1000):
        one_by_one.receive(talk[at : at + 1000])
    places = [0, *sorted(min(cut, len(talk)) for cut in cuts), len(talk)]
    for start, end in pairwise(places):
        piece = talk[start:end]
        in_runs.connection.receive(piece if as_bytes else memoryview(bytearray(piece)), 0.0)
    assert in_runs.told() == one_by_one.told()
    assert in_runs.connection.statistics().data_bytes == one_by_one.connection.statistics().data_bytes
    for seen in in_runs.streams.values():
        inbox = seen.stream.inbox
        assert inbox is None or inbox.left + inbox.credit + inbox.unconsumed == inbox.size
