"""`slow`, `queued` and `priority`: sleeps as many milliseconds as it is told, and tells it."""

import time

from penstock_server.backends.python import ModelBatch, PythonModel, Tensors


class Sleeper(PythonModel):
    def infer(self, inputs: Tensors, batch: ModelBatch) -> Tensors:
        time.sleep(int(inputs["MS"].max()) / 1000)
        return {"MS_OUT": inputs["MS"]}
