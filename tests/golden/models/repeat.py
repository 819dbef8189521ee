"""`repeat`: N responses, with a pause before each; it fails after FAIL_AFTER of them if there are more."""

import asyncio
from collections.abc import AsyncGenerator

import numpy as np

from penstock_server.backends.python import ModelBatch, ModelError, PythonModel, Status, Tensors


class Repeat(PythonModel):
    async def infer(self, inputs: Tensors, batch: ModelBatch) -> AsyncGenerator[Tensors, None]:
        count, delay, fail_after = (int(inputs[name][0]) for name in ("N", "DELAY_MS", "FAIL_AFTER"))
        for number in range(count):
            if number == fail_after:
                raise ModelError(Status.INTERNAL, f"failed after {fail_after}")
            await asyncio.sleep(delay / 1000)
            yield {"I": np.array([number], np.int32), "LEFT": np.array([count - 1 - number], np.int32)}
