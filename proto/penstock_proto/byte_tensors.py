"""Raw contents of a BYTES tensor: each element is its length (4 bytes, little-endian) and its bytes."""

from collections.abc import Iterable
from struct import Struct

_LENGTH = Struct("<I")
LENGTH_BYTES = _LENGTH.size


def pack(elements: Iterable[bytes]) -> bytes:
    """The raw contents of these elements, in row-major order."""
    parts: list[bytes] = []
    for element in elements:
        parts.append(_LENGTH.pack(len(element)))
        parts.append(element)
    return b"".join(parts)


def spans(raw: bytes | memoryview, limit: int) -> tuple[list[tuple[int, int]], int]:
    """Walk raw contents: `(start, end)` of each whole element, and the offset where the walk stopped.

    The walk stops at the first element that is cut short, or after `limit` elements, whichever comes
    first; it stopped at `len(raw)` if and only if every element was whole and there were no more.
    """
    found: list[tuple[int, int]] = []
    offset, size, unpack = 0, len(raw), _LENGTH.unpack_from
    while len(found) < limit and offset + LENGTH_BYTES <= size:
        start = offset + LENGTH_BYTES
        end = start + unpack(raw, offset)[0]
        if end > size:
            break
        found.append((start, end))
        offset = end
    return found, offset


def unpack(raw: bytes | memoryview) -> list[bytes]:
    """The elements of raw contents. ValueError if the last one is cut short."""
    found, stopped = spans(raw, len(raw))
    if stopped != len(raw):
        raise ValueError(f"the element at byte {stopped} is cut short")
    return [bytes(raw[start:end]) for start, end in found]
