"""A repository with a model of each kind that streams are for, written in Python and quick to run.

| model    | what it answers to X, [1, 1] INT32 |
|----------|------------------------------------|
| `twice`  | 2 X; a PAD of any length is not looked at |
| `sums`   | the sum of the X of its sequence |
| `rounds` | 0, after X rounds (iterative) |
| `pour`   | 0, 1, … X - 1, a response each (decoupled) |
| `drip`   | the same, and rests a little before each |
"""

from pathlib import Path

import numpy as np

from penstock_proto import open_inference_pb2 as pb

_TENSORS = """
input { name: "X" data_type: TYPE_INT32 dims: 1 }
output { name: "Y" data_type: TYPE_INT32 dims: 1 }
"""
_STATE = 'state { input_name: "OLD" output_name: "NEW" data_type: TYPE_INT32 dims: 1 }'
_START = 'control_input { name: "START" control { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] } }'
_DECOUPLED = "max_batch_size: 1 model_transaction_policy { decoupled: true }"
_IMPORTS = "import asyncio\nimport numpy as np\nfrom penstock_server.backends.python import PythonModel\n\n"

_MODELS = {
    "twice": (
        """
class Twice(PythonModel):
    def infer(self, inputs, batch):
        return {"Y": 2 * inputs["X"]}
""",
        'max_batch_size: 64 dynamic_batching {} input { name: "PAD" data_type: TYPE_UINT8 dims: -1 optional: true }',
    ),
    "sums": (
        """
class Sums(PythonModel):
    def infer(self, inputs, batch):
        total = inputs["X"] + inputs["OLD"]
        return {"Y": total, "NEW": total}
""",
        "max_batch_size: 64 sequence_batching { max_sequence_idle_microseconds: 300000 "
        f"oldest {{ max_candidate_sequences: 64 }} {_STATE} }}",
    ),
    "rounds": (
        """
class Rounds(PythonModel):
    def infer(self, inputs, batch):
        left = np.where(inputs["START"] == 1, inputs["X"], inputs["OLD"])
        for row in np.flatnonzero(left[:, 0] > 0):
            batch.reschedule(int(row))
        return {"Y": left, "NEW": left - 1}
""",
        f"max_batch_size: 64 sequence_batching {{ iterative_sequence: true oldest {{}} {_STATE} {_START} }}",
    ),
    "pour": (
        """
class Pour(PythonModel):
    async def infer(self, inputs, batch):
        for number in range(int(inputs["X"][0, 0])):
            yield {"Y": np.array([[number]], np.int32)}
""",
        _DECOUPLED,
    ),
    "drip": (
        """
class Drip(PythonModel):
    async def infer(self, inputs, batch):
        for number in range(int(inputs["X"][0, 0])):
            await asyncio.sleep(0.001)
            yield {"Y": np.array([[number]], np.int32)}
""",
        _DECOUPLED,
    ),
}


def write_models(folder: Path, *names: str) -> Path:
    """Write the models of these names, or all, into a folder, and return it."""
    for name in names or _MODELS:
        code, config = _MODELS[name]
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.py").write_text(_IMPORTS + code)
        (folder / name / "config.pbtxt").write_text(_TENSORS + config)
    return folder


def request(model: str, value: int, name: str = "", pad: int = 0) -> bytes:
    """A serialised request, with so many bytes of PAD."""
    message = pb.ModelInferRequest(model_name=model, id=name)
    message.inputs.add(name="X", datatype="INT32", shape=[1, 1])
    message.raw_input_contents.append(np.array([value], "<i4").tobytes())
    if pad:
        message.inputs.add(name="PAD", datatype="UINT8", shape=[1, pad])
        message.raw_input_contents.append(bytes(pad))
    return message.SerializeToString()


def value(response: pb.ModelStreamInferResponse) -> int:
    """Y."""
    assert not response.error_message, response.error_message
    return int(np.frombuffer(response.infer_response.raw_output_contents[0], "<i4")[0])
