"""MLServer: a runtime of its own kind, with its adaptive batching; gRPC."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
from served import OnnxModel


class Served(MLModel):
    async def load(self):
        self._model = OnnxModel()
        return True

    async def predict(self, payload):
        results = self._model.run(NumpyCodec.decode_input(payload.inputs[0]))
        outputs = [
            NumpyCodec.encode_output(name, values) for name, values in zip(self._model.names, results, strict=True)
        ]
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=outputs)
