"""The example models keep what their repository promises, with ONNX Runtime alone: no server takes part."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

from penstock_server import examples
from penstock_server.examples import Example, Tensors

SCHEMA: Any = model_config_pb2  # has no annotations

MODELS = sorted(folder.name for folder in examples.REPOSITORY.iterdir())
EXAMPLES = examples.all_examples()

# An ONNX tensor type is one of these in a configuration.
CONFIG_TYPES = {
    "tensor(float)": SCHEMA.TYPE_FP32,
    "tensor(int64)": SCHEMA.TYPE_INT64,
    "tensor(string)": SCHEMA.TYPE_STRING,
}


def session_of(model: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(examples.REPOSITORY / model / "1" / "model.onnx")


def config_of(model: str) -> Any:  # a ModelConfig, of stubs without annotations
    text = (examples.REPOSITORY / model / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, SCHEMA.ModelConfig())


def run(session: onnxruntime.InferenceSession, inputs: Tensors) -> Tensors:
    """All outputs by name. ONNX Runtime takes and gives `str` where a server has bytes."""
    names = [output.name for output in session.get_outputs()]
    feed = {name: as_objects(array, bytes.decode) for name, array in inputs.items()}
    found = cast("list[NDArray[Any]]", session.run(names, feed))
    return {name: as_objects(array, str.encode) for name, array in zip(names, found, strict=True)}


def as_objects(array: NDArray[Any], each: Callable[[Any], object]) -> NDArray[Any]:
    if array.dtype != object:
        return array
    return np.array([each(element) for element in array.ravel()], object).reshape(array.shape)


@pytest.mark.parametrize("model", MODELS)
def test_a_configuration_is_one_that_triton_reads_and_tells_the_truth_about_the_model(model: str) -> None:
    """Names, datatypes and dimensions are those of the graph, and every axis of rows is dynamic."""
    config, session = config_of(model), session_of(model)
    assert config.name == model
    assert config.backend == "onnxruntime" or config.platform == "onnxruntime_onnx"
    assert config.max_batch_size > 1
    for told, found in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert {tensor.name: (tensor.data_type, [-1, *tensor.dims]) for tensor in told} == {
            value.name: (
                CONFIG_TYPES[value.type],
                [size if isinstance(size, int) else -1 for size in value.shape],
            )
            for value in found
        }


@pytest.mark.parametrize("model", MODELS)
def test_a_label_file_names_every_class(model: str) -> None:
    """As many labels as there are probabilities, no two alike."""
    for output in config_of(model).output:
        if output.label_filename:
            labels = (examples.REPOSITORY / model / output.label_filename).read_text(encoding="utf-8").splitlines()
            assert len(labels) == len(set(labels)) == output.dims[-1]


@pytest.mark.parametrize("model", MODELS)
def test_a_warm_up_request_gives_every_input(model: str) -> None:
    """A warm-up that leaves an input out, or gives it another type or size, would keep the model from loading."""
    config = config_of(model)
    for request in config.model_warmup:
        assert {name: (value.data_type, list(value.dims)) for name, value in request.inputs.items()} == {
            tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in config.input
        }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.model)
def test_onnx_runtime_gives_the_known_answers(example: Example) -> None:
    """What was computed without the file is what the file computes."""
    assert example.differences(run(session_of(example.model), example.inputs)) == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.model)
def test_rows_do_not_depend_on_each_other(example: Example) -> None:
    """Each row alone gives what it gives among others: the reason that they may be batched."""
    session = session_of(example.model)
    for row in range(len(example.rows)):
        alone = dataclasses.replace(
            example,
            inputs={name: array[row : row + 1] for name, array in example.inputs.items()},
            expected={name: array[row : row + 1] for name, array in example.expected.items()},
        )
        assert alone.differences(run(session, alone.inputs)) == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.model)
def test_the_known_answers_are_mostly_true(example: Example) -> None:
    """The models are real: what they find likeliest is, for most rows, what is so."""
    named = [line.rsplit(maxsplit=1)[0] for line in example.describe(example.expected)]
    right = sum(name == truth for name, truth in zip(named, example.truth, strict=True))
    assert right / len(named) > 0.8
    assert len(example.rows) == len(example.truth) == len(named) > 3


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.model)
def test_a_wrong_answer_is_seen(example: Example) -> None:
    """Another value, NaN, shape or type, a missing output and a strange one are each a difference."""
    likely = example.expected["probabilities"]
    wrong: dict[str, Tensors] = {
        "value": {**example.expected, "probabilities": likely + np.float32(2 * example.tolerance)},
        "nan": {**example.expected, "probabilities": likely * np.float32("nan")},
        "shape": {**example.expected, "probabilities": likely[:-1]},
        "type": {**example.expected, "probabilities": likely.astype(np.int64)},
        "label": {**example.expected, "label": example.expected["label"][::-1]},
        "missing": {"probabilities": likely},
        "strange": {**example.expected, "other": likely},
    }
    assert example.differences(example.expected) == []
    assert [name for name, outputs in wrong.items() if len(example.differences(outputs)) != 1] == []


def test_all_examples_together_stay_small() -> None:
    """They ship in every wheel."""
    root: Path = examples.REPOSITORY.parent
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 4_000_000
