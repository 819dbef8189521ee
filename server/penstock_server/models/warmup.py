"""The samples of `model_warmup`: requests that a model runs before it counts as ready.

A sample says for each input whether it is zeros, random or read from `<model>/warmup/`. Its dims and its
file describe one row; the row is repeated up to `batch_size`. Shapes are those that clients use.

Random values are the same at every start. Floats lie in [0, 1) and integers are 0 or 1, so that inputs
which mean indices, lengths or flags stay valid. BYTES have no zero but the empty string, which stands
for random text as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from penstock_proto import byte_tensors, datatypes
from penstock_proto.model_config_pb2 import DataType, ModelConfig, ModelInput, ModelWarmup
from penstock_server.models.config import datatype_of
from penstock_server.models.paths import inside, read_inside
from penstock_server.models.problems import Problem, refuse
from penstock_server.tensors.codec import Array, fp32_to_bf16, object_array, view
from penstock_server.tensors.spec import show_shape

FOLDER = "warmup"
MAX_ELEMENTS = 1 << 28
"""Of one input of one sample, all rows together."""
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, eq=False)
class WarmupSample:
    """One request to run `count` times."""

    name: str
    rows: int
    """Rows along the first axis; 1 for a model without a batch axis."""
    inputs: dict[str, Array]
    """With the batch axis first if the model has one. BF16 as uint16 bit patterns, BYTES as objects of type bytes."""
    count: int


def warmup_samples(config: ModelConfig, model_dir: Path) -> list[WarmupSample]:
    """The samples of a completed configuration. LoadError names everything that is wrong with them.

    A sample with `batch_size` 0 is left out, one with `count` 0 runs once, as with Triton.
    """
    samples: list[WarmupSample] = []
    problems: list[Problem] = []
    for index, warmup in enumerate(config.model_warmup):
        if warmup.batch_size == 0:
            continue
        sample = _Sample(config, model_dir, warmup, f"model_warmup[{index}]")
        problems += sample.make()
        samples.append(WarmupSample(warmup.name, warmup.batch_size, sample.inputs, max(warmup.count, 1)))
    refuse(problems, model=config.name, file=f"{model_dir.name}/config.pbtxt")
    return samples


class _Sample:
    """One sample while its inputs are made."""

    def __init__(self, config: ModelConfig, model_dir: Path, warmup: ModelWarmup, field: str) -> None:
        self._config = config
        self._model_dir = model_dir
        self._folder = model_dir / FOLDER
        self._warmup = warmup
        self._field = field
        self._random = np.random.default_rng(0)
        self.inputs: dict[str, Array] = {}

    def make(self) -> Iterator[Problem]:
        """Fill `inputs`, and tell what keeps them from being made."""
        yield from self._batch_problems()
        declared = {tensor.name: tensor for tensor in self._config.input}
        controls = {control.name for control in self._config.sequence_batching.control_input}
        for name in sorted(self._warmup.inputs):  # a map has no order of its own
            if name in controls:
                continue
            if name not in declared:
                yield Problem(f"{self._field}.inputs", f"the model has no input '{name}'")
                continue
            try:
                self.inputs[name] = self._array(declared[name], self._warmup.inputs[name])
            except ValueError as error:
                yield Problem(f"{self._field}.inputs['{name}']", str(error))
        for name, tensor in declared.items():
            if name not in self._warmup.inputs and not tensor.optional:
                yield Problem(f"{self._field}.inputs", f"input '{name}' is missing")

    def _batch_problems(self) -> Iterator[Problem]:
        largest = max(self._config.max_batch_size, 1)
        if self._warmup.batch_size > largest:
            reason = f"{self._warmup.batch_size} is more than the model takes at once ({largest})"
            yield Problem(f"{self._field}.batch_size", reason)

    def _array(self, declared: ModelInput, given: ModelWarmup.Input) -> Array:
        datatype, shape = datatype_of(given.data_type), tuple(given.dims)
        if datatype is None or given.data_type != declared.data_type:
            expected, got = DataType.Name(declared.data_type), DataType.Name(given.data_type)
            raise ValueError(f"the model has {expected}, got {got}")
        if any(length < 0 for length in shape):
            raise ValueError(f"every axis needs a length, got dims {show_shape(shape)}")
        dims = tuple(declared.dims)
        if len(shape) != len(dims) or any(axis not in (-1, length) for axis, length in zip(dims, shape, strict=True)):
            raise ValueError(f"the model has dims {show_shape(dims)}, got {show_shape(shape)}")
        if prod(shape) * self._warmup.batch_size > MAX_ELEMENTS:
            raise ValueError(f"{prod(shape) * self._warmup.batch_size} elements are more than {MAX_ELEMENTS}")
        row = self._row(datatype, shape, given)
        if self._config.max_batch_size == 0:
            return row
        return np.repeat(row[np.newaxis], self._warmup.batch_size, axis=0)

    def _row(self, datatype: datatypes.DataType, shape: tuple[int, ...], given: ModelWarmup.Input) -> Array:
        match given.WhichOneof("input_data_type"):
            case "input_data_file":
                return self._from_file(datatype, shape, given.input_data_file)
            case "random_data" if datatype.itemsize:
                return self._random_row(datatype, shape)
            case "zero_data" | "random_data":
                return (
                    object_array([b""] * prod(shape), shape)
                    if not datatype.itemsize
                    else np.zeros(shape, datatype.numpy)
                )
            case _:
                raise ValueError("needs one of zero_data, random_data and input_data_file")

    def _random_row(self, datatype: datatypes.DataType, shape: tuple[int, ...]) -> Array:
        if datatype.name == "BF16":
            return fp32_to_bf16(self._random.random(shape, np.float32))
        if datatype.numpy.startswith("<f"):
            return self._random.random(shape).astype(datatype.numpy)
        return self._random.integers(0, 2, shape).astype(datatype.numpy)

    def _from_file(self, datatype: datatypes.DataType, shape: tuple[int, ...], name: str) -> Array:
        if self._folder.exists() and not inside(self._folder, self._model_dir):
            raise ValueError(f"the folder '{FOLDER}' leads out of the model's")
        raw = read_inside(self._folder, name, MAX_FILE_BYTES)
        if not datatype.itemsize:
            elements = byte_tensors.unpack(raw)
            if len(elements) != prod(shape):
                raise ValueError(f"'{name}' has {len(elements)} strings, dims {show_shape(shape)} are {prod(shape)}")
            return object_array(elements, shape)
        size = prod(shape) * datatype.itemsize
        if len(raw) < size:
            raise ValueError(f"'{name}' has {len(raw)} bytes, dims {show_shape(shape)} of {datatype.name} are {size}")
        return view(memoryview(raw)[:size], datatype, shape)  # more rows than the one are no mistake
