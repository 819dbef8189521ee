"""Builds the example models, and the answers they are known to give.

Each model is trained or taken here, and written as a Triton user would find it: `models/<name>/1/model.onnx`,
beside the `config.pbtxt` and `labels.txt` that are written by hand. Its known answers never come from that file:
scikit-learn gives them for what scikit-learn trained. So a model and its answers can only agree if the
conversion, and later the whole server, is right.

    python scripts/build_examples.py            # rebuild what is committed
    python scripts/build_examples.py --check    # rebuild in a temporary folder and compare the answers

Every choice is seeded. The bytes of a model may still differ from one version of these libraries to the next,
so `--check` compares behaviour: the new model and the committed one must both give the committed answers.

Needs Penstock itself and `scripts/examples-requirements.txt`.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.base import BaseEstimator
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from penstock_server import examples

EXAMPLES = examples.REPOSITORY.parent

SEED = 20
# Old enough for every ONNX Runtime and Triton that Penstock works with.
OPSETS = {"": 17, "ai.onnx.ml": 3}
EXACT_DIGITS = 9
"""Probabilities are committed to this many digits: far below any tolerance, and the files stay readable."""

Array = NDArray[Any]
Json = str | int | float | None | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True)
class Built:
    """A model and what is known of it."""

    name: str
    model: onnx.ModelProto
    answers: dict[str, Json]


class Dataset(Protocol):
    """What is used of a data set of scikit-learn's."""

    data: NDArray[np.float64]
    target: NDArray[np.int64]
    target_names: NDArray[np.str_]


class Classifier(Protocol):
    """What is used of a classifier of scikit-learn's."""

    def predict(self, rows: Array, /) -> NDArray[np.int64]: ...
    def predict_proba(self, rows: Array, /) -> NDArray[np.float64]: ...


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare with what is committed; write nothing there")
    options = parser.parse_args()
    if not options.check:
        build(EXAMPLES)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        problems = compare(EXAMPLES, Path(folder))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def build(folder: Path) -> None:
    """Write every model and its known answers under `folder`."""
    for built in (iris(),):
        version = folder / "models" / built.name / "1"
        version.mkdir(parents=True, exist_ok=True)
        onnx.checker.check_model(built.model, full_check=True)
        onnx.save(built.model, version / "model.onnx")
        write_json(folder / "data" / f"{built.name}.json", built.answers)
        print(f"{built.name}: {(version / 'model.onnx').stat().st_size} bytes")


# ---------------------------------------------------------------------------------------------------------- models


def iris() -> Built:
    """Logistic regression on Fisher's irises: four measures of a flower to one of three species."""
    data = cast("Dataset", load_iris())
    train_x, test_x, train_y, test_y = train_test_split(
        data.data.astype(np.float32), data.target, test_size=0.4, random_state=SEED, stratify=data.target
    )
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(random_state=SEED)).fit(train_x, train_y)
    print(f"iris: {pipeline.score(test_x, test_y):.1%} of the flowers held back")
    classifier = cast("Classifier", pipeline)
    rows = np.concatenate([np.flatnonzero(test_y == species)[:2] for species in range(3)])
    known = test_x[rows]
    return Built(
        "iris",
        convert(pipeline, "X", FloatTensorType([None, 4])),
        {
            "title": "iris: four measures of a flower to its species",
            "tolerance": 1e-5,
            "rows": [f"sepal {a:.1f} x {b:.1f} cm, petal {c:.1f} x {d:.1f} cm" for a, b, c, d in known],
            "truth": [str(data.target_names[species]) for species in test_y[rows]],
            "inputs": {"X": tensor("FP32", known)},
            "expected": expected_of(classifier, known, "INT64"),
        },
    )


def convert(classifier: BaseEstimator, name: str, kind: FloatTensorType) -> onnx.ModelProto:
    """The classifier as a graph: one input, the outputs `label` [batch, 1] and `probabilities` [batch, classes]."""
    model = to_onnx(
        classifier,
        initial_types=[(name, kind)],  # pyright: ignore[reportArgumentType] - annotated as something else
        options={"zipmap": False},
        target_opset=OPSETS,
    )
    return column_of_labels(cast("onnx.ModelProto", model))


def column_of_labels(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make the output `label` [batch, 1]. It leaves skl2onnx as [batch], but Triton has no rows without a dimension."""
    graph = model.graph
    (label,) = [output for output in graph.output if output.name == "label"]
    for node in graph.node:
        node.output[:] = ["flat_label" if name == "label" else name for name in node.output]
        node.input[:] = ["flat_label" if name == "label" else name for name in node.input]
    graph.initializer.append(helper.make_tensor("label_shape", TensorProto.INT64, [2], [-1, 1]))
    graph.node.append(helper.make_node("Reshape", ["flat_label", "label_shape"], ["label"], name="label_column"))
    label.type.tensor_type.shape.dim.add().dim_value = 1
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


# ------------------------------------------------------------------------------------------------------- the answers


def expected_of(classifier: Classifier, rows: Array, label: str) -> dict[str, Json]:
    """scikit-learn's own answers, as the outputs `label` [batch, 1] and `probabilities` [batch, classes]."""
    return {
        "label": tensor(label, classifier.predict(rows).reshape(-1, 1)),
        "probabilities": tensor("FP32", classifier.predict_proba(rows)),
    }


def tensor(datatype: str, values: Array) -> Json:
    """A tensor as it stands in the files of known answers."""
    if values.dtype == np.float32:
        values = values.astype(str).astype(np.float64)  # 5.1, not 5.099999904632568
    elif values.dtype == np.float64:
        values = np.round(values, EXACT_DIGITS)
    return {"datatype": datatype, "values": cast("Json", values.tolist())}


def compare(committed: Path, rebuilt: Path) -> list[str]:
    """What the committed models and answers, and those just built, do not agree on."""
    problems: list[str] = []
    for path in sorted((rebuilt / "data").glob("*.json")):
        old, new = examples.load(committed / "data" / path.name), examples.load(path)
        problems += [f"{old.model}, answers built anew: {line}" for line in old.differences(new.expected)]
        for folder in (committed, rebuilt):
            outputs = run(folder / "models" / old.model / "1" / "model.onnx", old.inputs)
            which = "committed model" if folder == committed else "model built anew"
            problems += [f"{old.model}, {which}: {line}" for line in old.differences(outputs)]
    return problems


def run(model: Path, inputs: examples.Tensors) -> dict[str, Array]:
    """All outputs by name. ONNX Runtime takes and gives `str` where a server has bytes."""
    session = onnxruntime.InferenceSession(model)
    names = [output.name for output in session.get_outputs()]
    feed = {name: as_objects(array, bytes.decode) for name, array in inputs.items()}
    found = cast("list[Array]", session.run(names, feed))
    return {name: as_objects(array, str.encode) for name, array in zip(names, found, strict=True)}


def as_objects(array: Array, each: Callable[[Any], object]) -> Array:
    """An array of objects with each element changed; any other array as it is."""
    if array.dtype != object:
        return array
    return np.array([each(element) for element in array.ravel()], object).reshape(array.shape)


def write_json(path: Path, content: dict[str, Json]) -> None:
    """One line per row of a tensor, so that a change of the answers can be read as a diff."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_json(content) + "\n", encoding="utf-8")


def _json(value: Json, indent: str = "") -> str:
    deeper = indent + "  "
    if isinstance(value, dict):
        fields = [f"{deeper}{json.dumps(key)}: {_json(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(fields) + f"\n{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], list | str):
        return "[\n" + ",\n".join(f"{deeper}{json.dumps(item, ensure_ascii=False)}" for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
