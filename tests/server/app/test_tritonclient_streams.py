"""The streams of Triton's own Python clients, blocking and asyncio: nothing is changed for us."""

import asyncio
import queue
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from penstock_server.app.server import PenstockServer
from penstock_server.app.settings import Compat
from tests.golden.repository import SERVED, write_repository
from tests.server.app.conftest import Start

Answer = tuple[Any, InferenceServerException | None]


@pytest.fixture
async def server(start: Start, tmp_path: Path) -> PenstockServer:
    """The golden models, spoken to as if they were Triton's."""
    names = ("addsub", "repeat")
    return await start(
        write_repository(tmp_path, tuple(model for model in SERVED if model.name in names)), compat=Compat.TRITON
    )


def tensor(name: str, value: Any, datatype: str = "INT32") -> Any:
    array = np.array(value, np.int32 if datatype == "INT32" else np.float32)
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def repeat(count: int, fail_after: int = -1) -> list[Any]:
    return [tensor("N", [count]), tensor("DELAY_MS", [0]), tensor("FAIL_AFTER", [fail_after])]


def addsub() -> list[Any]:
    return [tensor("A", [[1, 2, 3, 4]], "FP32"), tensor("B", [[1, 1, 1, 1]], "FP32")]


class Blocking:
    """The blocking client's stream: requests go in, answers come through a callback."""

    def __init__(self, server: PenstockServer) -> None:
        self._client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        self._answers: queue.Queue[Answer] = queue.Queue()
        self._client.start_stream(lambda result, error: self._answers.put((result, error)))

    def ask(self, model: str, inputs: list[Any], **more: Any) -> None:
        self._client.async_stream_infer(model, inputs, **more)

    def answers(self, count: int) -> list[Answer]:
        found = [self._answers.get(timeout=60) for _ in range(count)]
        self._client.stop_stream()
        self._client.close()
        assert self._answers.empty()
        return found


async def test_async_stream_infer(server: PenstockServer) -> None:
    """Answers in order, and a request that fails is an exception given to the callback, while the stream goes on."""

    def use() -> list[Answer]:
        stream = Blocking(server)
        stream.ask("addsub", addsub(), request_id="1")
        stream.ask("nobody", addsub(), request_id="2")
        stream.ask("addsub", addsub(), request_id="3")
        return stream.answers(3)

    (first, _), (_, error), (third, _) = await asyncio.to_thread(use)
    assert [first.get_response().id, third.get_response().id] == ["1", "3"]
    assert third.as_numpy("SUM").tolist() == [[20, 30, 40, 50]]
    assert error is not None
    assert error.message() == "Request for unknown model: 'nobody' is not found"


async def test_decoupled_with_an_empty_final_response(server: PenstockServer) -> None:
    """Asked for, the end comes as a response of its own; else it does not."""

    def use() -> list[Answer]:
        stream = Blocking(server)
        stream.ask("repeat", repeat(3), request_id="a", enable_empty_final_response=True)
        found = [stream._answers.get(timeout=60) for _ in range(4)]
        stream.ask("repeat", repeat(2), request_id="b")
        return found + stream.answers(2)

    results = [result.get_response() for result, error in await asyncio.to_thread(use)]
    assert [each.id for each in results] == ["a"] * 4 + ["b"] * 2
    finals = [each.parameters["triton_final_response"].bool_param for each in results]
    assert finals == [False, False, False, True, False, False]
    assert [len(each.outputs) for each in results] == [2, 2, 2, 0, 2, 2]


async def test_a_decoupled_model_that_fails_after_some_responses(server: PenstockServer) -> None:
    """They come first, then the error of that request."""

    def use() -> list[Answer]:
        stream = Blocking(server)
        stream.ask("repeat", repeat(5, fail_after=2))
        return stream.answers(3)

    *good, (_, error) = await asyncio.to_thread(use)
    assert [result.as_numpy("I").tolist() for result, _ in good] == [[0], [1]]
    assert error is not None
    assert error.message() == "failed after 2"


async def test_stream_infer_of_the_asyncio_client(server: PenstockServer) -> None:
    """Requests from an async iterator; both kinds of model on one stream."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": "addsub", "inputs": addsub(), "request_id": "1"}
        yield {"model_name": "repeat", "inputs": repeat(3), "request_id": "2"}

    async with triton_aio.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        found: list[tuple[str, int]] = []
        answers: Any = client.stream_infer(requests())
        async for result, error in answers:
            assert error is None
            found.append((result.get_response().id, len(result.get_response().outputs)))
    assert sorted(found) == [("1", 2), ("2", 2), ("2", 2), ("2", 2)]


async def test_a_client_that_cancels_its_stream(server: PenstockServer) -> None:
    """With requests in flight: the server is as free as before."""

    def use() -> None:
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        came: queue.Queue[Answer] = queue.Queue()
        client.start_stream(lambda result, error: came.put((result, error)))
        client.async_stream_infer("repeat", repeat(1 << 30))
        came.get(timeout=60)
        client.stop_stream(cancel_requests=True)
        client.close()

    await asyncio.to_thread(use)
    (version,) = [each for each in server.models.versions() if each.spec.name == "repeat"]
    idle = asyncio.Event()
    version.driver.drain(idle.set)
    await asyncio.wait_for(idle.wait(), 60)
