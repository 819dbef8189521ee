"""Small real models, and the answers they are known to give.

`REPOSITORY` is a model repository in Triton's layout that can be served as it stands. The known answers were
computed without Penstock and without the files in it (see `README.md` beside this file), so they tell whether the
whole way, from a request's bytes to the answer's, is right. `penstock demo` and the tests use them.

    for example in all_examples():
        outputs = client.infer(example.model, example.inputs)
        assert not example.differences(outputs)
        print(example.describe(outputs))

A batch axis comes first in every input and output, as on the wire. `speech_example` is a stream: each answer's
state goes into the next request.
"""

import json
import shutil
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from penstock_proto.datatypes import DATATYPES

REPOSITORY = Path(__file__).parent / "models"
"""The model repository: `<model>/config.pbtxt`, `<model>/1/model.onnx`."""

STREAMS = Path(__file__).parent / "streams"
"""The same of a model that is asked on streams: WRITER, which writes a character at a time."""
WRITER = "writer"

LISTENER = "listener"
"""The name of the model that `write_repository_with_listener` adds."""
_LISTENER_CONFIG = """\
name: "listener"
backend: "onnxruntime"
max_batch_size: 64
input [{ name: "input" data_type: TYPE_FP32 dims: [ 576 ] }]
output [{ name: "output" data_type: TYPE_FP32 dims: [ 1 ] }]
sequence_batching {
  oldest { max_candidate_sequences: 1024 }
  state [{ input_name: "state" output_name: "stateN" data_type: TYPE_FP32 dims: [ 2, 128 ] }]
}
model_warmup [{
  name: "silence"
  inputs { key: "input" value { data_type: TYPE_FP32 dims: [ 576 ] zero_data: true } }
}]
"""

FRAME_SECONDS = 0.032
"""How much sound one request of the stream brings."""

_DATA = Path(__file__).parent / "data"
_CONTEXT, _FRAME = 64, 512

Array = NDArray[Any]
Tensors = Mapping[str, Array]
"""By name, each with its own element type."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One request to one classifier, and its known answer. It may be sent whole or in rows of its own."""

    model: str
    """The model's name in the repository."""
    title: str
    """What the model makes of what, `iris: four measures of a flower to its species`."""
    inputs: Tensors
    """By name: what to send. BYTES are object arrays of `bytes`."""
    expected: Tensors
    """By name: the whole answer, `label` [rows, 1] and `probabilities` [rows, classes]."""
    tolerance: float
    """How far a floating-point value of the answer may be from the expected one."""
    labels: tuple[str, ...]
    """What each class is called, in the order of `probabilities`."""
    rows: tuple[str, ...]
    """What each row shows, in words."""
    truth: tuple[str, ...]
    """The label that each row has in reality, which a model may miss."""

    def describe(self, outputs: Tensors) -> list[str]:
        """The likeliest class of each row in words, `setosa 97.9%`."""
        probabilities = np.asarray(outputs["probabilities"], np.float64)
        best = probabilities.argmax(axis=1)
        return [f"{self.labels[k]} {row[k]:.1%}" for k, row in zip(best, probabilities, strict=True)]

    def differences(self, outputs: Tensors) -> list[str]:
        """How `outputs` differ from what is expected, one sentence for each output that does; empty if they agree."""
        found = [f"{name}: not expected" for name in outputs.keys() - self.expected.keys()]
        for name, expected in self.expected.items():
            if name not in outputs:
                found.append(f"{name}: missing")
            elif problem := _difference(np.asarray(outputs[name]), expected, self.tolerance):
                found.append(f"{name}: {problem}")
        return found


@dataclass(frozen=True, slots=True, eq=False)
class SpeechExample:
    """A recording for a streaming model, and the known likelihood of speech in each frame of it.

    The model keeps nothing. A caller walks through `windows` in order, and gives as `state` the `stateN` of the
    answer before, at first `initial_state`:

        state = speech.initial_state
        for window in speech.windows:
            answer = client.infer(speech.model, {"input": window, "state": state})
            heard.append(float(answer["output"][0, 0]))
            state = answer["stateN"]
    """

    model: str
    """The model's name in the repository."""
    title: str
    """What the model makes of what."""
    text: str
    """What is said in the recording."""
    recording: Path
    """The WAV file: 16 kHz, 16 bit, mono, a whole number of frames."""
    windows: NDArray[np.float32]
    """[frames, 1, 576]: for each frame the `input` of one request, the 64 samples before it and its own 512."""
    initial_state: NDArray[np.float32]
    """[1, 2, 128]: silence."""
    probabilities: NDArray[np.float32]
    """[frames]: the likelihood that somebody speaks, as the published model gives it."""
    tolerance: float
    """How far a likelihood may be from the expected one."""

    def describe(self, probabilities: Sequence[float] | Array) -> str:
        """When somebody speaks, `speech at 0.42-1.34 s, 2.21-3.65 s`: the frames where that is likelier than not."""
        speaks = np.concatenate([[False], np.asarray(probabilities) > 0.5, [False]])
        changes = np.flatnonzero(speaks[1:] != speaks[:-1]) * FRAME_SECONDS
        spans = [f"{start:.2f}-{end:.2f} s" for start, end in changes.reshape(-1, 2)]
        return f"speech at {', '.join(spans)}" if spans else "no speech"

    def differences(self, probabilities: Sequence[float] | Array) -> list[str]:
        """How the likelihoods of all frames differ from what is expected: a sentence, or nothing if they agree."""
        problem = _difference(np.asarray(probabilities, np.float32), self.probabilities, self.tolerance)
        return [] if problem is None else [f"output: {problem}"]


@dataclass(frozen=True, slots=True)
class WritingExample:
    """Beginnings of sentences, and how a model is known to go on with each, a character a response."""

    model: str
    """The model's name in STREAMS."""
    title: str
    """What the model makes of what."""
    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    """For each prompt: the rest of its sentence, and a line feed."""

    @property
    def length(self) -> int:
        """Characters to ask for, so that no sentence is cut."""
        return max(map(len, self.texts))

    def differences(self, texts: Sequence[str]) -> list[str]:
        """The prompts with another text than expected, a sentence each; empty if they agree."""
        compared = zip(self.prompts, self.texts, texts, strict=True)
        return [f"'{prompt}': {text!r}, not {expected!r}" for prompt, expected, text in compared if text != expected]


def writing_example() -> WritingExample:
    """The example of a model whose streams join and leave the running batch."""
    sentences = (
        ("When", " the spring is dry, one drop falls alone.\n"),
        ("Each", " drop is small, and none of them could turn the wheel.\n"),
        ("A pen", "stock leads the water of a river to a turbine.\n"),
        ("Who comes", " late is not left behind: there is room in the next fall, and it begins at once.\n"),
    )
    prompts, texts = zip(*sentences, strict=True)
    return WritingExample(WRITER, "writer: the beginning of a sentence to the rest of it", prompts, texts)


def all_examples() -> list[Example]:
    """An example for every model of the repository that is asked once and answers once."""
    return [load(path) for path in sorted(_DATA.glob("*.json"))]


def load(path: Path) -> Example:
    """The example in a file of known answers, `data/<model>.json`."""
    stored: _Stored = json.loads(path.read_text(encoding="utf-8"))
    return Example(
        model=path.stem,
        title=stored["title"],
        inputs=_tensors(stored["inputs"]),
        expected=_tensors(stored["expected"]),
        tolerance=stored["tolerance"],
        labels=tuple((REPOSITORY / path.stem / "labels.txt").read_text(encoding="utf-8").splitlines()),
        rows=tuple(stored["rows"]),
        truth=tuple(stored["truth"]),
    )


def speech_example(folder: Path = _DATA / "speech") -> SpeechExample:
    """The example of a stream: `speech.wav` and `silero_vad.json` in that folder."""
    stored: _StoredSpeech = json.loads((folder / "silero_vad.json").read_text(encoding="utf-8"))
    recording = folder / "speech.wav"
    with wave.open(str(recording)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / np.float32(32768)
    heard = np.concatenate([np.zeros(_CONTEXT, np.float32), samples])
    return SpeechExample(
        model="silero_vad",
        title=stored["title"],
        text=stored["text"],
        recording=recording,
        windows=sliding_window_view(heard, _CONTEXT + _FRAME)[::_FRAME, np.newaxis].copy(),
        initial_state=np.zeros((1, 2, 128), np.float32),
        probabilities=np.array(stored["probabilities"], np.float32),
        tolerance=stored["tolerance"],
    )


class _StoredSpeech(TypedDict):
    title: str
    text: str
    tolerance: float
    probabilities: list[float]


class _StoredTensor(TypedDict):
    datatype: str
    values: Sequence[object]


class _Stored(TypedDict):
    title: str
    tolerance: float
    rows: list[str]
    truth: list[str]
    inputs: dict[str, _StoredTensor]
    expected: dict[str, _StoredTensor]


def write_repository_with_listener(folder: Path) -> Path:
    """Copy the repository into a folder, and add a model that remembers: LISTENER.

    It is the speech model once more, with its state kept by the server for each sequence, so a client sends windows and
    nothing else. Returns the folder.
    """
    shutil.copytree(REPOSITORY, folder, dirs_exist_ok=True)
    version = folder / LISTENER / "1"
    version.mkdir(parents=True)
    shutil.copyfile(REPOSITORY / "silero_vad" / "1" / "model.onnx", version / "model.onnx")
    (folder / LISTENER / "config.pbtxt").write_text(_LISTENER_CONFIG, encoding="utf-8")
    return folder


def write_all(folder: Path) -> Path:
    """Write every model there is into a folder: of the repository, the one that remembers, and the one of STREAMS."""
    write_repository_with_listener(folder)
    shutil.copytree(STREAMS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def _tensors(stored: Mapping[str, _StoredTensor]) -> Tensors:
    return {name: _array(tensor) for name, tensor in stored.items()}


def _array(stored: _StoredTensor) -> Array:
    if stored["datatype"] != "BYTES":
        return np.array(stored["values"], DATATYPES[stored["datatype"]].numpy)
    texts = np.array(stored["values"], object)
    flat = [str(text).encode() for text in texts.ravel()]
    return np.array(flat, object).reshape(texts.shape)


def _difference(actual: Array, expected: Array, tolerance: float) -> str | None:
    if actual.shape != expected.shape:
        return f"shape {list(actual.shape)}, not {list(expected.shape)}"
    if actual.dtype.kind != expected.dtype.kind:
        return f"{actual.dtype}, not {expected.dtype}"
    if expected.dtype.kind != "f":
        wrong = int(np.count_nonzero(actual != expected))
        return f"{wrong} of {expected.size} values differ" if wrong else None
    worst = float(np.max(np.abs(actual.astype(np.float64) - expected.astype(np.float64)), initial=0.0))
    # Written so that a NaN is a difference.
    return None if worst <= tolerance else f"off by {worst:.2g}, more than {tolerance:.2g}"
