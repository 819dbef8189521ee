"""The models that are plain arithmetic, as ONNX graphs: made here, in memory, and never committed as files.

Keyed like the files of `models/`, so that a graph stands for the Python model of its key.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

_OPSET, _IR = 17, 9
_TYPES = {
    "BOOL": TensorProto.BOOL,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}

Shape = Sequence[int | str]


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model file."""
    path.write_bytes(model.SerializeToString())


def _model(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, name, inputs, outputs, initializer=constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)


def _value(name: str, datatype: str, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _TYPES[datatype], shape)


def _addsub(name: str, version: int) -> onnx.ModelProto:
    shape = ("rows", 4)
    factor = 10.0 if version == 2 else 1.0
    return _model(
        name,
        [
            helper.make_node("Add", ["A", "B"], ["sum"]),
            helper.make_node("Sub", ["A", "B"], ["diff"]),
            helper.make_node("Mul", ["sum", "factor"], ["SUM"]),
            helper.make_node("Mul", ["diff", "factor"], ["DIFF"]),
        ],
        [_value("A", "FP32", shape), _value("B", "FP32", shape)],
        [_value("SUM", "FP32", shape), _value("DIFF", "FP32", shape)],
        [helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])],
    )


def _intsum(name: str, version: int) -> onnx.ModelProto:
    return _model(
        name,
        [
            helper.make_node("Add", ["X", "Y"], ["xy"]),
            helper.make_node("Add", ["xy", "Z"], ["SUM"]),
            helper.make_node("ReduceSum", ["SUM"], ["total"], keepdims=0),
            helper.make_node("Reshape", ["total", "one"], ["TOTAL"]),
        ],
        [_value("X", "INT32", (2, 3)), _value("Y", "INT32", (2, 3)), _value("Z", "INT32", (1,))],
        [_value("SUM", "INT32", (2, 3)), _value("TOTAL", "INT32", (1,))],
        [helper.make_tensor("one", TensorProto.INT64, [1], [1])],
    )


def _passthrough(name: str, version: int) -> onnx.ModelProto:
    """`pass_<T>` by its name; any other name is `alltypes`."""
    if name.startswith("pass_"):
        suffixes = {"": name.removeprefix("pass_")}
    else:
        suffixes = {f"_{datatype}": datatype for datatype in _TYPES if datatype != "BF16"}
    return _model(
        name,
        [helper.make_node("Identity", [f"IN{suffix}"], [f"OUT{suffix}"]) for suffix in suffixes],
        [_value(f"IN{suffix}", datatype, (f"n{suffix}",)) for suffix, datatype in suffixes.items()],
        [_value(f"OUT{suffix}", datatype, (f"n{suffix}",)) for suffix, datatype in suffixes.items()],
    )


def _classifier(name: str, version: int) -> onnx.ModelProto:
    shape = ("rows", 4)
    return _model(
        name,
        [
            helper.make_node("Identity", ["IN"], ["SCORES"]),
            helper.make_node("Cast", ["IN"], ["RANKS"], to=TensorProto.INT32),
        ],
        [_value("IN", "FP32", shape)],
        [_value("SCORES", "FP32", shape), _value("RANKS", "INT32", shape)],
    )


GRAPHS: dict[str, Callable[[str, int], onnx.ModelProto]] = {
    "addsub": _addsub,
    "intsum": _intsum,
    "passthrough": _passthrough,
    "classifier": _classifier,
}
"""A function of a model's name and version for each."""
