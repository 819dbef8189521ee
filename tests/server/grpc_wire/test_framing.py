"""Messages out of a body: whatever the chunks, the same messages; nothing is allocated on a peer's word."""

import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock_server.grpc_wire.framing import PREFIX_BYTES, Buffer, MessageReader
from penstock_server.grpc_wire.status import INTERNAL, RESOURCE_EXHAUSTED, Refusal
from tests.server.grpc_wire.pieces import cut, framed, messages, places


def read(reader: MessageReader, chunk: Buffer, most: int = 1000) -> list[tuple[bool, bytes]]:
    """Feed a chunk that is overwritten afterwards, as a driver's buffer would be."""
    lent = bytearray(chunk)
    reader.feed(memoryview(lent))
    found: list[tuple[bool, Buffer]] = []
    while len(found) < most and (message := reader.next()) is not None:
        found.append(message)
    if len(found) == most:
        reader.keep()
    lent[:] = b"\xee" * len(lent)
    return [(compressed, bytes(message)) for compressed, message in found]


@given(messages, places, st.booleans())
@example([b""], [1, 2, 3, 4], False)
@example([b"abc", b""], [8], True)
def test_the_same_messages_however_they_are_cut(sent: list[bytes], at: list[int], flag: bool) -> None:
    """Prefixes and messages may be cut anywhere, and many may lie in one chunk; flags stay with theirs."""
    reader = MessageReader(100)
    body = b"".join(framed(message, flag) for message in sent)
    found = [each for chunk in cut(body, at) for each in read(reader, chunk)]
    assert found == [(flag, message) for message in sent]
    assert (reader.waiting, reader.half, reader.taken) == (0, 0, len(body))


def test_every_single_boundary() -> None:
    """All cuts in two, of a body with an empty, a short and a longer message."""
    body = framed(b"") + framed(b"ab", 1) + framed(bytes(range(20)))
    for place in range(len(body) + 1):
        reader = MessageReader(20)
        found = read(reader, body[:place]) + read(reader, body[place:])
        assert found == [(False, b""), (True, b"ab"), (False, bytes(range(20)))]


@given(messages, places, st.integers(1, 3))
def test_what_was_kept_is_read_later(sent: list[bytes], at: list[int], most: int) -> None:
    """A reader that takes few messages a time loses none, although its chunks go away."""
    reader = MessageReader(100)
    found: list[tuple[bool, bytes]] = []
    for chunk in cut(b"".join(map(framed, sent)), at):
        found += read(reader, chunk, most)
    while rest := read(reader, b"", most):
        found += rest
    assert found == [(False, message) for message in sent]


@given(st.binary(max_size=40), st.integers(0, 60))
def test_what_is_missing_is_known(message: bytes, place: int) -> None:
    """How much of a message is there, and how large it will be."""
    reader = MessageReader(100)
    start = framed(message)[:place]
    whole = read(reader, start)
    if place >= len(message) + 5:
        assert whole
        assert reader.half == 0
    else:
        assert reader.half == (place - 5 if place >= 5 else place)
        assert reader.expected == (len(message) if place >= 5 else 0)


@pytest.mark.parametrize("cut_prefix", [False, True])
def test_the_limit_is_checked_at_the_prefix(cut_prefix: bool) -> None:
    """To the byte, and before any of the message has come."""
    for size, limit, fits in [(10, 10, True), (11, 10, False), (0, 0, True), (1, 0, False), (2**32 - 1, 10, False)]:
        reader = MessageReader(limit)
        start = b"\0" + size.to_bytes(4, "big")
        if cut_prefix:
            assert read(reader, start[:3]) == []
            start = start[3:]
        if fits:
            read(reader, start)
        else:
            with pytest.raises(Refusal, match=rf"larger than max \({size} vs. {limit}\)") as refused:
                read(reader, start)
            assert refused.value.status == RESOURCE_EXHAUSTED


def test_a_flag_that_does_not_exist() -> None:
    """0 and 1 are all there is."""
    with pytest.raises(Refusal) as refused:
        read(MessageReader(10), framed(b"x", 2))
    assert refused.value.status == INTERNAL


def test_a_large_message_is_copied_once() -> None:
    """Into one buffer that is the message; what was fed is not kept beside it."""
    size = 4 << 20
    reader = MessageReader(size)
    chunk = memoryview(bytes(16 << 10))
    tracemalloc.start()
    try:
        reader.feed(b"\0" + size.to_bytes(4, "big"))
        assert reader.next() is None
        for _ in range(size // len(chunk) - 1):
            reader.feed(chunk)
            assert reader.next() is None
        reader.feed(chunk)
        message = reader.next()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert message is not None
    assert len(message[1]) == size
    assert peak < size * 1.1


def test_a_byte_that_is_kept_costs_a_byte() -> None:
    """However small the chunks were that it came in: a peer sends DATA frames of one byte for little."""
    reader = MessageReader(10)
    tracemalloc.start()
    try:
        for _ in range(20_000):
            reader.feed(b"\0")
            reader.keep()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.waiting == 20_000
    assert peak < 100_000


@given(st.lists(st.binary(max_size=20), max_size=4))
def test_a_prefix_is_read_back(parts: list[bytes]) -> None:
    """What is sent in pieces is one message with the right length."""
    body = b"".join([sum(map(len, parts)).to_bytes(PREFIX_BYTES, "big"), *parts])
    assert read(MessageReader(100), body) == [(False, b"".join(parts))]
