"""Triton's Python backend with a model that remembers: a row of state for each sequence, in one array.

The steps that Triton has put into a batch run as one. What Triton itself could keep (implicit state) it would have to
pass through shared memory for each request, twice, as it would the control inputs: an id and two flags are to be had of
the request for nothing.
"""

import json

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

_SEATS = 1024


class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        path = f"{args['model_repository']}/{args['model_version']}/model.onnx"
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        told = json.loads(args["model_config"])["parameters"]
        self._input, self._output, self._state, self._next = (
            told[name]["string_value"] for name in ("input", "output", "state", "next_state")
        )
        shape = next(each.shape[1:] for each in self._session.get_inputs() if each.name == self._state)
        self._states = np.zeros((_SEATS, *shape), np.float32)
        self._free = list(range(_SEATS))
        self._seats = {}

    def execute(self, requests):
        seats = [self._seat(request.correlation_id(), request.flags()) for request in requests]
        parts = [pb_utils.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        inputs = {self._input: parts[0] if len(parts) == 1 else np.concatenate(parts), self._state: self._states[seats]}
        output, states = self._session.run([self._output, self._next], inputs)
        self._states[seats] = states
        name = self._output
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(name, output[row : row + 1])]) for row in range(len(requests))
        ]

    def _seat(self, sequence, flags):
        """The row of the sequence's state. That of the oldest is taken if there are too many: ends are not told."""
        if flags & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            seat = self._seats.pop(sequence, None)
            if seat is None:
                seat = self._free.pop() if self._free else self._seats.pop(next(iter(self._seats)))
            self._seats[sequence] = seat
            self._states[seat] = 0
            return seat
        return self._seats[sequence]
