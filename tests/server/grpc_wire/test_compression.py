"""Decompression, and its bounds."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_server.grpc_wire.compression import ACCEPTED, INFLATES, Inflate, inflate_deflate, inflate_gzip
from penstock_server.grpc_wire.status import INTERNAL, RESOURCE_EXHAUSTED, Refusal

Compress = Callable[[bytes], bytes]
PAIRS: list[tuple[Compress, Inflate]] = [(gzip.compress, inflate_gzip), (zlib.compress, inflate_deflate)]


@given(st.binary(max_size=500), st.sampled_from(PAIRS), st.integers(-2, 2))
def test_there_and_back_up_to_the_limit(data: bytes, pair: tuple[Compress, Inflate], more: int) -> None:
    """To the byte."""
    compress, inflate = pair
    limit = max(0, len(data) + more)
    if len(data) <= limit:
        assert inflate(memoryview(compress(data)), limit) == data
    else:
        with pytest.raises(Refusal, match="larger than max") as refused:
            inflate(compress(data), limit)
        assert refused.value.status == RESOURCE_EXHAUSTED


@pytest.mark.parametrize(("compress", "inflate"), PAIRS)
def test_what_is_no_such_data(compress: Compress, inflate: Inflate) -> None:
    """Cut, spoilt, followed by something else, empty, or of the other kind."""
    good = compress(b"some data")
    other = next(another for another, _ in PAIRS if another is not compress)(b"some data")
    for bad in (good[:-1], good[:-4] + b"\0\0\0\0", good + b"x", good + good, b"", b"\0" * 20, other):
        with pytest.raises(Refusal, match="Decompression failed") as refused:
            inflate(bad, 1000)
        assert refused.value.status == INTERNAL


def test_a_bomb_is_not_inflated() -> None:
    """A thousand times the limit takes no more memory than the limit."""
    bomb = gzip.compress(bytes(10_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(Refusal, match="larger than max"):
            inflate_gzip(bomb, 10_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000


def test_what_is_accepted_is_what_is_understood() -> None:
    """The field that tells clients, and the table."""
    assert set(ACCEPTED.split(b", ")) == set(INFLATES) - {b""}
    assert INFLATES[b"identity"] is None
