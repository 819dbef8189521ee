"""What becomes of the values users hand in, and what a conversion may not do."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import ArrayLike, NDArray

from penstock_client import InputError, Tensor
from penstock_client.tensors import TensorLike, bf16_to_fp32, decode, encode, fp32_to_bf16, is_plain
from penstock_proto.datatypes import DATATYPES

INTEGERS = [name for name in DATATYPES if "INT" in name]


def back(value: TensorLike, expected: str | None = None) -> NDArray[Any]:
    """The value after a journey to the wire and back."""
    tensor = encode(value, DATATYPES[expected] if expected else None, "it")
    return decode(bytes(tensor.raw), tensor.datatype, tensor.shape)


@pytest.mark.parametrize("name", [name for name in DATATYPES if name not in ("BYTES", "BF16")])
def test_a_dtype_names_its_datatype(name: str) -> None:
    """An array travels as the datatype of its own dtype, in either byte order, and no other."""
    native = np.arange(2).astype(DATATYPES[name].numpy)
    for array in (native, native.astype(native.dtype.newbyteorder())):
        tensor = encode(array, None, "it")
        assert tensor.datatype.name == name
        assert decode(bytes(tensor.raw), tensor.datatype, tensor.shape).tolist() == array.tolist()


@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, min_side=0, max_dims=4)))
def test_memory_layout_does_not_matter(array: NDArray[np.float32]) -> None:
    """Transposed, strided and reversed arrays travel in row-major order."""
    for view in (array, array.T, np.asfortranarray(array), array[..., ::-1] if array.ndim else array):
        np.testing.assert_array_equal(back(view), view)


def test_contiguous_arrays_are_not_copied() -> None:
    """The raw contents of a contiguous array are its own memory."""
    array = np.zeros(4, np.float32)
    raw = encode(array, None, "it").raw
    array[0] = 1.0
    assert bytes(raw) == array.tobytes()


@pytest.mark.parametrize("value", [1, 1.5, True, "a", b"a", [], [1], (1.0,), range(3), [[1], [2]]])
def test_python_values_are_plain(value: ArrayLike) -> None:
    """They name no datatype, so the model is asked."""
    assert is_plain(value)


@pytest.mark.parametrize("value", [np.zeros(2), np.float32(1), np.array(["a"]), Tensor([1], "FP32")])
def test_what_has_a_dtype_is_not_plain(value: TensorLike) -> None:
    """numpy's values and `Tensor` say themselves what they are."""
    assert not is_plain(value)


class TestStrings:
    @pytest.mark.parametrize(
        "value",
        [
            np.array(["é", "b"], object),
            np.array(["é".encode(), b"b"], object),
            np.array(["é", "b"]),
            np.array(["é".encode(), b"b"]),
        ],
    )
    def test_each_kind_of_string_array(self, value: NDArray[Any]) -> None:
        """Objects, fixed-width text and fixed-width bytes are BYTES; text is UTF-8."""
        assert encode(value, None, "it").datatype.name == "BYTES"
        assert back(value).tolist() == ["é".encode(), b"b"]

    def test_trailing_zeros_of_lists_are_kept(self) -> None:
        """numpy's own bytes arrays drop them, so a list never becomes one."""
        assert back([b"a\0", b"\0"], "BYTES").tolist() == [b"a\0", b"\0"]
        assert back(b"\0", "BYTES")[()] == b"\0"

    def test_text_and_bytes_mix(self) -> None:
        """A nested list of both keeps its shape and each element's bytes."""
        mixed: list[list[str | bytes]] = [["a", b"\xff"], ["", "ß"]]
        assert back(mixed, "BYTES").tolist() == [[b"a", b"\xff"], [b"", "ß".encode()]]

    @pytest.mark.parametrize("value", [[1], ["a", 1], [None], [["a"], "b"], [1.5]])
    def test_numbers_do_not_become_strings(self, value: ArrayLike) -> None:
        """What is no string is refused, by the name of its type."""
        with pytest.raises(InputError, match=r"^it: "):
            encode(value, DATATYPES["BYTES"], "it")

    def test_nor_do_arrays_of_numbers(self) -> None:
        """Stating BYTES for an array of numbers does not make strings of them."""
        with pytest.raises(InputError, match="got int64, but BYTES is expected"):
            encode(Tensor(np.array([1]), "BYTES"), None, "it")


class TestConversion:
    @pytest.mark.parametrize("name", INTEGERS)
    def test_integers_must_be_in_range(self, name: str) -> None:
        """The ends of the range pass exactly; one further is refused, with the number."""
        bounds = np.iinfo(DATATYPES[name].numpy)
        for ends in ([int(bounds.min), int(bounds.max)], [[int(bounds.max)], [0]]):
            assert back(ends, name).tolist() == ends
        for outside in (int(bounds.min) - 1, int(bounds.max) + 1):
            with pytest.raises(InputError, match=f"^it: {outside} does not fit {name}$"):
                encode([0, outside], DATATYPES[name], "it")

    def test_stated_integers_must_be_in_range_too(self) -> None:
        """`Tensor` converts an array of another width, but does not wrap its values."""
        assert back(Tensor(np.array([200]), "UINT8")).dtype == np.uint8
        with pytest.raises(InputError, match="300 does not fit UINT8"):
            encode(Tensor(np.array([300]), "UINT8"), None, "it")

    @pytest.mark.parametrize("name", ["FP16", "FP32", "FP64", "BF16"])
    def test_numbers_become_floats(self, name: str) -> None:
        """Integers, floats and truth values do, at the precision that the datatype has."""
        assert back([1, 2.5, True], name).tolist() == [1.0, 2.5, 1.0]

    @pytest.mark.parametrize(
        ("value", "name"),
        [([1.0], "INT32"), ([1.5], "BOOL"), ([1], "BOOL"), (["1"], "FP32"), (["1"], "INT8"), ([1j], "FP32")],
    )
    def test_the_sense_must_not_change(self, value: ArrayLike, name: str) -> None:
        """Floats do not become integers, numbers no truth values, strings and complex numbers no numbers."""
        with pytest.raises(InputError, match=f"{name} is expected"):
            encode(value, DATATYPES[name], "it")

    def test_a_finite_float_must_not_become_infinite(self) -> None:
        """Too large for the datatype is refused; infinity itself passes."""
        for value, name in (([1e300], "FP32"), ([70000], "FP16")):
            with pytest.raises(InputError, match="overflow"):
                encode(value, DATATYPES[name], "it")
        assert back([np.inf], "FP16").tolist() == [np.inf]

    @pytest.mark.parametrize("name", DATATYPES)
    def test_empty_lists_become_anything(self, name: str) -> None:
        """Nothing in it contradicts the datatype."""
        assert back([[], []], name).shape == (2, 0)

    def test_ragged_lists(self) -> None:
        """numpy's own complaint is passed on, with the name of the input."""
        with pytest.raises(InputError, match=r"^it: .*inhomogeneous"):
            encode([[1.0, 2.0], [3.0]], DATATYPES["FP32"], "it")

    @pytest.mark.parametrize("value", [np.array([1j]), np.array(["2026-01-01"], "M8[D]"), np.zeros(1, "f4,i4")])
    def test_dtypes_that_the_protocol_lacks(self, value: NDArray[Any]) -> None:
        """They are refused with a remedy."""
        with pytest.raises(InputError, match=r"no datatype for .*; convert it, or state one"):
            encode(value, None, "it")

    def test_an_unknown_datatype(self) -> None:
        """`Tensor` refuses it at once and lists those there are."""
        with pytest.raises(InputError, match="no datatype 'FLOAT'; there are BOOL, "):
            Tensor([1.0], "FLOAT")


class TestBf16:
    @given(st.integers(0, 2**16 - 1))
    def test_bits_survive(self, bits: int) -> None:
        """Each BF16 is exactly some float32, and that float32 becomes the same BF16 again (or NaN stays NaN)."""
        pattern = np.array([bits], np.uint16)
        value = bf16_to_fp32(pattern)
        again = fp32_to_bf16(value)
        assert np.isnan(value[0]) == np.isnan(bf16_to_fp32(again)[0])
        assert np.isnan(value[0]) or again[0] == bits

    @given(st.integers(0, 2**32 - 1), st.sampled_from([(), (1,)]))
    def test_any_float(self, bits: int, shape: tuple[int, ...]) -> None:
        """No pattern of bits overflows, NaN stays NaN and a scalar a scalar."""
        single = np.array([bits], np.uint32).view(np.float32).reshape(shape)
        rounded = fp32_to_bf16(single)
        assert rounded.shape == shape
        assert (np.isnan(bf16_to_fp32(rounded)) == np.isnan(single)).all()

    @given(st.floats(width=32, allow_nan=False))
    def test_rounding(self, value: float) -> None:
        """float32 is rounded to nearest even, as another implementation of BF16 does."""
        single = np.array([value], np.float32)
        assert fp32_to_bf16(single)[0] == single.astype(ml_dtypes.bfloat16).view(np.uint16)[0]

    @pytest.mark.parametrize("dtype", ["<u2", ">u2", ml_dtypes.bfloat16])
    def test_what_is_bf16_already(self, dtype: Any) -> None:
        """A stated `uint16` array is bit patterns, one of `ml_dtypes.bfloat16` is known for what it is."""
        source = np.array([0x3FC0, 0xC020], "u2")
        array = source.view(dtype) if dtype is ml_dtypes.bfloat16 else source.astype(dtype)
        assert back(Tensor(array, "BF16")).tolist() == [1.5, -2.5]

    def test_its_arrays_need_not_be_stated(self) -> None:
        """An array of `ml_dtypes.bfloat16` names its datatype like any other."""
        assert encode(np.array([1.5], ml_dtypes.bfloat16), None, "it").datatype.name == "BF16"

    def test_small_integers_are_numbers_in_a_list(self) -> None:
        """Only an array is bit patterns: [1] is 1.0."""
        assert back([1, 2], "BF16").tolist() == [1.0, 2.0]

    def test_a_scalar_stays_one(self) -> None:
        """Shape [] survives the conversion."""
        assert back(1.5, "BF16").shape == ()
