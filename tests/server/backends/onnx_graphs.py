"""Small ONNX models, made while the tests run."""

from collections.abc import Sequence
from typing import Any

from onnx import TensorProto, helper

from penstock_proto.datatypes import DataType

ELEMENT_TYPES: dict[str, int] = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
    "BF16": TensorProto.BFLOAT16,
}
"""ONNX's numbers of element types by V2 names."""

Node = Any
Value = Any
Axis = int | str | None


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> Node:
    """`node("Add", "A B", "SUM")`."""
    return helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def value(name: str, datatype: DataType, *shape: Axis) -> Value:
    """An input or output; an axis is a length, a name, or None where nothing is known of it."""
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[datatype.name], shape)


def model(
    nodes: Sequence[Node], inputs: Sequence[Value], outputs: Sequence[Value], initializers: Sequence[Any] = ()
) -> bytes:
    """The file of a model."""
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializer=initializers)
    # An operator set and a file format that every supported version of ONNX Runtime reads.
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


def identity(datatype: DataType, *shape: Axis) -> bytes:
    """X comes back as Y."""
    return model([node("Identity", "X", "Y")], [value("X", datatype, *shape)], [value("Y", datatype, *shape)])
