"""`strings`: ASCII letters to upper case, every other byte kept; and the length in bytes."""

from typing import cast

import numpy as np

from penstock_server.backends.python import ModelBatch, PythonModel, Tensors


class Strings(PythonModel):
    def infer(self, inputs: Tensors, batch: ModelBatch) -> Tensors:
        text = inputs["TEXT"]
        elements = [cast("bytes", element) for element in text.flat]
        upper = np.empty(text.size, object)
        upper[:] = [element.upper() for element in elements]  # bytes.upper() knows ASCII only
        length = np.array([len(element) for element in elements], np.int32)
        return {"UPPER": upper.reshape(text.shape), "LENGTH": length.reshape(text.shape)}
