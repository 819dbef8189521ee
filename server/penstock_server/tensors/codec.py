"""Between raw contents (bytes as they travel) and numpy arrays.

    raw ── view ──▶ array ── raw_of ──▶ raw

Fixed-size datatypes are views both ways: nothing is copied, and an array made from a request is
read-only because the bytes are. BYTES tensors are object arrays of `bytes`. BF16, which numpy lacks,
is an array of its 16-bit patterns (`uint16`); `bf16_to_fp32` and `fp32_to_bf16` convert.
"""

from collections.abc import Sequence
from math import prod
from sys import getsizeof
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock_proto import byte_tensors
from penstock_proto.datatypes import DATATYPES, DataType

Array = NDArray[Any]
"""A tensor. Its dtype is one of `DATATYPES`' numpy codes; unknown to type checkers, so that models can calculate."""

Buffer = bytes | memoryview

_DTYPES: dict[str, "np.dtype[Any]"] = {datatype.numpy: np.dtype(datatype.numpy) for datatype in DATATYPES.values()}


def dtype_of(datatype: DataType) -> "np.dtype[Any]":
    """Numpy's own object for it, which is quicker to compare with and to look through than its code."""
    return _DTYPES[datatype.numpy]


def view(raw: Buffer, datatype: DataType, shape: Sequence[int]) -> Array:
    """The array in these raw contents, whose size was checked to fit. No copy but for BYTES."""
    if datatype.itemsize:
        return np.frombuffer(raw, _DTYPES[datatype.numpy]).reshape(shape)
    return object_array(byte_tensors.unpack(raw), shape)


def object_array(elements: Sequence[bytes], shape: Sequence[int]) -> Array:
    """A BYTES tensor of these elements, in row-major order."""
    flat = np.empty(prod(shape), object)
    flat[:] = elements
    return flat.reshape(shape)


def raw_of(array: Array, datatype: DataType) -> Buffer:
    """The raw contents of an array, row-major. A view of it where it is contiguous already."""
    if datatype.itemsize:
        contiguous = np.ascontiguousarray(array)
        # A zero-size array has no memory to cast; numpy calls such a view not contiguous.
        return contiguous.reshape(-1).view(np.uint8).data if contiguous.size else b""
    return byte_tensors.pack(element_bytes(element) for element in array.flat)


def element_bytes(element: object) -> bytes:
    """An element of a BYTES tensor as bytes; text is UTF-8. TypeError for anything else."""
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        return element.encode()
    raise TypeError(f"an element of a BYTES tensor is bytes or str, not {type(element).__name__}")


def memory_of(array: Array) -> int:
    """Bytes that a tensor takes; of strings not only those of the references to them."""
    strings = sum(map(getsizeof, array.flat)) if array.dtype == object else 0
    return array.nbytes + strings


def bf16_to_fp32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """BF16 bit patterns as float32, exactly: a BF16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def fp32_to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 as BF16 bit patterns, rounded to nearest even; NaN stays NaN."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    bits = flat.view(np.uint32)
    upper = bits >> np.uint32(16)
    rounded = (bits + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)
    quiet = upper | np.uint32(0x40)  # rounding must not carry a NaN into infinity
    return np.where(np.isnan(flat), quiet, rounded).astype(np.uint16).reshape(np.shape(values))
