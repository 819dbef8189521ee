"""The example models keep what their repository promises, with ONNX Runtime alone: no server takes part."""

import dataclasses
import subprocess
import sys
import wave
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
SPEECH = examples.speech_example()

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


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.model)
def test_the_label_is_the_likeliest_class(example: Example) -> None:
    """`label` and `probabilities` of the known answers agree: by number, or by name where labels are BYTES."""
    likeliest = example.expected["probabilities"].argmax(axis=1)
    label = example.expected["label"].ravel()
    if label.dtype == object:
        assert [example.labels[k].encode() for k in likeliest] == label.tolist()
    else:
        assert likeliest.tolist() == label.tolist()


def test_every_model_has_an_example() -> None:
    """A model that nothing asks could be broken unseen."""
    assert sorted([*(example.model for example in EXAMPLES), SPEECH.model]) == MODELS


def test_bytes_beyond_ascii_are_asked_and_answered() -> None:
    """The example for BYTES has text that is longer in UTF-8 than in characters, and answers in BYTES."""
    (example,) = [example for example in EXAMPLES if example.model == "language"]
    assert any(not text.isascii() for text in example.inputs["text"].ravel())
    assert all(isinstance(text, bytes) for text in (*example.inputs["text"].flat, *example.expected["label"].flat))


def hear(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The likelihoods [frames, streams] of speech in windows [frames, streams, 576], state carried by the caller."""
    session = session_of(SPEECH.model)
    state: NDArray[Any] = np.repeat(SPEECH.initial_state, windows.shape[1], axis=0)
    heard: list[NDArray[Any]] = []
    for window in windows:
        outputs = run(session, {"input": window, "state": state})
        heard.append(outputs["output"][:, 0])
        state = outputs["stateN"]
    return np.stack(heard)


def test_speech_is_heard_as_by_the_published_model() -> None:
    """Frame by frame, the wrapped graph gives what the published one gave."""
    assert SPEECH.differences(hear(SPEECH.windows)[:, 0]) == []


def test_streams_in_one_batch_keep_apart() -> None:
    """Streams at different places of the recording, one row each, are each heard as if alone."""
    frames, delays = 40, (0, 7, 12, 31, 60)
    together = hear(np.concatenate([SPEECH.windows[delay : delay + frames] for delay in delays], axis=1))
    for stream, delay in enumerate(delays):
        alone = hear(SPEECH.windows[delay : delay + frames])
        np.testing.assert_allclose(together[:, stream], alone[:, 0], atol=SPEECH.tolerance, rtol=0)


def test_without_the_state_speech_is_heard_otherwise() -> None:
    """The recording tells a caller that carries the state from one that forgets it."""
    session, heard = session_of(SPEECH.model), list[float]()
    for window in SPEECH.windows:
        heard.append(float(run(session, {"input": window, "state": SPEECH.initial_state})["output"][0, 0]))
    assert SPEECH.differences(heard)


def test_the_windows_are_the_recording() -> None:
    """Each window starts with the end of the one before; without those overlaps they are the file's samples."""
    with wave.open(str(SPEECH.recording)) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (16000, 2, 1)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    windows = SPEECH.windows[:, 0]
    assert windows.shape == (len(SPEECH.probabilities), 576)
    np.testing.assert_array_equal(windows[1:, :64], windows[:-1, -64:])
    np.testing.assert_array_equal(windows[0, :64], 0)
    np.testing.assert_array_equal(windows[:, 64:].ravel() * 32768, samples)


def test_the_recording_has_two_sentences_with_silence_around() -> None:
    """What is heard are two stretches of speech, and the words for it say where they are."""
    assert SPEECH.text.count(".") == 2
    assert SPEECH.describe(SPEECH.probabilities) == "speech at 0.42-1.41 s, 2.21-3.42 s"
    assert SPEECH.describe([0.9, 0.9, 0.1]) == "speech at 0.00-0.06 s"
    assert SPEECH.describe([0.1]) == "no speech"


def test_all_models_can_be_written_into_a_folder(tmp_path: Path) -> None:
    """By a command, to be served; it touches no folder that has something in it."""
    command = [sys.executable, "-m", "penstock_server.examples"]
    done = subprocess.run([*command, str(tmp_path / "models")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert {each.name for each in (tmp_path / "models").iterdir()} == {*MODELS, examples.LISTENER, "writer"}
    for arguments in ([str(tmp_path)], [], ["--all"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr
    assert subprocess.run([*command, "--help"], capture_output=True).returncode == 0


def test_all_examples_together_stay_small() -> None:
    """They ship in every wheel."""
    root: Path = examples.REPOSITORY.parent
    assert (examples.REPOSITORY / SPEECH.model / "1" / "model.onnx").stat().st_size < 1_500_000
    assert SPEECH.recording.stat().st_size < 130_000
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 4_000_000
