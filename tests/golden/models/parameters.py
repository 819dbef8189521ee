"""`parameters`: what a model is told of its request, as JSON."""

import json

import numpy as np

from penstock_server.backends.python import ModelBatch, PythonModel, Tensors


class Parameters(PythonModel):
    def infer(self, inputs: Tensors, batch: ModelBatch) -> Tensors:
        (request,) = batch.requests
        seen = {
            "correlation_id": request.correlation_id,
            "id": request.id,
            "outputs": list(request.outputs),
            "parameters": dict(request.parameters),
            "timeout": request.timeout_us,
        }
        output = np.empty(1, object)
        output[0] = json.dumps(seen, sort_keys=True).encode()
        return {"SEEN": output}
