"""Between what users hold and what travels: a datatype, a shape and raw contents.

    numpy array      sent as it is: its dtype names the datatype, nothing is cast
    Tensor(x, "..")  converted to the datatype it states
    plain values     (numbers, strings, lists of them) converted to what the model expects

A conversion may lose precision but not the sense of a value: floats do not become integers, numbers
do not become strings, integers must be in range, a finite float must not become infinite.

Fixed-size datatypes are views both ways: nothing is copied where an array is contiguous. BYTES
tensors are object arrays of `bytes`. BF16, which numpy lacks, is float32 to the user: exact on the
way in, rounded to nearest even on the way out. A `uint16` array stated as BF16 is taken for bit
patterns, and an array of `ml_dtypes.bfloat16` is known by its name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock_client.errors import InputError
from penstock_proto import byte_tensors
from penstock_proto.datatypes import DATATYPES, DataType

# Any: the dtype is known when a model answers, and users calculate with the result.
Array: TypeAlias = NDArray[Any]
Buffer: TypeAlias = bytes | memoryview

BYTES, BF16 = DATATYPES["BYTES"], DATATYPES["BF16"]
_BY_DTYPE = {np.dtype(datatype.numpy): datatype for datatype in DATATYPES.values() if datatype not in (BYTES, BF16)}
_STRINGS = {"O": "objects", "S": "bytes", "U": "text", "T": "text"}
"""The kinds of numpy arrays that may hold strings, in words."""


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A value and the datatype to send it as, whatever its own dtype.

    >>> client.infer("m", {"x": Tensor([[1.5, 2.5]], "BF16"), "mask": Tensor(counts, "INT8")})
    """

    value: ArrayLike
    datatype: str
    """A name of the V2 protocol: BOOL, UINT8 … UINT64, INT8 … INT64, FP16, FP32, FP64, BF16 or BYTES."""

    def __post_init__(self) -> None:
        if self.datatype not in DATATYPES:
            raise InputError(f"there is no datatype '{self.datatype}'; there are {', '.join(DATATYPES)}")


TensorLike: TypeAlias = ArrayLike | Tensor
"""What `infer` takes as an input."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tensor as it travels."""

    datatype: DataType
    shape: tuple[int, ...]
    raw: Buffer


def is_plain(value: TensorLike) -> bool:
    """Whether this names no datatype of its own: Python's numbers, strings and sequences."""
    return isinstance(value, bool | int | float | str | bytes | list | tuple | range)


def encode(value: TensorLike, expected: DataType | None, what: str) -> Encoded:
    """The value as it travels. `expected` is the model's datatype; only plain values need it.

    InputError, which calls the value `what`, if it cannot be sent.
    """
    try:
        datatype, array = _resolved(value, expected)
        return Encoded(datatype, array.shape, raw_of(array, datatype))
    except (ValueError, TypeError, ArithmeticError) as error:  # ours, and numpy's: ragged lists, overflows
        raise InputError(f"{what}: {error}") from error


def _resolved(value: TensorLike, expected: DataType | None) -> tuple[DataType, Array]:
    """The datatype to send, and the array in that datatype's numpy dtype."""
    if isinstance(value, Tensor):
        datatype = DATATYPES[value.datatype]
        return datatype, converted(value.value, datatype)
    if expected is not None and is_plain(value):
        return expected, converted(value, expected)
    array = np.asarray(value)
    dtype = array.dtype
    known = _BY_DTYPE.get(dtype) or _BY_DTYPE.get(dtype.newbyteorder("<"))
    if known is not None:
        return known, array.astype(known.numpy, copy=False)  # big-endian: other bytes, the same values
    if dtype.name == "bfloat16":
        return BF16, array.view(BF16.numpy)
    if dtype.kind in _STRINGS:
        return BYTES, _byte_elements(array)
    raise InputError(f"the protocol has no datatype for {dtype}; convert it, or state one with Tensor(x, datatype)")


def converted(value: ArrayLike, datatype: DataType) -> Array:
    """The value as an array of the datatype's numpy dtype. ValueError or ArithmeticError if not safe."""
    if datatype is BYTES:
        # As objects, for numpy would drop the trailing zeros of bytes.
        return _byte_elements(np.asarray(value, object) if is_plain(value) else np.asarray(value))
    array = np.asarray(value)
    if datatype is BF16:
        if array.dtype.name == "bfloat16":
            return array.view(BF16.numpy)
        if array.dtype.newbyteorder("<") == BF16.numpy:
            return array.astype(BF16.numpy, copy=False)
        return fp32_to_bf16(_cast(array, np.dtype(np.float32), BF16))
    target = np.dtype(datatype.numpy)
    if target.kind in "iu" and (integers := _integers(array, value)) is not None:
        return _in_range(integers, target, datatype)
    return _cast(array, target, datatype)


def _integers(array: Array, value: ArrayLike) -> Array | None:
    """The array if it holds integers, whatever numpy made of them; else None."""
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind in "fO" and is_plain(value):
        # numpy makes floats of [1, 2**63], which no integer type of its own holds together with -1.
        objects = np.asarray(value, object)
        return objects if all(isinstance(one, int) for one in objects.flat) else None
    return None


def _in_range(integers: Array, target: np.dtype[Any], datatype: DataType) -> Array:
    bounds = np.iinfo(target)
    if integers.size and not (bounds.min <= integers.min() and integers.max() <= bounds.max):
        outside = next(one for one in integers.flat if not bounds.min <= one <= bounds.max)
        raise InputError(f"{outside} does not fit {datatype.name}")
    return integers.astype(target, copy=False)


def _cast(array: Array, target: np.dtype[Any], datatype: DataType) -> Array:
    # An empty list is float64 to numpy, which says nothing about what is not in it.
    if array.size and not np.can_cast(array.dtype, target, "same_kind"):
        raise _mismatch(array, datatype)
    with np.errstate(over="raise"):
        return array.astype(target, copy=False)


def _mismatch(array: Array, datatype: DataType) -> InputError:
    held = _STRINGS.get(array.dtype.kind, str(array.dtype))
    return InputError(f"got {held}, but {datatype.name} is expected, and one does not safely become the other")


def _byte_elements(array: Array) -> Array:
    """An array of strings as objects that are bytes; text becomes UTF-8."""
    if array.size and array.dtype.kind not in _STRINGS:
        raise _mismatch(array, BYTES)
    return object_array([_element(one) for one in array.ravel().tolist()], array.shape)


def _element(one: object) -> bytes:
    if isinstance(one, bytes):
        return one
    if isinstance(one, str):
        return one.encode()
    raise InputError(f"an element of a BYTES tensor is bytes or str, not {type(one).__name__}")


def raw_of(array: Array, datatype: DataType) -> Buffer:
    """The raw contents of an array of the datatype's numpy dtype, row-major. A view where it is contiguous."""
    if datatype is BYTES:
        return byte_tensors.pack(array.ravel().tolist())
    contiguous = np.ascontiguousarray(array)
    # A zero-size array has no memory to look at.
    return contiguous.reshape(-1).view(np.uint8).data if contiguous.size else b""


def decode(raw: bytes, datatype: DataType, shape: Sequence[int]) -> Array:
    """The array in raw contents: a read-only view of them, except for BYTES and BF16.

    ValueError if the contents do not fit the shape.
    """
    count = _elements(shape)
    if datatype is BYTES:
        return object_array(byte_tensors.unpack(raw), shape)
    if len(raw) != count * datatype.itemsize:
        raise ValueError(f"{len(raw)} bytes, where {count} elements of {datatype.name} were announced")
    flat: Array = np.frombuffer(raw, datatype.numpy)
    return (bf16_to_fp32(flat) if datatype is BF16 else flat).reshape(shape)


def decode_typed(values: Sequence[object], datatype: DataType, shape: Sequence[int]) -> Array:
    """The array of typed contents (`InferTensorContents`). ValueError if they do not fit the shape."""
    if datatype is BYTES:
        return object_array(values, shape)
    _elements(shape)
    return np.array(values, datatype.numpy).reshape(shape)


def object_array(elements: Sequence[object], shape: Sequence[int]) -> Array:
    """An object array of these elements, in row-major order. ValueError if they do not fit the shape."""
    if len(elements) != (count := _elements(shape)):
        raise ValueError(f"{len(elements)} elements, where {count} were announced")
    flat = np.empty(count, object)
    flat[:] = elements
    return flat.reshape(shape)


def _elements(shape: Sequence[int]) -> int:
    if any(dim < 0 for dim in shape):  # `reshape` would take -1 for "whatever fits"
        raise ValueError(f"a negative dimension in {list(shape)}")
    return prod(shape)


def bf16_to_fp32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """BF16 bit patterns as float32, exactly: a BF16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def fp32_to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 as BF16 bit patterns, rounded to nearest even; NaN stays NaN."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    bits = flat.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)  # rounding must not carry a NaN into infinity
    return np.where(np.isnan(flat), quiet, rounded).astype(np.uint16).reshape(values.shape)
