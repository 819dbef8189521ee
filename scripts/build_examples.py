"""Builds the example models, and the answers they are known to give.

Each model is trained or taken here, and written as a Triton user would find it: `models/<name>/1/model.onnx`,
beside the `config.pbtxt` and `labels.txt` that are written by hand. Its known answers never come from that file:
scikit-learn gives them for what scikit-learn trained, and the speech model as it was published for the one that
is wrapped here. So a model and its answers can only agree if the conversion, and later the whole server, is right.

    python scripts/build_examples.py            # rebuild what is committed
    python scripts/build_examples.py --check    # rebuild in a temporary folder and compare the answers
    python scripts/build_examples.py --speak    # speak the recording anew as well: wants espeak-ng and sox

Every choice is seeded. Training may still end a little elsewhere with other versions of these libraries or on
another processor, so `--check` compares behaviour and not bytes: each model with its own answers closely, and the
answers of what was trained anew with the committed ones loosely.

Needs Penstock itself and `scripts/examples-requirements.txt`.
"""

import argparse
import dataclasses
import hashlib
import json
import subprocess
import sys
import tempfile
import warnings
import wave
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits, load_iris
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from penstock_server import examples

EXAMPLES = examples.REPOSITORY.parent
SENTENCES = Path(__file__).with_name("examples-languages.txt")

SEED = 20
# Old enough for every ONNX Runtime and Triton that Penstock works with.
OPSETS = {"": 17, "ai.onnx.ml": 3}
EXACT_DIGITS = 9
"""Probabilities are committed to this many digits: far below any tolerance, and the files stay readable."""
RETRAINED = 0.02
"""How far a probability of a model that was trained anew may be from the committed one."""

SILERO = "silero-vad==6.2.3"
SILERO_MODEL = "silero_vad/data/silero_vad_16k_op15.onnx"
SILERO_SHA256 = "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"
SILERO_LICENCE = "silero_vad-6.2.3.dist-info/licenses/LICENSE"
RATE, CONTEXT, FRAME = 16000, 64, 512

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
    parser.add_argument("--speak", action="store_true", help="make the recording anew, with espeak-ng and sox")
    parser.add_argument("--silero", type=Path, help=f"the wheel of {SILERO}; without it, pip downloads it")
    options = parser.parse_args()
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        recording = speak(scratch) if options.speak else examples.speech_example().recording
        silero = options.silero or download(scratch)
        target = scratch / "examples" if options.check else EXAMPLES
        for built in (iris(), digits(), language()):
            write(built, target / "data" / f"{built.name}.json", target)
        write(silero_vad(silero, recording, target), target / "data" / "speech" / "silero_vad.json", target)
        if options.check:
            problems = compare(EXAMPLES, target)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def write(built: Built, answers: Path, target: Path) -> None:
    """Write a model into the repository under `target`, and what is known of it to `answers`."""
    version = target / "models" / built.name / "1"
    version.mkdir(parents=True, exist_ok=True)
    onnx.checker.check_model(built.model, full_check=True)
    onnx.save(built.model, version / "model.onnx")
    write_json(answers, built.answers)
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


def digits() -> Built:
    """A small neural network on scikit-learn's pictures of handwritten digits."""
    data = cast("Dataset", load_digits())
    train_x, test_x, train_y, test_y = train_test_split(
        data.data.astype(np.float32), data.target, test_size=0.3, random_state=SEED, stratify=data.target
    )
    network = MLPClassifier((256, 128), early_stopping=True, random_state=SEED)
    pipeline = make_pipeline(StandardScaler(), network).fit(train_x, train_y)
    print(f"digits: {pipeline.score(test_x, test_y):.1%} of the pictures held back")
    known = np.array([np.flatnonzero(test_y == digit)[0] for digit in range(10)])
    return Built(
        "digits",
        convert(pipeline, "image", FloatTensorType([None, 64])),
        {
            "title": "digits: a picture of 8 x 8 pixels to the digit that was written",
            "tolerance": 1e-4,
            "rows": [f"a handwritten {digit}" for digit in test_y[known]],
            "truth": [str(digit) for digit in test_y[known]],
            "inputs": {"image": tensor("FP32", test_x[known])},
            "expected": expected_of(cast("Classifier", pipeline), test_x[known], "INT64"),
        },
    )


def language() -> Built:
    """Logistic regression on the letters, pairs and triples of letters of sentences in six languages.

    Upper case is kept: it helps with German, and lowering it in the graph wants a locale that slim machines lack.
    """
    train, test = sentences()
    letters = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), lowercase=False)
    pipeline = make_pipeline(letters, LogisticRegression(C=100, max_iter=1000, random_state=SEED))
    pipeline.fit([text for _, text in train], [name for name, _ in train])
    right = np.mean(pipeline.predict([text for _, text in test]) == [name for name, _ in test])
    print(f"language: {right:.1%} of the sentences held back")
    texts = [text for _, text in ASKED]
    return Built(
        "language",
        convert(pipeline, "text", StringTensorType([None, 1])),
        {
            "title": "language: a sentence to the language it is in",
            "tolerance": 1e-4,
            "rows": cast("Json", texts),
            "truth": [name for name, _ in ASKED],
            "inputs": {"text": tensor("BYTES", np.array(texts, object).reshape(-1, 1))},
            "expected": expected_of(cast("Classifier", pipeline), np.array(texts, object), "BYTES"),
        },
    )


ASKED = (
    ("Dutch", "Zijn er nog kaartjes voor de voorstelling van vanavond?"),
    ("English", "Are there any tickets left for tonight's show?"),
    ("French", "Reste-t-il des places pour le spectacle de ce soir ?"),
    ("German", "Gibt es für die Vorstellung heute Abend noch Karten?"),
    ("Italian", "Ci sono ancora biglietti per lo spettacolo di stasera?"),
    ("Spanish", "¿Quedan entradas para la función de esta noche?"),
    ("German", "Schöne Grüße aus Tübingen"),
    ("French", "Où sont les toilettes, s'il vous plaît ?"),
)
"""What the model is asked: none of it is in its training."""


def sentences() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs of a language and a sentence in it: those to train on, and those held back."""
    kept: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
    name, count = "", 0
    for line in SENTENCES.read_text(encoding="utf-8").splitlines():
        if line.startswith("= "):
            name, count = line.removeprefix("= "), 0
        elif not line.startswith("#"):
            count += 1
            kept[count % 5 == 0].append((name, line))
    return kept


def convert(classifier: BaseEstimator, name: str, kind: FloatTensorType | StringTensorType) -> onnx.ModelProto:
    """The classifier as a graph: one input, the outputs `label` [batch, 1] and `probabilities` [batch, classes]."""
    with warnings.catch_warnings():
        # skl2onnx has doubts about letters instead of words. The known answers settle them.
        warnings.filterwarnings("ignore", message="The conversion of CountVectorizer may not work")
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


# ---------------------------------------------------------------------------------------------------------- speech


def silero_vad(wheel: Path, recording: Path, target: Path) -> Built:
    """Silero VAD with the batch on the first axis everywhere; the recording and the licence go to `target`."""
    with zipfile.ZipFile(wheel) as archive:
        published, licence = archive.read(SILERO_MODEL), archive.read(SILERO_LICENCE)
    if hashlib.sha256(published).hexdigest() != SILERO_SHA256:
        raise SystemExit(f"{wheel}: {SILERO_MODEL} is not the file of {SILERO}")
    samples = recording.read_bytes()
    (target / "data" / "speech").mkdir(parents=True, exist_ok=True)
    (target / "data" / "speech" / "speech.wav").write_bytes(samples)
    (target / "models" / "silero_vad").mkdir(parents=True, exist_ok=True)
    (target / "models" / "silero_vad" / "LICENSE.silero-vad").write_bytes(licence)
    wrapped = batch_first(onnx.load_model_from_string(published))
    equal(published, wrapped.SerializeToString())
    return Built(
        "silero_vad",
        wrapped,
        {
            "title": "silero_vad: 32 ms of sound to the likelihood that somebody speaks",
            "tolerance": 1e-4,
            "text": f"{SPOKEN[0]} {SPOKEN[1]}",
            "probabilities": frame_by_frame(published, recording),
        },
    )


def batch_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """Change `state` and `stateN` from [2, batch, 128] to [batch, 2, 128], and fix the sample rate at 16 kHz."""
    graph = model.graph
    rename(graph, {"state": "state_inside", "stateN": "stateN_inside"})
    graph.node.insert(0, helper.make_node("Transpose", ["state"], ["state_inside"], perm=[1, 0, 2]))
    graph.node.append(helper.make_node("Transpose", ["stateN_inside"], ["stateN"], perm=[1, 0, 2]))
    graph.initializer.append(numpy_helper.from_array(np.array(RATE, np.int64), "sr"))
    del graph.input[:], graph.output[:]
    graph.input.extend([batched("input", CONTEXT + FRAME), batched("state", 2, 128)])
    graph.output.extend([batched("output", 1), batched("stateN", 2, 128)])
    model.doc_string = f"{SILERO} ({SILERO_MODEL}, MIT), with the batch on the first axis and for 16 kHz only."
    return model


def batched(name: str, *dims: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *dims])


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename values wherever they are made or used, in the branches of an `If` as well."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                rename(attribute.g, names)


def equal(published: bytes, wrapped: bytes) -> None:
    """Hold the wrapped model to the published one on random input, for one row and for several."""
    draw = np.random.default_rng(SEED)
    before, after = onnxruntime.InferenceSession(published), onnxruntime.InferenceSession(wrapped)
    for rows in (1, 5):
        sound = draw.uniform(-1, 1, (rows, CONTEXT + FRAME)).astype(np.float32)
        state = draw.normal(0, 0.5, (2, rows, 128)).astype(np.float32)
        rate = np.array(RATE, np.int64)
        output, last = cast("list[Array]", before.run(None, {"input": sound, "state": state, "sr": rate}))
        likely, next_state = cast("list[Array]", after.run(None, {"input": sound, "state": state.swapaxes(0, 1)}))
        np.testing.assert_array_equal(likely, output)
        np.testing.assert_array_equal(next_state.swapaxes(0, 1), last)


def frame_by_frame(published: bytes, recording: Path) -> list[Json]:
    """The published model's likelihood of speech in each frame, with its own state and sample rate."""
    session = onnxruntime.InferenceSession(published)
    with wave.open(str(recording)) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    context: Array = np.zeros((1, CONTEXT), np.float32)
    state: Array = np.zeros((2, 1, 128), np.float32)
    found: list[Json] = []
    for frame in sound.reshape(-1, 1, FRAME):
        feed = {"input": np.concatenate([context, frame], axis=1), "state": state, "sr": np.array(RATE, np.int64)}
        likely, state = cast("list[Array]", session.run(None, feed))
        context = frame[:, -CONTEXT:]
        found += shortest(likely[0]).tolist()
    return found


SPOKEN = ("Open the gate.", "Let the water through.")


def speak(scratch: Path) -> Path:
    """A recording of four seconds, 16 kHz, 16 bit, mono: both sentences, with silence before, between and after."""
    parts: list[str] = []
    for index, (text, seconds) in enumerate(zip(SPOKEN, (1.8, 2.2), strict=True)):
        spoken, part = str(scratch / f"spoken{index}.wav"), str(scratch / f"part{index}.wav")
        subprocess.run(["espeak-ng", "-v", "en-gb", "-s", "150", "-w", spoken, text], check=True)
        exact = ["norm", "-6", "pad", "0.4", "2", "trim", "0", str(seconds)]
        # -R: always the same dither. -V1: no warning that `trim` leaves some of the silence out.
        subprocess.run(["sox", "-R", "-V1", spoken, "-r", str(RATE), "-b", "16", "-c", "1", part, *exact], check=True)
        parts.append(part)
    subprocess.run(["sox", *parts, str(scratch / "speech.wav")], check=True)
    return scratch / "speech.wav"


def download(scratch: Path) -> Path:
    """The wheel, by pip, without what it depends on: only a file in it is wanted."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), SILERO]
    subprocess.run(pip, check=True)
    (wheel,) = scratch.glob("silero_vad-*.whl")
    return wheel


# ------------------------------------------------------------------------------------------------------- the answers


def expected_of(classifier: Classifier, rows: Array, label: str) -> dict[str, Json]:
    """scikit-learn's own answers, as the outputs `label` [batch, 1] and `probabilities` [batch, classes]."""
    return {
        "label": tensor(label, classifier.predict(rows).reshape(-1, 1)),
        "probabilities": tensor("FP32", classifier.predict_proba(rows)),
    }


def tensor(datatype: str, values: Array) -> Json:
    """A tensor as it stands in the files of known answers."""
    return {"datatype": datatype, "values": shortest(values).tolist()}


def shortest(values: Array) -> Array:
    """Floating-point numbers in as few digits as tell them: 5.1, and not 5.099999904632568. Others as they are."""
    if values.dtype == np.float32:
        return values.astype(str).astype(np.float64)
    return np.round(values, EXACT_DIGITS) if values.dtype == np.float64 else values


def compare(committed: Path, rebuilt: Path) -> list[str]:
    """What the committed models and answers, and those just built, do not agree on."""
    problems: list[str] = []
    for path in sorted((rebuilt / "data").glob("*.json")):
        known, again = examples.load(committed / "data" / path.name), examples.load(path)
        loosely = dataclasses.replace(known, tolerance=RETRAINED)
        problems += [f"{known.model}, answers built anew: {line}" for line in loosely.differences(again.expected)]
        for which, folder, answers in (("committed", committed, known), ("built anew", rebuilt, again)):
            outputs = run(folder / "models" / known.model / "1" / "model.onnx", answers.inputs)
            problems += [f"{known.model}, model {which}: {line}" for line in answers.differences(outputs)]
    speech, spoken = examples.speech_example(), examples.speech_example(rebuilt / "data" / "speech")
    problems += [f"{speech.model}, answers built anew: {line}" for line in speech.differences(spoken.probabilities)]
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
