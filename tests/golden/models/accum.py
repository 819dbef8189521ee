"""`accum` and `accum_str`: the sum and the number of a sequence's requests since its start; forgotten at its end."""

import numpy as np

from penstock_server.backends.python import ModelBatch, PythonModel, Tensors


class Accum(PythonModel):
    def __init__(self) -> None:
        self._sums: dict[int | str, tuple[int, int]] = {}

    def infer(self, inputs: Tensors, batch: ModelBatch) -> Tensors:
        out = np.zeros((2, batch.rows, 1), np.int32)
        for request, (start, end) in zip(batch.requests, batch.row_ranges(), strict=True):
            total, count = (0, 0) if request.sequence_start else self._sums.get(request.correlation_id, (0, 0))
            total, count = total + int(inputs["X"][start:end].sum()), count + 1
            out[:, start:end, 0] = [[total], [count]]
            self._sums[request.correlation_id] = total, count
            if request.sequence_end:
                del self._sums[request.correlation_id]
        return {"SUM": out[0], "COUNT": out[1]}
