"""The encoding of BYTES tensors: what goes in comes out, and what is cut short is seen."""

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from penstock_proto import byte_tensors

ELEMENTS = st.lists(st.binary(max_size=20), max_size=12)


def test_an_element_is_its_length_and_its_bytes() -> None:
    """Four bytes, little-endian; an empty element is its length alone, no elements are no bytes."""
    assert byte_tensors.pack([b"ab", b"", b"c" * 258]) == b"\2\0\0\0ab\0\0\0\0\2\1\0\0" + b"c" * 258
    assert byte_tensors.pack([]) == b""


@given(ELEMENTS)
def test_unpack_undoes_pack(elements: list[bytes]) -> None:
    """For any elements, from bytes as from a view into a larger buffer."""
    raw = byte_tensors.pack(elements)
    assert byte_tensors.unpack(raw) == elements
    assert byte_tensors.unpack(memoryview(b"#" + raw + b"#")[1:-1]) == elements


@given(ELEMENTS)
def test_spans_say_where_the_elements_lie(elements: list[bytes]) -> None:
    """With no elements more than allowed, the walk stops at the end."""
    raw = byte_tensors.pack(elements)
    found, stopped = byte_tensors.spans(raw, len(elements))
    assert [raw[start:end] for start, end in found] == elements
    assert stopped == len(raw)


@given(ELEMENTS, st.data())
def test_a_walk_ends_after_the_elements_allowed(elements: list[bytes], data: st.DataObject) -> None:
    """The limit is how a server refuses a tensor with more elements than its shape without reading them all."""
    limit = data.draw(st.integers(0, len(elements)))
    found, stopped = byte_tensors.spans(byte_tensors.pack(elements), limit)
    assert len(found) == limit
    assert stopped == len(byte_tensors.pack(elements[:limit]))


@given(ELEMENTS.filter(bool), st.data())
def test_what_is_cut_short_is_seen(elements: list[bytes], data: st.DataObject) -> None:
    """Wherever the bytes end but between elements: the whole ones are found, the walk stops where the last begins."""
    raw = byte_tensors.pack(elements)
    starts = [0, *accumulate(byte_tensors.LENGTH_BYTES + len(element) for element in elements)]
    cut = data.draw(st.integers(0, len(raw)).filter(lambda offset: offset not in starts))
    whole = sum(start <= cut for start in starts) - 1

    found, stopped = byte_tensors.spans(raw[:cut], len(elements))

    assert [raw[start:end] for start, end in found] == elements[:whole]
    assert stopped == starts[whole]
    with pytest.raises(ValueError, match=f"the element at byte {starts[whole]} is cut short"):
        byte_tensors.unpack(raw[:cut])


@given(st.binary(max_size=60))
def test_any_bytes_are_read_within_their_bounds(raw: bytes) -> None:
    """Hostile lengths included: elements lie one after another inside, and re-packing them gives back what was read."""
    found, stopped = byte_tensors.spans(raw, len(raw))
    assert stopped <= len(raw)
    assert byte_tensors.pack(raw[start:end] for start, end in found) == raw[:stopped]


@pytest.mark.parametrize("raw", [b"\xff\xff\xff\xff", b"\xff\xff\xff\xffab", b"\1\0\0\0", b"\1\0\0"])
def test_a_length_beyond_the_end_is_no_element(raw: bytes) -> None:
    """Also the largest one, which no buffer could hold."""
    assert byte_tensors.spans(raw, 10) == ([], 0)


@given(ELEMENTS.filter(bool))
def test_tritonclient_writes_and_reads_the_same(elements: list[bytes]) -> None:
    """Its clients are the ones to understand."""
    array = np.array(elements, dtype=object)
    assert serialize_byte_tensor(array).item() == byte_tensors.pack(elements)
    assert list(deserialize_bytes_tensor(byte_tensors.pack(elements))) == elements
