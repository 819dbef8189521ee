"""`classifier`: scores as they come in, with labels, and truncated to whole numbers, without."""

import numpy as np

from penstock_server.backends.python import ModelBatch, PythonModel, Tensors


class Classifier(PythonModel):
    def infer(self, inputs: Tensors, batch: ModelBatch) -> Tensors:
        scores = inputs["IN"]
        with np.errstate(invalid="ignore"):  # what does not fit has some rank, and a client may ask for the scores only
            return {"SCORES": scores, "RANKS": scores.astype(np.int32)}
