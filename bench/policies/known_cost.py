"""A model whose cost is known: so many milliseconds for each row, and so many for each batch besides.

It waits where a device would work: it sleeps, and only looks at the clock for the last fifth of a millisecond, since a
sleep is late by about 0.1 ms. So the interpreter and the cores are free for the server meanwhile, as they are while a
GPU works. A model that spun would take a core, and the interpreter's lock, from the server that is to be measured.

Each row's answer is when its batch began and ended, on `time.monotonic()`, which all processes of a machine share. So
whoever gets the answers knows the batches, and the gaps between them, exactly.
"""

import time

import numpy as np

from penstock_server.backends.python import ModelBatch, ModelContext, PythonModel, Tensors

_SPIN_SECONDS = 2e-4


class KnownCost(PythonModel):
    def load(self, context: ModelContext) -> None:
        self._per_row = float(context.parameters["per_row_ms"]) / 1e3
        self._per_batch = float(context.parameters["per_batch_ms"]) / 1e3

    def infer(self, inputs: Tensors, batch: ModelBatch) -> Tensors:
        begin = time.monotonic()
        end = begin + self._per_row * batch.rows + self._per_batch
        time.sleep(max(0.0, end - begin - _SPIN_SECONDS))
        while time.monotonic() < end:
            pass
        times = np.empty((batch.rows, 2))
        times[:] = begin, time.monotonic()
        return {"TIMES": times}
