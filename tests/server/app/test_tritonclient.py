"""Triton's own Python clients, blocking and asyncio, against a server in the same process: nothing is changed for us.

Both share the names of their messages with Penstock, which only works because ours live in a pool of their own.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from penstock_proto.datatypes import DATATYPES
from penstock_server.app.server import PenstockServer
from penstock_server.app.settings import Compat
from penstock_server.examples import REPOSITORY, all_examples, speech_example
from tests.server.app.conftest import Start
from tests.server.backends.python_models import IDENTITY, write

Array = NDArray[Any]
Client = Any
"""Either client; all methods are awaited."""


class Threaded:
    """The blocking client, whose methods are made coroutines."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: asyncio.to_thread(method, *args, **kwargs)


@pytest.fixture(params=["blocking", "aio"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[PenstockServer], Client]]:
    clients: list[Client] = []

    def connect(server: PenstockServer) -> Client:
        url = f"127.0.0.1:{server.port}"
        if request.param == "blocking":
            clients.append(Threaded(triton.InferenceServerClient(url)))
        else:
            clients.append(triton_aio.InferenceServerClient(url))
        return clients[-1]

    yield connect
    for client in clients:
        await client.close()


def inputs_of(arrays: dict[str, Array]) -> list[Any]:
    made = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


Connect = Callable[[PenstockServer], Client]


async def test_what_a_server_tells_of_itself(start: Start, connect: Connect) -> None:
    """Liveness, metadata, configurations and the index, in the form that the client reads."""
    client = connect(await start(REPOSITORY))
    assert await client.is_server_live()
    assert await client.is_server_ready()
    server = await client.get_server_metadata()
    assert server.name == "penstock"
    assert "statistics" in server.extensions
    assert (await client.get_server_metadata(as_json=True))["name"] == "penstock"

    assert await client.is_model_ready("iris")
    assert await client.is_model_ready("iris", "1")
    assert not await client.is_model_ready("iris", "2")
    assert not await client.is_model_ready("nobody")
    metadata = await client.get_model_metadata("iris")
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("iris", ["1"], "onnxruntime_onnx")
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == [("X", "FP32", [-1, 4])]
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.outputs] == [
        ("label", "INT64", [-1, 1]), ("probabilities", "FP32", [-1, 3]),
    ]  # fmt: skip
    config = (await client.get_model_config("iris")).config
    assert (config.name, config.backend, config.max_batch_size) == ("iris", "onnxruntime", 64)
    assert [(each.name, list(each.dims)) for each in config.input] == [("X", [4])]
    assert config.HasField("dynamic_batching")
    index = await client.get_model_repository_index()
    assert {(model.name, model.version, model.state) for model in index.models} == {
        (name, "1", "READY") for name in ("digits", "iris", "language", "silero_vad")
    }


async def test_known_answers(start: Start, connect: Connect) -> None:
    """Every example, all rows at once and row by row together: numbers, text, and what was asked for of them."""
    client = connect(await start(REPOSITORY))
    for example in all_examples():
        inputs = dict(example.inputs)
        result = await client.infer(example.model, inputs_of(inputs), request_id="7")
        assert result.get_response().id == "7"
        outputs = {name: result.as_numpy(name) for name in example.expected}
        assert example.differences(outputs) == []

        rows = len(example.rows)
        singles = await asyncio.gather(
            *(
                client.infer(example.model, inputs_of({name: array[row : row + 1] for name, array in inputs.items()}))
                for row in range(rows)
            )
        )
        joined = {name: np.concatenate([each.as_numpy(name) for each in singles]) for name in example.expected}
        assert example.differences(joined) == []

        asked = [triton.InferRequestedOutput("probabilities", class_count=1)]
        best = (await client.infer(example.model, inputs_of(inputs), outputs=asked)).as_numpy("probabilities")
        assert best.shape == (rows, 1)
        labels = [text.decode().split(":")[2] for text in best[:, 0]]
        expected = np.asarray(example.expected["probabilities"]).argmax(axis=1)
        assert labels == [example.labels[index] for index in expected]


async def test_a_state_that_the_client_keeps(start: Start, connect: Connect) -> None:
    """The answer's state goes into the next request: speech is heard where it is."""
    speech = speech_example()
    client = connect(await start(REPOSITORY))
    state = speech.initial_state
    heard: list[float] = []
    for window in speech.windows[:25]:
        answer = await client.infer(speech.model, inputs_of({"input": window, "state": state}))
        heard.append(float(answer.as_numpy("output")[0, 0]))
        state = answer.as_numpy("stateN")
    assert np.abs(np.array(heard) - speech.probabilities[:25]).max() <= speech.tolerance


async def test_statistics_are_counted(start: Start, connect: Connect) -> None:
    """Requests, rows and batches of one model, and of all."""
    client = connect(await start(REPOSITORY))
    example = next(each for each in all_examples() if each.model == "iris")
    inputs = {name: array[:2] for name, array in example.inputs.items()}
    for _ in range(3):
        await client.infer("iris", inputs_of(inputs))
    with pytest.raises(InferenceServerException):
        await client.infer("iris", [])
    (stats,) = (await client.get_inference_statistics("iris")).model_stats
    assert (stats.name, stats.version, stats.inference_count, stats.execution_count) == ("iris", "1", 6, 3)
    assert (stats.inference_stats.success.count, stats.inference_stats.fail.count) == (3, 0)
    assert {batch.batch_size: batch.compute_infer.count for batch in stats.batch_stats} == {2: 3}
    assert stats.inference_stats.compute_infer.ns > 0
    assert stats.last_inference > 0
    everything = (await client.get_inference_statistics()).model_stats
    assert {model.name for model in everything} == {"digits", "iris", "language", "silero_vad"}


def arrays() -> dict[str, Array]:
    """Two rows of each datatype, as the client takes them."""
    made: dict[str, Array] = {}
    for name, datatype in DATATYPES.items():
        if name == "BYTES":
            made[name] = np.array([["ä".encode(), b""], [b"\0\xff", b"long" * 100]], object)
        elif name == "BF16":
            made[name] = np.array([[1.0, -2.5], [0.0, 3.140625]], ml_dtypes.bfloat16)
        else:
            made[name] = np.array([[1, 0], [0, 1]]).astype(datatype.numpy)
    return made


async def test_every_datatype(start: Start, connect: Connect, tmp_path: Path) -> None:
    """Through a model that gives back what it gets."""
    for name, datatype in DATATYPES.items():
        write(tmp_path / name.lower() / "1/model.py", IDENTITY)
        (tmp_path / name.lower() / "config.pbtxt").write_text(
            f"""
            max_batch_size: 4
            input {{ name: "X" data_type: {datatype.config_name} dims: 2 }}
            output {{ name: "Y" data_type: {datatype.config_name} dims: 2 }}
            """
        )
    client = connect(await start(tmp_path))
    for name, array in arrays().items():
        tensor = triton.InferInput("X", list(array.shape), name)
        tensor.set_data_from_numpy(array)
        result = await client.infer(name.lower(), [tensor])
        got = result.as_numpy("Y")
        assert got.tolist() == array.tolist(), name
        assert got.dtype == array.dtype


async def test_errors_as_the_client_shows_them(start: Start, connect: Connect, tmp_path: Path) -> None:
    """Its exceptions carry the status by name, and the text that a user of Triton knows."""
    write(tmp_path / "m/1/model.py", IDENTITY)
    (tmp_path / "m/config.pbtxt").write_text(
        """
        max_batch_size: 4
        input { name: "X" data_type: TYPE_FP32 dims: 2 }
        output { name: "Y" data_type: TYPE_FP32 dims: 2 }
        """
    )
    client = connect(await start(tmp_path, compat=Compat.TRITON))
    good = np.zeros((1, 2), np.float32)
    too_many = np.zeros((5, 2), np.float32)
    cases: Sequence[tuple[str, dict[str, Array], str, str]] = (
        ("x", {"X": good}, "StatusCode.NOT_FOUND", "Request for unknown model: 'x' is not found"),
        (
            "m", {"X": good.astype(np.int32)}, "StatusCode.INVALID_ARGUMENT",
            "[request id: 7] inference input 'X' data-type is 'INT32', but model 'm' expects 'FP32'",
        ),
        (
            "m", {"X": too_many}, "StatusCode.INVALID_ARGUMENT",
            "[request id: 7] inference request batch-size must be <= 4 for 'm'",
        ),
        ("m", {"Z": good}, "StatusCode.INVALID_ARGUMENT", "unexpected inference input 'Z' for model 'm'"),
    )  # fmt: skip
    for model, inputs, status, text in cases:
        with pytest.raises(InferenceServerException) as caught:
            await client.infer(model, inputs_of(inputs), request_id="7")
        assert (caught.value.status(), caught.value.message()) == (status, text)
    for call in (client.load_model("m"), client.unload_model("m"), client.get_trace_settings()):
        with pytest.raises(InferenceServerException) as caught:
            await call
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


async def test_parameters_and_timeouts(start: Start, connect: Connect, tmp_path: Path) -> None:
    """The client's own arguments: sequence, priority, timeout, custom parameters. They do no harm."""
    write(tmp_path / "m/1/model.py", IDENTITY)
    (tmp_path / "m/config.pbtxt").write_text(
        """
        max_batch_size: 4
        input { name: "X" data_type: TYPE_FP32 dims: 2 }
        output { name: "Y" data_type: TYPE_FP32 dims: 2 }
        """
    )
    client = connect(await start(tmp_path))
    result = await client.infer(
        "m",
        inputs_of({"X": np.ones((1, 2), np.float32)}),
        model_version="1",
        sequence_id=5,
        sequence_start=True,
        sequence_end=True,
        priority=2,
        timeout=3_600_000_000,
        client_timeout=60,
        headers={"k": "v"},
        parameters={"mine": "v", "number": 3, "yes": True},
    )
    assert result.as_numpy("Y").tolist() == [[1, 1]]
