"""The model of the comparison: Silero's voice activity detection, as Penstock's demo has it, and a recording for it.

A step is a frame of sound, 32 ms, and the probability that somebody speaks in it; between two steps of a stream 1 KiB
of state is kept. So a server that answers N frames a second keeps up with N x 0.032 people who speak at once.

What is right is computed here, by ONNX Runtime without any server; so is what a frame costs in a batch of so many
rows. That is the bound of every comparison: no server runs the model for less.
"""

import importlib.util
import time
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from penstock_bench.load.sequences import first_step
from penstock_bench.peers.models import BenchModel, ModelSet, Output, open_session

NAME = "listener"
FRAME_SECONDS = 0.032
_CONTEXT, _FRAME = 64, 512
_INPUT, _OUTPUT, _STATE, _NEXT_STATE = "input", "output", "state", "stateN"
_STATE_SHAPE = (2, 128)
_KNOWN_STREAMS, _KNOWN_STEPS = 4, 4096
"""Whose answers are compared, and as far as."""
COST_ROWS = (1, 8, 16, 32, 64)
_COST_SECONDS = 0.25

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Cost:
    """What ONNX Runtime alone takes for a batch."""

    rows: int
    seconds: float
    """CPU time of the batch, the median of many."""

    @property
    def per_row(self) -> float:
        return self.seconds / self.rows


class Listener:
    """The model and its recording."""

    def __init__(self, folder: Path) -> None:
        """Writes the frames, and what is right, into a folder. Raises OSError."""
        examples = _examples()
        self.path = examples / "models" / "silero_vad" / "1" / "model.onnx"
        self._session = open_session(self.path)
        self.frames = _frames(examples / "data" / "speech" / "speech.wav")
        """[steps, 576]"""
        self.frames_file, self.expected_file = folder / "frames.npy", folder / "expected.npy"
        np.save(self.frames_file, self.frames)
        np.save(self.expected_file, self.expected(_KNOWN_STREAMS, _KNOWN_STEPS))

    def __repr__(self) -> str:
        return f"<Listener: {len(self.frames)} frames>"

    @property
    def models(self) -> ModelSet:
        """As servers are started with it."""
        outputs = (Output(_OUTPUT, "FP32", "<f4", (1,)),)
        model = BenchModel(NAME, self.path, _INPUT, self.frames.shape[1:], outputs, self._session)
        return ModelSet(NAME, (model,))

    def expected(self, streams: int, steps: int) -> Floats:
        """[streams, steps]: the probabilities that the first streams of a load are due."""
        states: Floats = np.zeros((streams, *_STATE_SHAPE), np.float32)
        at = np.array([first_step(number, len(self.frames)) for number in range(streams)])
        heard = np.empty((streams, steps), np.float32)
        for step in range(steps):
            frames = self.frames[(at + step) % len(self.frames)]
            results = self._session.run([_OUTPUT, _NEXT_STATE], {_INPUT: frames, _STATE: states})
            probabilities, states = cast("Sequence[Floats]", results)
            heard[:, step] = probabilities[:, 0]
        return heard

    def costs(self) -> Iterator[Cost]:
        """Of batches of some sizes."""
        for rows in COST_ROWS:
            frames = np.ascontiguousarray(self.frames[np.arange(rows) % len(self.frames)])
            inputs = {_INPUT: frames, _STATE: np.zeros((rows, *_STATE_SHAPE), np.float32)}
            taken: list[float] = []
            until = time.monotonic() + _COST_SECONDS
            while time.monotonic() < until or len(taken) < 5:
                begin = time.thread_time()
                self._session.run([_OUTPUT, _NEXT_STATE], inputs)
                taken.append(time.thread_time() - begin)
            yield Cost(rows, float(np.median(taken)))


def config(backend: str, batch: int, streams: int, extra: str) -> str:
    """A `config.pbtxt` for Penstock and Triton: at most so many rows in a batch, and so many sequences at once.

    `extra` is the state for a server that keeps it, and whatever else the server wants.
    """
    return f"""\
name: "{NAME}"
backend: "{backend}"
max_batch_size: {batch}
input [{{ name: "{_INPUT}" data_type: TYPE_FP32 dims: [ {_CONTEXT + _FRAME} ] }}]
output [{{ name: "{_OUTPUT}" data_type: TYPE_FP32 dims: [ 1 ] }}]
sequence_batching {{
  oldest {{ max_candidate_sequences: {streams} }}
  {extra}
"""


STATE = f"""state [{{
    input_name: "{_STATE}" output_name: "{_NEXT_STATE}" data_type: TYPE_FP32 dims: {list(_STATE_SHAPE)}
  }}]
"""
"""Kept by the server, of `sequence_batching`."""
NAMES = "\n".join(
    f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
    for key, value in (("input", _INPUT), ("output", _OUTPUT), ("state", _STATE), ("next_state", _NEXT_STATE))
)
"""For a program that keeps the state itself."""


def _examples() -> Path:
    """The folder of Penstock's example models. Found, not imported: only the files are of interest."""
    package = importlib.util.find_spec("penstock_server")
    for place in (package and package.submodule_search_locations) or ():
        if (folder := Path(place, "examples")).is_dir():
            return folder
    raise FileNotFoundError("Penstock's example models are not installed")


def _frames(recording: Path) -> Floats:
    """For each frame the 64 samples before it and its own 512."""
    with wave.open(str(recording)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / np.float32(32768)
    heard = np.concatenate([np.zeros(_CONTEXT, np.float32), samples])
    return sliding_window_view(heard, _CONTEXT + _FRAME)[::_FRAME].copy()
