"""A single `.onnx` file is served with no configuration at all, as its maker's library writes it."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from penstock_client import Client
from penstock_server.cli import main
from tests.server.cli.conftest import Ear
from tests.server.cli.processes import serving

TORCH = Path(__file__).parent.parent.parent / "data/torch_mlp.onnx"
TORCH_ANSWERS: dict[str, list[list[float]]] = json.loads(TORCH.with_suffix(".json").read_text())

X, Y = load_iris(return_X_y=True)
CLASSIFIER = LogisticRegression(max_iter=1000).fit(X.astype(np.float32), Y)


def from_sklearn(file: Path, *, zipmap: bool) -> Path:
    """A classifier as skl2onnx converts it: with `zipmap`, its default, the probabilities are no tensor."""
    options = None if zipmap else {"zipmap": False}
    model = to_onnx(CLASSIFIER, X[:1].astype(np.float32), options=options)
    assert isinstance(model, onnx.ModelProto)
    onnx.save(model, file)
    return file


def doubling(file: Path, *axes: int | str) -> Path:
    """A graph that doubles a tensor of this shape, in which names are axes of any length."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubling", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


def test_what_torch_exports_is_served(tmp_path: Path) -> None:
    """Under the file's name, in batches of up to 64 rows, with PyTorch's own answers."""
    with serving(TORCH) as server, Client(server.target, timeout=60.0) as client:
        assert "x FP32 [-1,4] → probabilities FP32 [-1,3]" in server.until("model", "torch_mlp")["message"]
        assert client.model_config("torch_mlp").max_batch_size == 64
        answer = client.infer("torch_mlp", {"x": TORCH_ANSWERS["x"]})
        np.testing.assert_allclose(answer["probabilities"], TORCH_ANSWERS["probabilities"], rtol=1e-5)


def test_what_is_no_tensor_is_left_out_with_a_remedy(tmp_path: Path) -> None:
    """skl2onnx writes probabilities as a map unless told otherwise; the labels are served all the same."""
    with serving(from_sklearn(tmp_path / "my model.onnx", zipmap=True)) as server:
        model = server.until("model")["model"]
        with Client(server.target, timeout=60.0) as client:
            labels = client.infer(model, {"X": X.astype(np.float32)[:64]})["output_label"]
        assert labels[:, 0].tolist() == CLASSIFIER.predict(X[:64]).tolist()
        warning = server.until("message", "output_probability")
        assert warning["level"] == "warning"
        assert "options={'zipmap': False}" in warning["message"]
        assert server.until("ready")["ready"] is True


@pytest.mark.parametrize(
    ("axes", "summary"),
    [
        (("batch", 3), "x FP32 [-1,3] → y FP32 [-1,3]"),
        ((2, 3), "x FP32 [2,3] → y FP32 [2,3]"),
        (("batch", "words", 3), "x FP32 [-1,-1,3] → y FP32 [-1,-1,3]"),
    ],
)
def test_any_graph_is_understood(tmp_path: Path, said: Ear, axes: tuple[int | str, ...], summary: str) -> None:
    """Axes with names are of any length; a fixed first axis is no batch."""
    assert main.run(["check", str(doubling(tmp_path / "model.onnx", *axes))]) == 0
    assert said().out == f"ok  model version 1  {summary}\n1 good, 0 bad\n"


def test_a_classifier_without_zipmap_is_served_whole(tmp_path: Path, said: Ear) -> None:
    """The remedy works."""
    assert main.run(["check", str(from_sklearn(tmp_path / "iris.onnx", zipmap=False))]) == 0
    summary = "X FP32 [-1,4] → label INT64 [-1,1], probabilities FP32 [-1,3]"
    assert said().out == f"ok  iris version 1  {summary}\n1 good, 0 bad\n"


def test_what_a_file_says_of_itself_is_only_text(tmp_path: Path, said: Ear) -> None:
    """Names in a graph may be anything; on a terminal they are written out."""
    axes, name = ("batch", 2), "y\x1b[2J\n[bold]ok  other"
    x, y = (helper.make_tensor_value_info(each, TensorProto.FLOAT, axes) for each in ("x", name))
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], [name])], "odd", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    main.run(["check", str(tmp_path / "m.onnx")])
    text = said().out
    assert "\x1b[2J" not in text
    assert r"\x1b[2J" in text
    assert not any(line.startswith("ok  other") for line in text.splitlines())


def test_a_fixed_batch_is_one_request(tmp_path: Path) -> None:
    """A graph without a dynamic axis takes exactly its own shape, and is not batched."""
    with serving(doubling(tmp_path / "fixed.onnx", 2, 2)) as server, Client(server.target, timeout=60.0) as client:
        assert client.model_config("fixed").max_batch_size == 0
        assert client.infer("fixed", {"x": [[1, 2], [3, 4]]})["y"].tolist() == [[2, 4], [6, 8]]


def test_the_batch_size_can_be_chosen(tmp_path: Path) -> None:
    """--max-batch-size is for models that do not say; a single file never does."""
    file = doubling(tmp_path / "model.onnx", "batch", 2)
    with serving(file, "--max-batch-size", 3) as server, Client(server.target, timeout=60.0) as client:
        assert client.model_config("model").max_batch_size == 3
