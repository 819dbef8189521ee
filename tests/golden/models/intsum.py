"""`intsum`: X + Y + Z, where Z is a scalar, and the total of that."""

import numpy as np

from penstock_server.backends.python import ModelBatch, PythonModel, Tensors


class IntSum(PythonModel):
    def infer(self, inputs: Tensors, batch: ModelBatch) -> Tensors:
        total = inputs["X"] + inputs["Y"] + inputs["Z"]
        return {"SUM": total, "TOTAL": np.sum(total, dtype=np.int32).reshape(1)}
