"""`pass_<T>` and `alltypes`: every input, bit for bit, as the output of the same name with OUT for IN."""

from penstock_server.backends.python import ModelBatch, PythonModel, Tensors


class PassThrough(PythonModel):
    def infer(self, inputs: Tensors, batch: ModelBatch) -> Tensors:
        return {"OUT" + name.removeprefix("IN"): array for name, array in inputs.items()}
