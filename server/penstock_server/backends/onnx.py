"""Models in ONNX format, run by ONNX Runtime on the CPU.

One session serves all instances of a version: `InferenceSession.run` may be called from several
threads, and weights are then in memory once.

Settings from the config, by the names Triton's ONNX Runtime backend uses:
`optimization.graph.level` (-1 basic, 1 extended, 2 none, else all) and the parameters
`intra_op_thread_count`, `inter_op_thread_count` (0 = the backend's default) and `execution_mode`
(0 sequential, 1 parallel).
"""

import ctypes
import logging
import mmap
import os
import re
from collections.abc import Sequence
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import numpy as np

from penstock_proto.datatypes import DATATYPES, DataType
from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.backends.base import ModelBatch, ModelFiles, Tensors
from penstock_server.errors import LoadError, ModelError
from penstock_server.models.signature import Signature, SignatureTensor
from penstock_server.status import Status
from penstock_server.tensors.codec import Array

_log = logging.getLogger(__name__)

_DATATYPES = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}
"""V2 names by ONNX Runtime's names of element types."""

_BFLOAT16 = 16
"""`TensorProto.BFLOAT16`, the number that ONNX gives the type numpy lacks."""


class _Node(Protocol):
    """An input or output, as ONNX Runtime describes it. It has no type information of its own."""

    name: str
    type: str
    shape: Sequence[int | str | None] | None


class _Session(Protocol):
    """The part of `onnxruntime.InferenceSession` that is used here."""

    def get_inputs(self) -> Sequence[_Node]: ...
    def get_outputs(self) -> Sequence[_Node]: ...
    def run(self, output_names: Sequence[str], input_feed: Tensors) -> Sequence[Array]: ...
    def run_with_ort_values(self, output_names: Sequence[str], input_feed: dict[str, Any]) -> Sequence[Any]: ...


class OnnxBackend:
    """Opens `.onnx` files. `threads`: of a model that does not say; 0 = ONNX Runtime decides."""

    name: ClassVar[str] = "onnxruntime"

    def __init__(self, threads: int = 0) -> None:
        self._threads = threads

    def open(self, files: ModelFiles, config: ModelConfig) -> "OnnxModel":
        try:
            onnxruntime = _onnxruntime()
        except ImportError:
            raise LoadError(
                "ONNX models need ONNX Runtime: pip install 'penstock[onnx]'", model=files.model, file=str(files.path)
            ) from None
        path = files.path
        options = _session_options(config, files.model, self._threads)
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise LoadError(f"ONNX Runtime cannot load it: {error}", model=files.model, file=str(path)) from error
        return OnnxModel(session, files.model, path)


def _onnxruntime() -> Any:
    """The library, which is an extra: a server of Python models does without it."""
    # Its official builds report what they run to their maker unless told otherwise. What a server
    # serves is its operator's business.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return import_module("onnxruntime")


class OnnxModel:
    """A session and what it says of itself."""

    def __init__(self, session: _Session, model: str, path: Path) -> None:
        self._session = session
        self._takes_empty = not _is_recurrent(path)
        self.signature = _signature(session, model, str(path))

    def instances(self, config: ModelConfig, count: int) -> Sequence["OnnxInstance"]:
        return [OnnxInstance(self._session, self.signature, self._takes_empty) for _ in range(count)]


class OnnxInstance:
    """A caller of the session, on whatever thread."""

    may_run_inline: ClassVar[bool] = True

    def __init__(self, session: _Session, signature: Signature, takes_empty: bool) -> None:
        self._takes_empty = takes_empty
        self._session: _Session | None = session
        self._inputs = {tensor.name: tensor.datatype for tensor in signature.inputs}
        self._outputs = [tensor.name for tensor in signature.outputs]
        self._has_text = any(not datatype.itemsize for datatype in self._inputs.values())
        self._bf16 = any(t.datatype.name == "BF16" for t in (*signature.inputs, *signature.outputs))

    def run(self, batch: ModelBatch) -> Tensors:
        assert self._session is not None
        if not self._takes_empty:
            _refuse_empty(batch.inputs)
        wanted = batch.wanted_outputs()
        names = [name for name in self._outputs if name in wanted]
        feeds = self._with_text(batch) if self._has_text else batch.inputs
        outputs = self._run_ort_values(names, feeds) if self._bf16 else self._session.run(names, feeds)
        return dict(zip(names, outputs, strict=True))

    def _with_text(self, batch: ModelBatch) -> Tensors:
        """The inputs, those of BYTES as ONNX strings."""
        return {
            name: array if self._inputs[name].itemsize else _as_text(name, array, batch)
            for name, array in batch.inputs.items()
        }

    def _run_ort_values(self, names: list[str], feeds: Tensors) -> Sequence[Array]:
        """The way for BF16, which `run` cannot take from numpy: through typed values, over bit patterns."""
        assert self._session is not None
        ort_value = _onnxruntime().OrtValue
        values = {
            name: ort_value.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
            if self._inputs[name].name == "BF16"
            else ort_value.ortvalue_from_numpy(array)
            for name, array in feeds.items()
        }
        outputs = self._session.run_with_ort_values(names, values)
        return [_from_ort_value(output) for output in outputs]

    def close(self) -> None:
        self._session = None


def _from_ort_value(value: Any) -> Array:
    if value.element_type() != _BFLOAT16:
        return cast("Array", value.numpy())
    # `numpy()` refuses BF16; the bytes behind the value are its bit patterns. The copy outlives the value.
    shape = tuple(value.shape())
    return np.frombuffer(ctypes.string_at(value.data_ptr(), 2 * prod(shape)), np.uint16).reshape(shape)


_RECURRENT = re.compile(rb"\x22[\x03-\x40][A-Za-z]*(?:LSTM|GRU|RNN)")
"""A node's operator in an ONNX file: the tag of `op_type`, a length, and a name with one of these in it."""


def _is_recurrent(path: Path) -> bool:
    """Whether a recurrent operator is in the file, or something that looks like one, which does no harm.

    ONNX Runtime aborts the whole process when such an operator meets an empty axis (seen in 1.22 and 1.32).
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _RECURRENT.search(content) is not None


def _refuse_empty(inputs: Tensors) -> None:
    for name, array in inputs.items():
        if not array.size:
            raise ModelError(Status.INVALID_ARGUMENT, f"input '{name}' has no elements, which this model does not take")


def _as_text(name: str, array: Array, batch: ModelBatch) -> Array:
    """A BYTES tensor as ONNX strings, which are UTF-8. A request whose bytes are not fails alone."""
    try:
        return _decode(array)
    except UnicodeDecodeError:
        pass
    text = np.full(array.shape, "", object)
    if len(batch.requests) == 1:  # whose array may have no axes, or none that is the batch
        batch.fail(0, Status.INVALID_ARGUMENT, _not_text(name))
        return text
    for index, (start, end) in enumerate(batch.row_ranges()):
        try:
            text[start:end] = _decode(array[start:end])
        except UnicodeDecodeError:
            batch.fail(index, Status.INVALID_ARGUMENT, _not_text(name))
    return text


def _not_text(name: str) -> str:
    return f"input '{name}' holds bytes that are not UTF-8 text"


def _decode(array: Array) -> Array:
    text = np.empty(array.size, object)
    text[:] = [element.decode() for element in cast("Sequence[bytes]", array.flat)]
    return text.reshape(array.shape)


def _signature(session: _Session, model: str, file: str) -> Signature:
    """Inputs and outputs of a session. Outputs that are no tensors are left out, with a warning."""
    inputs: list[SignatureTensor] = []
    outputs: list[SignatureTensor] = []
    for node in session.get_inputs():
        datatype = _datatype(node.type)
        if datatype is None:
            raise LoadError(f"input '{node.name}' is a {node.type}, which no V2 tensor can be", model=model, file=file)
        inputs.append(SignatureTensor(node.name, datatype, _shape(node.shape)))
    for node in session.get_outputs():
        datatype = _datatype(node.type)
        if datatype is None:
            _log.warning(
                "model '%s': output '%s' is a %s and no tensor, so it is left out "
                "(a scikit-learn classifier: convert it with options={'zipmap': False})",
                model, node.name, node.type,
            )  # fmt: skip
            continue
        outputs.append(SignatureTensor(node.name, datatype, _shape(node.shape)))
    if any(t.datatype.name == "BF16" for t in (*inputs, *outputs)) and any(t.datatype.name == "BYTES" for t in inputs):
        # BF16 takes typed values, which ONNX Runtime makes of everything from Python but text.
        raise LoadError("BYTES inputs beside BF16 tensors are not supported", model=model, file=file)
    if not outputs:
        raise LoadError(
            "none of its outputs is a tensor (a scikit-learn classifier: convert it with options={'zipmap': False})",
            model=model, file=file,
        )  # fmt: skip
    return Signature(tuple(inputs), tuple(outputs))


def _datatype(onnx_type: str) -> DataType | None:
    """`tensor(float)` is FP32; None for what is no tensor of a V2 datatype."""
    if not (onnx_type.startswith("tensor(") and onnx_type.endswith(")")):
        return None
    name = _DATATYPES.get(onnx_type[len("tensor(") : -1])
    return DATATYPES[name] if name else None


def _shape(axes: Sequence[int | str | None] | None) -> tuple[int, ...]:
    """Axes that are named or unknown are of any length."""
    return tuple(axis if isinstance(axis, int) and axis >= 0 else -1 for axis in axes or ())


def _session_options(config: ModelConfig, model: str, threads: int = 0) -> Any:
    ort = _onnxruntime()
    options = ort.SessionOptions()
    levels = {
        -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }
    options.graph_optimization_level = levels.get(
        config.optimization.graph.level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    )
    options.intra_op_num_threads = _number(config, "intra_op_thread_count", _MOST_THREADS, model) or threads
    options.inter_op_num_threads = _number(config, "inter_op_thread_count", _MOST_THREADS, model) or threads
    if _number(config, "execution_mode", 1, model) == 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    # Idle threads that spin take the cores that the loop and the other models need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; they come as exceptions too
    return options


_MOST_THREADS = 1 << 16


def _number(config: ModelConfig, parameter: str, largest: int, model: str) -> int:
    # Looking a missing key up in a protobuf map would add it.
    text = config.parameters[parameter].string_value if parameter in config.parameters else "0"
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) > largest:
        field = f"parameters['{parameter}']"
        reason = f"must be a whole number from 0 to {largest}, not '{text}'"
        raise LoadError(reason, model=model, file=f"{model}/config.pbtxt", field=field)
    return int(text)
