"""Protobuf's wire format by hand, for messages that no serialiser would write.

Strategies make encoded messages from a list of known fields with unknown ones between them, in any order,
with varints that are longer than they need be.
"""

from collections.abc import Sequence

from hypothesis import strategies as st

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
GROUP, END_GROUP = 3, 4


def varint(value: int, padding: int = 0) -> bytes:
    """A varint, with as many bytes more than it needs, but not more than the ten it may have."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    padding = min(padding, 10 - len(out))
    if padding:
        out[-1] |= 0x80
        out += b"\x80" * (padding - 1) + b"\0"
    return bytes(out)


def field(number: int, value: bytes, *, tag_padding: int = 0, length_padding: int = 0) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | BYTES, tag_padding) + varint(len(value), length_padding) + value


paddings = st.sampled_from([0] * 9 + [1, 2, 3, 4])
"""How much longer than needed a varint is."""


@st.composite
def unknown_fields(draw: st.DrawFn) -> bytes:
    """A field that the request does not have, or not in this wire type."""
    number = draw(st.sampled_from([8, 9, 15, 16, 100, (1 << 29) - 1]))
    kind = draw(st.sampled_from([VARINT, FIXED64, BYTES, FIXED32]))
    if kind == VARINT:
        # Of a known field too: one in another wire type than its own is an unknown one.
        number = draw(st.sampled_from([number, 4, 5, 6, 7]))
        value = varint(draw(st.sampled_from([0, 1, 127, 128, 1 << 32, (1 << 64) - 1])), draw(paddings))
    elif kind == BYTES:
        content = draw(st.binary(max_size=6))
        value = varint(len(content), draw(paddings)) + content
    else:
        value = draw(st.binary(min_size=8, max_size=8)) if kind == FIXED64 else draw(st.binary(min_size=4, max_size=4))
    return varint(number << 3 | kind) + value


@st.composite
def encodings(draw: st.DrawFn, fields: Sequence[tuple[int, bytes]]) -> bytes:
    """A message with these length-delimited fields: in any order, with strangers between them."""
    parts = draw(st.permutations(fields)) if draw(st.booleans()) else fields
    encoded = [
        field(number, value, tag_padding=draw(st.sampled_from([0, 0, 0, 1, 3])), length_padding=draw(paddings))
        for number, value in parts
    ]
    for stranger in draw(st.lists(unknown_fields(), max_size=3)):
        encoded.insert(draw(st.integers(0, len(encoded))), stranger)
    return b"".join(encoded)
