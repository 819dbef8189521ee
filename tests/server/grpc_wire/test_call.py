"""The receiving halves of calls: what they give, what they refuse, and that no byte of a window is lost."""

import gzip
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock_server.grpc_wire.call import StreamRequest, UnaryRequest, whole_message
from penstock_server.grpc_wire.compression import inflate_gzip
from penstock_server.grpc_wire.status import INTERNAL, RESOURCE_EXHAUSTED, Refusal
from tests.server.grpc_wire.pieces import cut, framed, messages, places


def unary(chunks: list[bytes], limit: int = 1000) -> bytes:
    request = UnaryRequest(limit, inflate_gzip)
    for chunk in chunks:
        request.feed(memoryview(bytearray(chunk)))
    return bytes(request.end())


@given(st.binary(max_size=60), places, st.booleans())
def test_a_unary_message_however_it_is_cut(message: bytes, at: list[int], compressed: bool) -> None:
    """Compressed or not."""
    body = framed(gzip.compress(message), 1) if compressed else framed(message)
    assert unary(cut(body, at)) == message


@given(st.binary(max_size=30), st.integers(0, 40))
@example(framed(b"abc"), 3)
@example(framed(b"abc"), 2)
@example(framed(b"abc", 1), 100)
@example(framed(b"abc") + b"x", 100)
@example(framed(b"")[:4], 100)
def test_the_fast_path_says_what_the_slow_one_says(body: bytes, limit: int) -> None:
    """Or leaves it to the slow one."""
    fast = whole_message(body, limit)
    try:
        slow = unary([body], limit)
    except Refusal:
        assert fast is None
    else:
        assert fast == slow or (fast is None and body[0] == 1)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", INTERNAL),
        (b"\0\0\0", INTERNAL),
        (framed(b"abc")[:-1], INTERNAL),
        (framed(b"a") + framed(b"b"), INTERNAL),
        (framed(b"a") + b"\0", INTERNAL),
        (framed(b"a", 1), INTERNAL),
        (framed(bytes(1001)), RESOURCE_EXHAUSTED),
        (framed(gzip.compress(bytes(1001)), 1), RESOURCE_EXHAUSTED),
    ],
)
def test_what_is_no_unary_request(body: bytes, status: int) -> None:
    """Nothing, a part, more than one, or too much; in one piece or byte by byte."""
    for chunks in ([body], [body[at : at + 1] for at in range(len(body))]):
        with pytest.raises(Refusal) as refused:
            unary(chunks)
        assert refused.value.status == status


def test_a_compressed_message_needs_an_encoding() -> None:
    """That the request names."""
    request = UnaryRequest(10, None)
    request.feed(framed(b"x", 1))
    with pytest.raises(Refusal, match="no encoding configured"):
        request.end()


def test_what_a_unary_request_holds() -> None:
    """As it grows, and how large it will be."""
    request = UnaryRequest(10, None)
    seen = []
    for byte in framed(b"abc"):
        request.feed(bytes([byte]))
        seen.append((request.held, request.expected))
    assert seen == [(1, 0), (2, 0), (3, 0), (4, 0), (0, 3), (1, 3), (2, 3), (3, 0)]


@given(st.binary(max_size=300), places, places)
def test_pieces_at_once_are_the_same_as_one_by_one(message: bytes, at: list[int], groups: list[int]) -> None:
    """However many come in one call."""
    pieces = list(cut(framed(message), at))
    request = UnaryRequest(1000, None)
    for start, end in pairwise([0, *sorted(min(group, len(pieces)) for group in groups), len(pieces)]):
        request.feed(*pieces[start:end])
    assert bytes(request.end()) == message
    assert request.held == len(message)


@pytest.mark.parametrize("size", [1, 63, 64, 1000])
def test_the_end_of_a_message_in_pieces_is_aligned(size: int) -> None:
    """The numbers of the last tensor, which is the end of a request, may be used from where they are."""
    request = UnaryRequest(1000, None)
    body = framed(bytes(size))
    request.feed(body[:5])
    request.feed(body[5:])
    message = np.frombuffer(request.end(), np.uint8)
    assert size == 1 or (message.ctypes.data + size) % 64 == 0


class Reader:
    """A stream's reader: takes what it has room for, and counts the peer's window."""

    def __init__(self, window_messages: int, window_bytes: int) -> None:
        self.request = StreamRequest(10_000, None, window_messages, window_bytes)
        self.taken: list[bytes] = []
        self.unconsumed = 0
        self.in_window = 0

    def read(self) -> None:
        while (message := self.request.next()) is not None:
            self.taken.append(bytes(message))
            self.unconsumed += 1

    def feed(self, chunk: bytes) -> None:
        self.in_window += len(chunk)
        alone = self.request.whole(chunk)
        if alone is not None:
            self.taken.append(alone)
            self.unconsumed += 1
            return
        lent = bytearray(chunk)
        self.request.feed(memoryview(lent))
        self.read()
        self.in_window -= self.request.settle()
        lent[:] = b"\xee" * len(lent)

    def consume(self, count: int) -> None:
        self.in_window -= self.request.consumed(count)
        self.unconsumed -= count
        self.read()
        self.in_window -= self.request.settle()


@given(messages, places, st.integers(1, 4), st.integers(1, 60), st.data())
def test_a_stream_gives_all_messages_and_all_of_the_window(
    sent: list[bytes], at: list[int], window_messages: int, window_bytes: int, data: st.DataObject
) -> None:
    """In order, never more at once than the reader has room for; in the end nothing is owed."""
    reader = Reader(window_messages, window_bytes)
    one_by_one = [framed(message) for message in sent]
    for chunk in one_by_one if data.draw(st.booleans()) else cut(b"".join(one_by_one), at):
        reader.feed(chunk)
        assert reader.unconsumed <= window_messages
        assert reader.in_window >= 0
        if reader.unconsumed and data.draw(st.booleans()):
            reader.consume(data.draw(st.integers(1, reader.unconsumed)))
    reader.request.end()
    while reader.unconsumed:
        reader.consume(1)
    assert reader.taken == sent
    assert reader.request.over
    assert (reader.in_window, reader.request.held_beyond) == (0, 0)


@given(st.integers(0, 3), st.integers(1, 40))
def test_a_message_larger_than_the_window_comes_in(before: int, step: int) -> None:
    """Although the reader holds others: its bytes are given back as they come, and counted as held beyond."""
    reader = Reader(8, 100)
    for _ in range(before):
        reader.feed(framed(b"small"))
    body = framed(bytes(1000))
    for start in range(0, len(body), step):
        assert reader.in_window < 100, "the peer could not go on"
        reader.feed(body[start : start + step])
    assert reader.taken[-1] == bytes(1000)
    assert reader.request.held_beyond > 900
    reader.consume(before + 1)
    assert (reader.in_window, reader.request.held_beyond) == (0, 0)


def test_a_reader_that_holds_many_bytes_gets_no_more() -> None:
    """Room is counted in bytes too: sixteen messages may be sixteen very large ones."""
    reader = Reader(16, 100)
    for _ in range(16):
        reader.feed(framed(bytes(60)))
    assert len(reader.taken) == 2
    reader.consume(1)
    assert len(reader.taken) == 3


def test_a_piece_that_is_a_message_is_given_at_once() -> None:
    """Unless it is not the next, is no plain message alone, or lives no longer than the call."""
    request = StreamRequest(10, None, 3, 1000)
    assert request.whole(framed(b"one")) == b"one"
    assert request.whole(memoryview(framed(b"two"))) is None
    assert request.whole(framed(b"zip", 1)) is None
    assert request.whole(framed(bytes(11))) is None
    assert request.whole(framed(b"two") + b"\0") is None
    request.feed(framed(b"two")[:6])
    assert request.next() is None
    assert request.whole(framed(b"three")) is None, "it would overtake what is half there"
    request.feed(framed(b"two")[6:])
    assert (request.next(), request.next()) == (b"two", None)
    assert request.whole(framed(b"three")) == b"three"
    assert request.whole(framed(b"four")) is None, "the reader has no room"
    assert request.consumed(3) == len(framed(b"one") + framed(b"two") + framed(b"three"))
    assert (request.messages, request.over, request.waits) == (3, False, False)


def test_what_was_never_given_cannot_be_consumed() -> None:
    """A mistake of the reader, which would let the peer send for ever."""
    reader = Reader(4, 100)
    reader.feed(framed(b"a"))
    reader.consume(1)
    with pytest.raises(ValueError, match="1 messages consumed of 0"):
        reader.consume(1)


@pytest.mark.parametrize("rest", [b"\0", framed(b"abc")[:-1]])
def test_a_stream_that_ends_within_a_message(rest: bytes) -> None:
    """Is refused, and is not over."""
    reader = Reader(4, 100)
    reader.feed(framed(b"a") + rest)
    assert reader.request.half
    reader.request.end()
    assert not reader.request.over
    with pytest.raises(Refusal, match="before a whole message"):
        reader.read()


def test_a_stream_is_over_when_its_messages_were_given() -> None:
    """Not while some wait for room."""
    reader = Reader(1, 100)
    reader.feed(framed(b"a") + framed(b"b"))
    reader.request.end()
    assert not reader.request.over
    reader.consume(1)
    assert reader.request.over
