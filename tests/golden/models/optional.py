"""`optional`: X * SCALE + BIAS, with 1 and 0 for what is left out."""

import numpy as np

from penstock_server.backends.python import ModelBatch, PythonModel, Tensors


class Optional(PythonModel):
    def infer(self, inputs: Tensors, batch: ModelBatch) -> Tensors:
        scale = inputs.get("SCALE", np.ones(1, np.float32))
        bias = inputs.get("BIAS", np.zeros(1, np.float32))
        return {"Y": inputs["X"] * scale + bias}
