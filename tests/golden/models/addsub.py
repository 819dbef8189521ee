"""`addsub`: the sum and the difference of two vectors; in version 2 both ten times as much."""

import numpy as np

from penstock_server.backends.python import ModelBatch, ModelContext, PythonModel, Tensors


class AddSub(PythonModel):
    def load(self, context: ModelContext) -> None:
        self._factor = np.float32(10 if context.version == 2 else 1)

    def infer(self, inputs: Tensors, batch: ModelBatch) -> Tensors:
        a, b = inputs["A"], inputs["B"]
        return {"SUM": (a + b) * self._factor, "DIFF": (a - b) * self._factor}
