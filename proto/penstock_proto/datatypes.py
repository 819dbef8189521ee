"""The tensor datatypes of the V2 protocol, as one table.

Server and client share it, so it names numpy's types by their codes and imports nothing. All
multi-byte values travel little-endian.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataType:
    """One datatype of the V2 protocol."""

    name: str
    """As it is written in requests, `FP32`."""
    itemsize: int
    """Bytes an element takes in raw contents; 0 for BYTES, whose elements carry their own length."""
    numpy: str
    """The numpy dtype code. BF16, which numpy lacks, travels as its bit pattern (`<u2`); BYTES as `O`."""
    contents: str | None
    """The field of `InferTensorContents` for typed contents; None if only raw contents can carry it."""
    config_name: str
    """The name in `model_config.proto`'s `DataType`, `TYPE_FP32`."""


DATATYPES: dict[str, DataType] = {
    datatype.name: datatype
    for datatype in (
        DataType("BOOL", 1, "?", "bool_contents", "TYPE_BOOL"),
        DataType("UINT8", 1, "|u1", "uint_contents", "TYPE_UINT8"),
        DataType("UINT16", 2, "<u2", "uint_contents", "TYPE_UINT16"),
        DataType("UINT32", 4, "<u4", "uint_contents", "TYPE_UINT32"),
        DataType("UINT64", 8, "<u8", "uint64_contents", "TYPE_UINT64"),
        DataType("INT8", 1, "|i1", "int_contents", "TYPE_INT8"),
        DataType("INT16", 2, "<i2", "int_contents", "TYPE_INT16"),
        DataType("INT32", 4, "<i4", "int_contents", "TYPE_INT32"),
        DataType("INT64", 8, "<i8", "int64_contents", "TYPE_INT64"),
        DataType("FP16", 2, "<f2", None, "TYPE_FP16"),
        DataType("FP32", 4, "<f4", "fp32_contents", "TYPE_FP32"),
        DataType("FP64", 8, "<f8", "fp64_contents", "TYPE_FP64"),
        DataType("BYTES", 0, "O", "bytes_contents", "TYPE_STRING"),
        DataType("BF16", 2, "<u2", None, "TYPE_BF16"),
    )
}
"""By V2 name, in the order of `model_config.proto`."""

BY_CONFIG_NAME: dict[str, DataType] = {datatype.config_name: datatype for datatype in DATATYPES.values()}
"""By the name in `config.pbtxt`."""
