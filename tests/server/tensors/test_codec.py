"""Raw contents to arrays and back, for every datatype, without copies where none are needed."""

import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from penstock_proto import byte_tensors
from penstock_proto.datatypes import DATATYPES, DataType
from penstock_server.tensors.codec import (
    Array,
    bf16_to_fp32,
    element_bytes,
    fp32_to_bf16,
    object_array,
    raw_of,
    view,
)
from penstock_server.tensors.spec import show_shape

BYTES = DATATYPES["BYTES"]
FIXED = [datatype for datatype in DATATYPES.values() if datatype.itemsize]

by_name = pytest.mark.parametrize("datatype", FIXED, ids=lambda datatype: datatype.name)
shapes = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[DataType, Array]:
    """A fixed-size datatype and an array of it, with any bits: NaNs with payloads, infinities, -0.0."""
    datatype = draw(st.sampled_from(FIXED))
    shape = draw(shapes)
    size = int(np.prod(shape))
    if datatype.name == "BOOL":
        bits = bytes(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    else:
        bits = draw(st.binary(min_size=size * datatype.itemsize, max_size=size * datatype.itemsize))
    return datatype, np.frombuffer(bits, datatype.numpy).reshape(shape)


@given(tensors())
def test_fixed_size_tensors_survive_both_ways_bit_by_bit(case: tuple[DataType, Array]) -> None:
    """An array's raw contents give the same array again: dtype, shape and every bit."""
    datatype, array = case
    raw = raw_of(array, datatype)
    assert len(raw) == array.size * datatype.itemsize
    again = view(raw, datatype, array.shape)
    assert again.dtype == datatype.numpy
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes() == bytes(raw)


@given(shapes.flatmap(lambda shape: npst.arrays(object, shape, elements=st.binary(max_size=9))))
def test_bytes_tensors_survive_both_ways(array: Array) -> None:
    """Elements of any bytes, empty ones and embedded zeros among them, in row-major order."""
    raw = raw_of(array, BYTES)
    assert bytes(raw) == byte_tensors.pack(array.reshape(-1).tolist())
    again = view(raw, BYTES, array.shape)
    assert again.dtype == object
    assert again.shape == array.shape
    assert again.tolist() == array.tolist()


@by_name
def test_raw_contents_are_little_endian(datatype: DataType) -> None:
    """On any machine: the protocol says so, not the processor."""
    one = {
        "BOOL": b"\x01",
        "FP16": struct.pack("<e", 1.0),
        "FP32": struct.pack("<f", 1.0),
        "FP64": struct.pack("<d", 1.0),
    }.get(datatype.name, (1).to_bytes(datatype.itemsize, "little"))
    assert bytes(raw_of(np.array([1], datatype.numpy), datatype)) == one
    assert view(one, datatype, (1,)).tolist() == [1]


@by_name
def test_a_view_copies_nothing_and_cannot_be_written(datatype: DataType) -> None:
    """A request's bytes are never changed, and reach the batch without a copy."""
    message = bytes(8 * 6 + 3)
    raw = memoryview(message)[3 : 3 + 6 * datatype.itemsize]  # as it lies in a message: not aligned
    array = view(raw, datatype, (2, 3))
    assert np.shares_memory(array, np.frombuffer(message, np.uint8))
    assert not array.flags.writeable


@by_name
def test_raw_of_a_contiguous_array_is_a_view_of_it(datatype: DataType) -> None:
    """An answer is not copied before it is written; an array that lies otherwise is, once."""
    array = np.zeros((3, 4), datatype.numpy)
    for lies_as_it_travels in (array, array[1:], array[0]):
        assert np.shares_memory(np.frombuffer(raw_of(lies_as_it_travels, datatype), np.uint8), array)
    assert not np.shares_memory(np.frombuffer(raw_of(array.T, datatype), np.uint8), array)


def test_raw_of_an_array_in_another_order_is_row_major() -> None:
    """Transposed, reversed or stepped: what travels is the order of the elements, not of the memory."""
    array = np.arange(6, dtype="<i4").reshape(2, 3)
    for other in (array.T, array[::-1], array[:, ::2], np.asfortranarray(array)):
        assert view(raw_of(other, DATATYPES["INT32"]), DATATYPES["INT32"], other.shape).tolist() == other.tolist()


@by_name
def test_a_tensor_without_axes_has_one_element(datatype: DataType) -> None:
    """A scalar's shape is (), and its raw contents are one element."""
    scalar = view(bytes(datatype.itemsize), datatype, ())
    assert scalar.shape == ()
    assert len(raw_of(scalar, datatype)) == datatype.itemsize


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 4)])
@pytest.mark.parametrize("name", DATATYPES)
def test_a_tensor_without_elements_has_no_bytes(name: str, shape: tuple[int, ...]) -> None:
    """It keeps its shape all the same."""
    array = view(b"", DATATYPES[name], shape)
    assert array.shape == shape
    assert bytes(raw_of(array, DATATYPES[name])) == b""


def test_a_bytes_scalar() -> None:
    """BYTES tensors may have no axes, too."""
    scalar = view(byte_tensors.pack([b"x"]), BYTES, ())
    assert scalar.shape == ()
    assert scalar.item() == b"x"
    assert bytes(raw_of(scalar, BYTES)) == byte_tensors.pack([b"x"])


def test_elements_are_kept_as_they_are() -> None:
    """Trailing zeros too, which numpy's own type for bytes drops."""
    array = object_array([b"ab\0", b"\0"], (2, 1))
    assert array.tolist() == [[b"ab\0"], [b"\0"]]


def test_bytes_elements_may_be_text() -> None:
    """Text is UTF-8; numpy's own string types count as bytes and text."""
    assert element_bytes("ü") == b"\xc3\xbc"
    assert element_bytes(b"\xff") == b"\xff"
    assert bytes(raw_of(np.array(["ü"]), BYTES)) == byte_tensors.pack([b"\xc3\xbc"])
    assert bytes(raw_of(np.array([b"ab"]), BYTES)) == byte_tensors.pack([b"ab"])


@pytest.mark.parametrize("element", [1, None, 1.5, [b"a"]])
def test_other_elements_of_a_bytes_tensor_are_an_error(element: object) -> None:
    """`str()` of whatever a model returned would be a guess."""
    with pytest.raises(TypeError, match=f"not {type(element).__name__}"):
        element_bytes(element)


# ── BF16 ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (0.0, 0x0000),
        (-0.0, 0x8000),
        (1.0, 0x3F80),
        (-2.0, 0xC000),
        (float("inf"), 0x7F80),
        (float("-inf"), 0xFF80),
        (3.140625, 0x4049),
        (1 + 2**-8, 0x3F80),  # halfway between two: to the even one below
        (1 + 3 * 2**-8, 0x3F82),  # halfway: to the even one above
        (1 + 2**-8 + 2**-20, 0x3F81),  # past halfway
        (1 + 2**-8 - 2**-20, 0x3F80),  # not quite halfway
        (-(1 + 2**-8), 0xBF80),
        (3.4028234663852886e38, 0x7F80),  # the largest float32 is nearer to infinity
        (3.3895313892515355e38, 0x7F7F),  # the largest BF16
        (2**-133, 0x0001),  # the smallest, which is subnormal
        (2**-134, 0x0000),  # half of it, to the even one
        (2**-134 + 2**-149, 0x0001),
    ],
)
def test_float32_is_rounded_to_the_nearest_even_bf16(value: float, bits: int) -> None:
    """As hardware does it."""
    assert fp32_to_bf16(np.array([value], np.float32)).tolist() == [bits]


@pytest.mark.parametrize("pattern", [0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFC00000, 0xFF800001, 0xFFFFFFFF])
def test_nan_stays_nan_with_its_sign(pattern: int) -> None:
    """Whatever the payload: cut off it could look like infinity, rounded up like zero."""
    nan = np.array([pattern], np.uint32).view(np.float32)
    back = bf16_to_fp32(fp32_to_bf16(nan))
    assert np.isnan(back).all()
    assert np.signbit(back).tolist() == [bool(pattern >> 31)]


def test_every_bf16_survives_the_way_through_float32() -> None:
    """All 65,536 of them: each is a float32, and the nearest BF16 to it is itself."""
    every = np.arange(1 << 16, dtype=np.uint16)
    values = bf16_to_fp32(every)
    assert values.dtype == np.float32
    again = fp32_to_bf16(values)
    assert again.dtype == np.uint16
    nan = np.isnan(values)
    assert nan.sum() == 2 * 127
    assert (again[~nan] == every[~nan]).all()
    assert np.isnan(bf16_to_fp32(again[nan])).all()


@given(npst.arrays(np.float32, shapes, elements=st.floats(width=32, allow_nan=False)))
@example(np.zeros((0, 3), np.float32))
def test_the_rounded_value_is_one_of_the_two_neighbours_and_the_nearer_one(values: Array) -> None:
    """The error of rounding is at most half a step, and the shape stays."""
    exact = values.astype(np.float64)
    rounded = bf16_to_fp32(fp32_to_bf16(values.astype(np.float32)))
    assert rounded.shape == values.shape
    finite = np.isfinite(rounded) & np.isfinite(exact)
    step = np.maximum(2.0 ** (np.floor(np.log2(np.maximum(np.abs(exact), 2.0**-126))) - 7), 2.0**-133)
    assert (np.abs(rounded[finite] - exact[finite]) <= step[finite] / 2).all()
    assert (np.isfinite(rounded) | (np.abs(exact) > 3.38e38)).all()


def test_bf16_conversion_takes_arrays_as_they_lie() -> None:
    """Transposed or stepped arrays are converted by their elements."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert bf16_to_fp32(fp32_to_bf16(array.T)).tolist() == array.T.tolist()
    assert bf16_to_fp32(fp32_to_bf16(array)[:, ::2]).tolist() == array[:, ::2].tolist()


# ── words ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("shape", "text"), [((), "[]"), ((4,), "[4]"), ((-1, 4), "[-1,4]")])
def test_shapes_are_shown_as_triton_shows_them(shape: tuple[int, ...], text: str) -> None:
    """Without blanks: clients compare messages."""
    assert show_shape(shape) == text
    assert show_shape(list(shape)) == text
