"""`fail`: always fails. CODE 0 to 7 is a deliberate error, -1 one that nobody foresaw; TEXT is its text."""

from typing import cast

from penstock_server.backends.python import ModelBatch, ModelError, PythonModel, Status, Tensors

STATUSES = (
    Status.UNKNOWN,
    Status.INTERNAL,
    Status.NOT_FOUND,
    Status.INVALID_ARGUMENT,
    Status.UNAVAILABLE,
    Status.UNIMPLEMENTED,
    Status.ALREADY_EXISTS,
    Status.CANCELLED,
)


class Fail(PythonModel):
    def infer(self, inputs: Tensors, batch: ModelBatch) -> Tensors:
        code, text = int(inputs["CODE"][0]), cast("bytes", inputs["TEXT"][0]).decode()
        if code < 0:
            raise ValueError(text)
        raise ModelError(STATUSES[code], text)
