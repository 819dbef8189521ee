"""A small autoregressive model: it reads the beginning of a sentence and writes on, always the likeliest character.

An echo state network (H. Jaeger, 2001): the recurrent weights are drawn once and stay; only the readout is learnt, by
ridge regression, in a fraction of a second when the model loads. It knows a few sentences by heart.

What matters here is how it is served. The model keeps nothing. A step gets a batch with the states of all streams that
are there now, whatever they are at, and returns the next ones. A stream that begins brings its prompt, which is read in
that step; one that is not at its end goes into the next batch, with whoever has come meanwhile.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock_server.backends.python import ModelBatch, ModelContext, PythonModel, Tensors

SENTENCES = (
    "A penstock leads the water of a river to a turbine.",
    "Each drop is small, and none of them could turn the wheel.",
    "But a gate gathers what has come so far, and lets it fall together.",
    "Who comes late is not left behind: there is room in the next fall, and it begins at once.",
    "So the wheel never waits for a full lake, and no drop waits until another one is done.",
    "When the spring is dry, one drop falls alone.",
)
END = "\n"
"""Before and after each sentence."""

_UNITS = 480
_SEED = 1

Floats = NDArray[np.floating[Any]]


class Writer(PythonModel):
    """A character a step, until the end of the sentence, and at most LENGTH of them.

    PROMPT [rows, 1] BYTES, LENGTH [rows, 1] INT32, to TEXT [rows, 1] BYTES. Filled in by the server: START, and the
    states SO_FAR [rows, 1] INT32, the characters of a stream, and MEMORY [rows, units] FP64.
    """

    def load(self, context: ModelContext) -> None:
        rng = np.random.default_rng(_SEED)
        self.alphabet = np.array(sorted(set("".join(SENTENCES)) | {END}))
        self.inputs = rng.normal(size=(len(self.alphabet), _UNITS))
        self.recurrent = rng.normal(size=(_UNITS, _UNITS)) * (0.9 / np.sqrt(_UNITS))  # below 1, memories fade
        self.readout = self._learn()

    def infer(self, inputs: Tensors, batch: ModelBatch) -> Tensors:
        memory = inputs["MEMORY"].copy()
        for row in np.flatnonzero(inputs["START"][:, 0]):
            memory[row] = self._read(inputs["PROMPT"][row, 0].decode("utf-8", "replace"))[-1]
        best = (memory @ self.readout).argmax(axis=1)
        text = self.alphabet[best]
        so_far = inputs["SO_FAR"] + 1
        for row in np.flatnonzero((text != END) & (so_far < inputs["LENGTH"])[:, 0]):
            batch.reschedule(int(row))
        return {"TEXT": text[:, None], "NEW_SO_FAR": so_far, "NEW_MEMORY": self._step(memory, best)}

    def _step(self, memory: Floats, codes: NDArray[np.intp]) -> Floats:
        """What is remembered after a character more each."""
        return np.tanh(memory @ self.recurrent + self.inputs[codes])

    def _read(self, text: str) -> Floats:
        """What is remembered after END and after each character of a text; unknown ones are left out."""
        memory: list[Floats] = [np.zeros((1, _UNITS))]
        for code in self._codes(END + text):
            memory.append(self._step(memory[-1], code))
        return np.concatenate(memory[1:])

    def _codes(self, text: str) -> NDArray[np.intp]:
        return np.searchsorted(self.alphabet, [each for each in text if each in self.alphabet])

    def _learn(self) -> Floats:
        """The readout: from what is remembered to which character comes next."""
        seen = np.concatenate([self._read(sentence) for sentence in SENTENCES])
        following = np.concatenate([self._codes(sentence + END) for sentence in SENTENCES])
        targets = np.eye(len(self.alphabet))[following]
        return np.linalg.solve(seen.T @ seen + 1e-3 * np.eye(_UNITS), seen.T @ targets)
