"""The table of datatypes agrees with everything that it stands for: the enum, numpy, and the typed contents."""

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from penstock_proto import model_config_pb2, open_inference_pb2
from penstock_proto.datatypes import BY_CONFIG_NAME, DATATYPES, DataType

ALL = [pytest.param(datatype, id=name) for name, datatype in DATATYPES.items()]
CONTENTS = open_inference_pb2.InferTensorContents.DESCRIPTOR


def test_the_table_is_the_enum_of_model_config() -> None:
    """Each value of the enum but TYPE_INVALID, in its order."""
    assert list(BY_CONFIG_NAME) == model_config_pb2.DataType.keys()[1:]
    assert model_config_pb2.DataType.keys()[0] == "TYPE_INVALID"


def test_the_names_are_the_enums_without_prefix() -> None:
    """Except that requests call TYPE_STRING `BYTES`."""
    assert {name: datatype.name for name, datatype in BY_CONFIG_NAME.items()} == {
        name: "BYTES" if name == "TYPE_STRING" else name.removeprefix("TYPE_") for name in BY_CONFIG_NAME
    }
    assert {datatype.name: datatype for datatype in DATATYPES.values()} == DATATYPES
    assert list(DATATYPES.values()) == list(BY_CONFIG_NAME.values())


@pytest.mark.parametrize("datatype", ALL)
def test_itemsize_and_byte_order_are_numpys(datatype: DataType) -> None:
    """BYTES has no size of its own; everything else has numpy's, and is little-endian where that matters."""
    dtype = np.dtype(datatype.numpy)
    if datatype.name == "BYTES":
        assert (datatype.itemsize, dtype) == (0, np.dtype(object))
    else:
        assert datatype.itemsize == dtype.itemsize
        assert dtype == dtype.newbyteorder("<")


@pytest.mark.parametrize("datatype", ALL)
def test_numpy_dtypes_are_those_of_tritonclient(datatype: DataType) -> None:
    """A migrating user gets the arrays they know. BF16, which tritonclient turns into float32, keeps its bits here."""
    if datatype.name == "BF16":
        assert np.dtype(datatype.numpy) == np.uint16
    else:
        assert np.dtype(triton_to_np_dtype(datatype.name)) == np.dtype(datatype.numpy)
        assert np_to_triton_dtype(np.dtype(datatype.numpy)) == datatype.name


@pytest.mark.parametrize("datatype", ALL)
def test_typed_contents_are_the_narrowest_of_their_kind(datatype: DataType) -> None:
    """Protobuf has 32 and 64 bits, signed and not: each integer goes to its own. FP16 and BF16 travel only raw."""
    if datatype.name in ("FP16", "BF16"):
        assert datatype.contents is None
        return
    assert datatype.contents is not None
    kind, wide = np.dtype(datatype.numpy).kind, datatype.itemsize > 4
    field = CONTENTS.fields_by_name[datatype.contents]
    assert field.is_repeated
    assert (
        field.type
        == {
            "b": FieldDescriptor.TYPE_BOOL,
            "i": FieldDescriptor.TYPE_INT64 if wide else FieldDescriptor.TYPE_INT32,
            "u": FieldDescriptor.TYPE_UINT64 if wide else FieldDescriptor.TYPE_UINT32,
            "f": FieldDescriptor.TYPE_DOUBLE if wide else FieldDescriptor.TYPE_FLOAT,
            "O": FieldDescriptor.TYPE_BYTES,
        }[kind]
    )


def test_every_field_of_contents_is_used() -> None:
    """A field that no datatype names would be one that the server cannot read."""
    assert {datatype.contents for datatype in DATATYPES.values()} - {None} == set(CONTENTS.fields_by_name)
