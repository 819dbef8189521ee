"""The repository of a soak: the example models with their known answers, and models whose answers are known by rule."""

import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from penstock_proto.datatypes import DATATYPES

Array: TypeAlias = NDArray[Any]  # of a datatype that is only known when it is read

EXAMPLES = ("iris", "digits", "language")
DOUBLED, SLOW, MEAN, COUNTER = "doubled", "slow", "mean", "counter"
SLOW_SECONDS = 0.05
LARGEST = 150_528
"""Values of the largest tensor for `doubled`: 602 KB."""

_HEADER = "import numpy as np\n\nfrom penstock_server.backends.python import PythonModel\n\n\n"
_CODE: Mapping[str, tuple[str, str]] = {
    DOUBLED: (
        """max_batch_size: 8
input [{ name: "X" data_type: TYPE_FP32 dims: [ -1 ] }]
output [{ name: "Y" data_type: TYPE_FP32 dims: [ -1 ] }]
dynamic_batching { }
""",
        """class Doubled(PythonModel):
    def infer(self, inputs, batch):
        return {"Y": inputs["X"] * np.float32(2)}
""",
    ),
    SLOW: (
        """max_batch_size: 8
input [{ name: "X" data_type: TYPE_INT32 dims: [ 1 ] }]
output [{ name: "Y" data_type: TYPE_INT32 dims: [ 1 ] }]
dynamic_batching { }
instance_group [{ count: 2 kind: KIND_CPU }]
""",
        f"""import time


class Slow(PythonModel):
    def infer(self, inputs, batch):
        time.sleep({SLOW_SECONDS})
        return {{"Y": inputs["X"] + 1}}
""",
    ),
    MEAN: (
        """max_batch_size: 16
input [{ name: "X" data_type: TYPE_FP32 dims: [ 1 ] }]
output [{ name: "MEAN" data_type: TYPE_FP32 dims: [ 1 ] }]
sequence_batching {
  oldest { max_candidate_sequences: 256 }
  max_sequence_idle_microseconds: 60000000
  state [{ input_name: "SEEN" output_name: "NEW_SEEN" data_type: TYPE_FP32 dims: [ 2 ] }]
}
""",
        """class RunningMean(PythonModel):
    def infer(self, inputs, batch):
        seen = inputs["SEEN"] + np.hstack([inputs["X"], np.ones_like(inputs["X"])])
        return {"MEAN": seen[:, :1] / seen[:, 1:], "NEW_SEEN": seen}
""",
    ),
    COUNTER: (
        """input [{ name: "N" data_type: TYPE_INT32 dims: [ 1 ] }]
output [{ name: "I" data_type: TYPE_INT32 dims: [ 1 ] }]
model_transaction_policy { decoupled: true }
""",
        """class Counter(PythonModel):
    async def infer(self, inputs, batch):
        for number in range(int(inputs["N"][0])):
            yield {"I": np.array([number], np.int32)}
""",
    ),
}


class _Tensor(TypedDict):
    datatype: str
    values: list[Any]


class _Stored(TypedDict):
    tolerance: float
    inputs: dict[str, _Tensor]
    expected: dict[str, _Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """Rows for a model, and the answers they are known to give."""

    model: str
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]
    tolerance: float

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    def differences(self, rows: Sequence[int], answer: Mapping[str, Array]) -> str:
        """How an answer to these rows differs from what is due; empty: it does not."""
        if set(answer) != set(self.expected):
            return f"the outputs are {', '.join(sorted(answer))}"
        for name, every in self.expected.items():
            due, given = every[list(rows)], answer[name]
            if given.shape != due.shape:
                return f"'{name}' has shape {list(given.shape)}, not {list(due.shape)}"
            if due.dtype.kind == "f":
                if not np.allclose(given, due, rtol=0, atol=self.tolerance):
                    return f"'{name}' has other values"
            elif not np.array_equal(given, due):
                return f"'{name}' has other values"
        return ""


def write_repository(folder: Path) -> list[Example]:
    """Everything that is served, into this folder. What is known of the example models."""
    package = importlib.util.find_spec("penstock_server")  # found, not imported: only the files are of interest
    places = None if package is None else package.submodule_search_locations
    if not places:
        raise FileNotFoundError("Penstock's example models are not installed")
    examples = Path(places[0], "examples")
    for name in EXAMPLES:
        shutil.copytree(examples / "models" / name, folder / name)
    for name, (config, code) in _CODE.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(f'name: "{name}"\nbackend: "python"\n{config}')
        (version / "model.py").write_text(_HEADER + code)
    return [_read(examples / "data" / f"{name}.json") for name in EXAMPLES]


def _read(path: Path) -> Example:
    stored: _Stored = json.loads(path.read_text(encoding="utf-8"))
    inputs = {name: _array(tensor) for name, tensor in stored["inputs"].items()}
    expected = {name: _array(tensor) for name, tensor in stored["expected"].items()}
    return Example(path.stem, inputs, expected, stored["tolerance"])


def _array(tensor: _Tensor) -> Array:
    if tensor["datatype"] != "BYTES":
        return np.array(tensor["values"], DATATYPES[tensor["datatype"]].numpy)
    texts = np.array(tensor["values"], object)
    flat = [text.encode() for text in texts.ravel()]
    found = np.empty(len(flat), object)
    found[:] = flat
    return found.reshape(texts.shape)
