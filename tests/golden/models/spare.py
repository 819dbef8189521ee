"""`spare` and `asleep`: sleeps IN milliseconds; OUT is IN and the version."""

import time

import numpy as np

from penstock_server.backends.python import ModelBatch, ModelContext, PythonModel, Tensors


class Spare(PythonModel):
    def load(self, context: ModelContext) -> None:
        self._version = np.int32(context.version)

    def infer(self, inputs: Tensors, batch: ModelBatch) -> Tensors:
        time.sleep(int(inputs["IN"][0]) / 1000)
        return {"OUT": inputs["IN"] + self._version}
