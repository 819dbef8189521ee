"""Triton's Python backend: the requests that Triton has put into a batch are run as one."""

import numpy as np
import triton_python_backend_utils as pb_utils
from served import OnnxModel


class TritonPythonModel:
    def initialize(self, args):
        self._model = OnnxModel(f"{args['model_repository']}/{args['model_version']}/model.onnx")

    def execute(self, requests):
        name = self._model.input.name
        parts = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
        outputs = self._model.run(parts[0] if len(parts) == 1 else np.concatenate(parts))
        names = self._model.names
        responses = []
        start = 0
        for part in parts:
            end = start + len(part)
            tensors = [pb_utils.Tensor(name, output[start:end]) for name, output in zip(names, outputs, strict=True)]
            responses.append(pb_utils.InferenceResponse(tensors))
            start = end
        return responses
