"""Models that nobody has seen before: scikit-learn pipelines, trained and converted here, served as single files.

The answers are held against scikit-learn's own.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from penstock_proto import open_inference_pb2 as pb
from penstock_proto.datatypes import DATATYPES
from penstock_server.errors import LoadError
from penstock_server.models.spec import ModelSpec
from penstock_server.tensors.codec import raw_of, view
from tests.server.app.conftest import Caller, Start

INFER = "/inference.GRPCInferenceService/ModelInfer"

Array = NDArray[Any]
Pipeline = Any

random = np.random.default_rng(7)
X = random.normal(size=(60, 3)).astype(np.float32)
LABELS = np.array(["low", "high", "middle"])[np.digitize(X.sum(axis=1), [-1, 1]) % 3]
COLOURS = np.array([["red"], ["green"], ["blue"]] * 20, object)


def to_onnx(pipeline: Pipeline, inputs: Sequence[tuple[str, Any]], zipmap: bool | None) -> bytes:
    """Convert a pipeline; `zipmap` None leaves it to the converter, whose default is to make lists of maps."""
    options = {} if zipmap is None else {id(pipeline): {"zipmap": zipmap}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        made: Any = convert_sklearn(pipeline, initial_types=list(inputs), options=options, target_opset=17)
    return bytes(made.SerializeToString())


def floats(rows: int | None, columns: int = 3) -> list[tuple[str, Any]]:
    return [("X", FloatTensorType([rows, columns]))]


def strings() -> list[tuple[str, Any]]:
    return [("X", StringTensorType([None, 1]))]


@pytest.fixture(scope="module")
def classifier() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(X, LABELS)


Save = Callable[[str, bytes], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return save


async def infer(call: Caller, model: str, x: Array, datatype: str = "FP32") -> dict[str, Array]:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="X", datatype=datatype, shape=x.shape)
    request.raw_input_contents.append(bytes(raw_of(x, DATATYPES[datatype])))
    response = await call(INFER, request, pb.ModelInferResponse)
    return {
        output.name: view(raw, DATATYPES[output.datatype], output.shape)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def shapes(spec: ModelSpec) -> tuple[int, dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """The batch size, and the shapes of inputs and outputs."""
    inputs = {tensor.name: tensor.shape for tensor in spec.inputs}
    return spec.max_batch_size, inputs, {tensor.name: tensor.shape for tensor in spec.outputs}


async def test_a_classifier_with_tensors_for_outputs(start: Start, save: Save, classifier: Pipeline) -> None:
    """Its file is all there is: name, shapes and batches come from it."""
    path = save("My Classifier (v2).onnx", to_onnx(classifier, floats(None), zipmap=False))
    server = await start(path)
    (version,) = server.models.versions()
    assert shapes(version.spec) == (64, {"X": (3,)}, {"label": (1,), "probabilities": (3,)})
    async with Caller(server.port) as call:
        for rows in (1, 2, 60):
            outputs = await infer(call, version.spec.name, X[:rows])
            labels = [label.decode() for label in outputs["label"].reshape(-1)]
            assert labels == classifier.predict(X[:rows]).tolist()
            assert np.allclose(outputs["probabilities"], classifier.predict_proba(X[:rows]), atol=1e-5)


async def test_a_classifier_with_maps_for_outputs(
    start: Start, save: Save, classifier: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no tensor is left out, with a warning that says what to do; the labels are served."""
    path = save("zipmap.onnx", to_onnx(classifier, floats(None), zipmap=None))
    with caplog.at_level(logging.WARNING):
        server = await start(path)
    assert "options={'zipmap': False}" in caplog.text
    assert server.state.ready
    async with Caller(server.port) as call:
        outputs = await infer(call, "zipmap", X[:5])
        (labels,) = outputs.values()
        assert [label.decode() for label in labels.reshape(-1)] == classifier.predict(X[:5]).tolist()


async def test_a_model_for_a_fixed_number_of_rows(start: Start, save: Save, classifier: Pipeline) -> None:
    """Is served without batches: its first axis is one like the others."""
    path = save("fixed.onnx", to_onnx(classifier, floats(2), zipmap=False))
    server = await start(path)
    (version,) = server.models.versions()
    batch, inputs, _ = shapes(version.spec)
    assert (batch, inputs) == (0, {"X": (2, 3)})
    async with Caller(server.port) as call:
        outputs = await infer(call, "fixed", X[:2])
        assert [label.decode() for label in outputs["label"].reshape(-1)] == classifier.predict(X[:2]).tolist()
        request = pb.ModelInferRequest(model_name="fixed")
        request.inputs.add(name="X", datatype="FP32", shape=[1, 3])
        request.raw_input_contents.append(X[:1].tobytes())
        _, told = await call.end(INFER, request)
        assert "unexpected shape for input 'X' for model 'fixed'. Expected [2,3], got [1,3]" in told


async def test_a_regressor(start: Start, save: Save) -> None:
    """A forest, whose answers are numbers."""
    forest = RandomForestRegressor(n_estimators=5, random_state=0).fit(X, X.sum(axis=1))
    server = await start(save("forest.onnx", to_onnx(forest, floats(None), zipmap=None)))
    async with Caller(server.port) as call:
        (y,) = (await infer(call, "forest", X[:7])).values()
        assert np.allclose(y.reshape(-1), forest.predict(X[:7]), atol=1e-4)


async def test_a_model_of_text(start: Start, save: Save) -> None:
    """BYTES in: categories by name."""
    encoder = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), [0]))
    model = make_pipeline(encoder, LogisticRegression()).fit(COLOURS, COLOURS[:, 0])
    server = await start(save("colours.onnx", to_onnx(model, strings(), zipmap=False)))
    async with Caller(server.port) as call:
        x = np.array([[b"blue"], [b"red"], [b"purple"]], object)
        outputs = await infer(call, "colours", x, "BYTES")
        labels = [label.decode() for label in outputs["label"].reshape(-1)]
        assert labels[:2] == ["blue", "red"]
        assert np.allclose(
            outputs["probabilities"], model.predict_proba(np.array([["blue"], ["red"], ["purple"]], object)), atol=1e-5
        )


async def test_a_file_that_is_no_model(start: Start, save: Save) -> None:
    """Is served as nothing: the server stays, and is not ready."""
    server = await start(save("broken.onnx", b"no model"))
    assert not server.state.ready
    assert list(server.models.versions()) == []
    with pytest.raises(LoadError, match="ONNX model"):
        await start(save("notes.txt", b"no model"))
