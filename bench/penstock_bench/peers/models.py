"""The models that every peer serves, and what is right about them: the same ONNX files, run here by ONNX Runtime.

* `iris`: four numbers in, a class and three probabilities out. Nothing to compute: it shows what a request costs.
* `mlp`: 1024-512-128-10 with ReLU, 2.4 MB of weights: something to gain from a batch.
* `image`: 3x224x224 float32, 602 KB in, three means out: what moving data costs.
* `mix`: 16 small models at once, each asked for 1, 2, 4 and 8 rows, every call with a timeout of its own: what a
  server's caches are worth when requests are of 64 forms.

Each has one input of float32 rows and a free batch axis. Weights are drawn with a fixed seed.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeAlias, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Rows: TypeAlias = NDArray[np.float32]
Array: TypeAlias = NDArray[np.generic]

MAX_BATCH = 64
"""For every peer that batches."""

_LAYERS = (1024, 512, 128, 10)
_IMAGE = (3, 224, 224)
_MIXED, _MIXED_WIDTHS, _MIXED_CLASSES = 16, (4, 8, 16, 32), 10
_MIXED_ROWS = (1, 2, 4, 8)
_FLOAT = 1  # of ONNX's TensorProto
_OPSET, _IR = 17, 8
_DATATYPES = {"tensor(float)": ("FP32", "<f4"), "tensor(int64)": ("INT64", "<i8")}


class _Value(Protocol):
    """ONNX Runtime's NodeArg."""

    name: str
    type: str
    shape: Sequence[int | str]


class Session(Protocol):
    """The part of ONNX Runtime's session that is used: it has no types of its own."""

    def get_inputs(self) -> Sequence[_Value]: ...
    def get_outputs(self) -> Sequence[_Value]: ...
    def run(self, outputs: Sequence[str], inputs: Mapping[str, Rows]) -> Sequence[Array]: ...


class _Options(Protocol):
    intra_op_num_threads: int


class _Runtime(Protocol):
    """The package, likewise."""

    def SessionOptions(self) -> _Options: ...
    def InferenceSession(self, path: str, options: _Options, *, providers: Sequence[str]) -> Session: ...


@dataclass(frozen=True, slots=True)
class Output:
    """One output; its shape is that of a row."""

    name: str
    datatype: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A model as a file, and as what it should answer."""

    name: str
    path: Path
    input: str
    shape: tuple[int, ...]
    """Of a row of the input, float32."""
    outputs: tuple[Output, ...]
    session: Session

    def draw(self, count: int, seed: int) -> Rows:
        """Random rows."""
        return np.random.default_rng(seed).standard_normal((count, *self.shape), np.float32)

    def expected(self, rows: Rows) -> list[Array]:
        """Every output for these rows, as ONNX Runtime gives it without any server."""
        return list(self.session.run([output.name for output in self.outputs], {self.input: rows}))

    def parse(self, answer: bytes) -> list[Array]:
        """One row's outputs out of their bytes, one after the other, as our programs of HTTP peers answer.

        Raises ValueError if the length is another one.
        """
        want = sum(output.row_bytes for output in self.outputs)
        if len(answer) != want:
            raise ValueError(f"{len(answer)} bytes came back, and {want} are due")
        found: list[Array] = []
        at = 0
        for output in self.outputs:
            part = answer[at : at + output.row_bytes]
            found.append(np.frombuffer(part, output.dtype).reshape((1, *output.shape)))
            at += output.row_bytes
        return found

    def config(self, backend: str, extra: str = "") -> str:
        """A `config.pbtxt` for Penstock and Triton."""
        tensors = [_tensor("input", self.input, "FP32", self.shape)]
        tensors += [_tensor("output", each.name, each.datatype, each.shape) for each in self.outputs]
        lines = [f'name: "{self.name}"', f'backend: "{backend}"', f"max_batch_size: {MAX_BATCH}", *tensors]
        return "\n".join([*lines, "dynamic_batching { }", extra, ""])


@dataclass(frozen=True, slots=True)
class ModelSet:
    """What one server has loaded at a time, and what of it is asked for: every model in every number of rows."""

    name: str
    models: tuple[BenchModel, ...]
    rows: tuple[int, ...] = (1,)
    """Of a request."""
    timeouts: bool = False
    """Whether each call has a timeout of its own under any load."""

    @property
    def forms(self) -> int:
        """Of requests that differ in more than ids and data."""
        return len(self.models) * len(self.rows)

    @property
    def only(self) -> BenchModel:
        """The model, if there is one. Raises ValueError."""
        (model,) = self.models
        return model


def _tensor(kind: str, name: str, datatype: str, shape: Sequence[int]) -> str:
    return f'{kind} [ {{ name: "{name}" data_type: TYPE_{datatype} dims: {list(shape)} }} ]'


def iris(folder: Path) -> Path:
    """The repository's example."""
    package = importlib.util.find_spec("penstock_server")  # found, not imported: only the file is of interest
    places = [] if package is None or package.submodule_search_locations is None else package.submodule_search_locations
    for place in places:
        path = Path(place, "examples", "models", "iris", "1", "model.onnx")
        if path.is_file():
            return path
    raise FileNotFoundError("Penstock's example models are not installed")


def mlp(folder: Path) -> Path:
    """Three layers with ReLU in between."""
    random = np.random.default_rng(1)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    value = "input"
    for number, (wide, narrow) in enumerate(pairwise(_LAYERS)):
        last = number == len(_LAYERS) - 2
        matrix = random.standard_normal((wide, narrow), np.float32) / np.float32(np.sqrt(wide))
        bias = random.standard_normal(narrow, np.float32)
        weights += [numpy_helper.from_array(matrix, f"w{number}"), numpy_helper.from_array(bias, f"b{number}")]
        out = "output" if last else f"sum{number}"
        nodes.append(helper.make_node("Gemm", [value, f"w{number}", f"b{number}"], [out]))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"relu{number}"]))
        value = f"relu{number}"
    return _save(folder / "mlp.onnx", nodes, _LAYERS[:1], _LAYERS[-1:], weights)


def image(folder: Path) -> Path:
    """The mean of each colour."""
    node = helper.make_node("ReduceMean", ["input"], ["output"], axes=[2, 3], keepdims=0)
    return _save(folder / "image.onnx", [node], _IMAGE, _IMAGE[:1], [])


def mixed(number: int) -> Callable[[Path], Path]:
    """One of the small models of the mix: a linear layer and a softmax, of its own weights."""

    def classifier(folder: Path) -> Path:
        width = _MIXED_WIDTHS[number % len(_MIXED_WIDTHS)]
        random = np.random.default_rng((2, number))
        weights = [
            numpy_helper.from_array(random.standard_normal((width, _MIXED_CLASSES), np.float32), "w"),
            numpy_helper.from_array(random.standard_normal(_MIXED_CLASSES, np.float32), "b"),
        ]
        nodes = [
            helper.make_node("Gemm", ["input", "w", "b"], ["sum"]),
            helper.make_node("Softmax", ["sum"], ["output"], axis=1),
        ]
        return _save(folder / f"{_mixed_name(number)}.onnx", nodes, (width,), (_MIXED_CLASSES,), weights)

    return classifier


def _mixed_name(number: int) -> str:
    return f"mixed-{number:02d}"


MAKERS: Mapping[str, Callable[[Path], Path]] = {"iris": iris, "mlp": mlp, "image": image}
MIX = "mix"


def make_set(name: str, folder: Path) -> ModelSet:
    """What is measured under this name, its files made in `folder`. Raises OSError."""
    if name == MIX:
        several = (_make(_mixed_name(number), folder, mixed(number)) for number in range(_MIXED))
        return ModelSet(name, tuple(several), _MIXED_ROWS, timeouts=True)
    return ModelSet(name, (make(name, folder),))


def make(name: str, folder: Path) -> BenchModel:
    """The model of this name, its file made in `folder`. Raises OSError."""
    return _make(name, folder, MAKERS[name])


def _make(name: str, folder: Path, maker: Callable[[Path], Path]) -> BenchModel:
    folder.mkdir(parents=True, exist_ok=True)
    path = maker(folder)
    session = open_session(path)
    given = session.get_inputs()[0]
    outputs = [Output(each.name, *_DATATYPES[each.type], _row(each)) for each in session.get_outputs()]
    return BenchModel(name, path, given.name, _row(given), tuple(outputs), session)


def open_session(path: Path) -> Session:
    """ONNX Runtime with the model, on one thread."""
    runtime = cast("_Runtime", import_module("onnxruntime"))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _row(value: _Value) -> tuple[int, ...]:
    return tuple(int(length) for length in value.shape[1:])


def _save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    rows_in: Sequence[int],
    rows_out: Sequence[int],
    weights: Sequence[onnx.TensorProto],
) -> Path:
    given = helper.make_tensor_value_info("input", _FLOAT, ["batch", *rows_in])
    result = helper.make_tensor_value_info("output", _FLOAT, ["batch", *rows_out])
    graph = helper.make_graph(nodes, path.stem, [given], [result], initializer=weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    path.write_bytes(made.SerializeToString())
    return path
