"""Bodies, and ways to cut them, for the tests of the framing and of calls."""

from itertools import pairwise

from hypothesis import strategies as st


def framed(message: bytes, flag: int = 0) -> bytes:
    """A message as it travels."""
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """The data in pieces, cut at these places, which need be neither sorted nor inside."""
    places = sorted({min(place, len(data)) for place in at} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)] or [b""]


messages = st.lists(st.binary(max_size=40), max_size=8)
places = st.lists(st.integers(0, 300), max_size=12)
