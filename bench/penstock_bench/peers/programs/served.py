"""The model as every peer runs it: ONNX Runtime, one thread, over a whole batch. Only numpy and onnxruntime are needed.

These programs run in the peers' own environments. They are told everything by two variables of the environment:
`BENCH_MODEL`, the model's file, and `BENCH_PORT`, where to listen on 127.0.0.1; and `BENCH_NAME`, its name in the V2
protocol.
"""

import base64
import os

import numpy as np
import onnxruntime

HOST = "127.0.0.1"
PORT = int(os.environ.get("BENCH_PORT", "0"))
NAME = os.environ.get("BENCH_NAME", "model")
MAX_BATCH = 64
DATATYPES = {"tensor(float)": ("FP32", np.float32), "tensor(int64)": ("INT64", np.int64)}


class OnnxModel:
    """A model with one input of float32 rows."""

    def __init__(self, path=None):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            path or os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self.input = self._session.get_inputs()[0]
        self.outputs = self._session.get_outputs()
        self.names = [output.name for output in self.outputs]
        self.row_shape = self.input.shape[1:]

    def run(self, batch):
        """Rows [n, ...] of float32; the outputs, each [n, ...]."""
        return self._session.run(self.names, {self.input.name: batch})

    def row(self, data):
        """One row, as raw little-endian float32."""
        return np.frombuffer(data, np.float32).reshape(self.row_shape)

    def answers(self, rows):
        """For each of these rows: the bytes of its part of every output, one after the other."""
        outputs = self.run(np.stack(rows))
        return [b"".join(output[number].tobytes() for output in outputs) for number in range(len(rows))]

    def text_answers(self, texts):
        """The same where a server only takes text: base64 both ways."""
        rows = [self.row(base64.b64decode(text)) for text in texts]
        return [base64.b64encode(answer).decode() for answer in self.answers(rows)]

    def metadata(self, tensors):
        """Inputs or outputs as the V2 protocol describes them, the batch axis free."""
        return [
            {"name": each.name, "datatype": DATATYPES[each.type][0], "shape": [-1, *each.shape[1:]]} for each in tensors
        ]
