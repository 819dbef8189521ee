"""Streams of both clients against a real server: order, failures that do not end it, decoupled models, giving up."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from penstock_client import AsyncClient, Client, InferenceError, InputError, StreamAnswer, StreamRequest
from penstock_server.app.run import ServerThread
from penstock_server.app.settings import ServerSettings
from penstock_server.transports.base import TransportSettings

DOUBLE = """
from penstock_server.backends.python import PythonModel

class Double(PythonModel):
    def infer(self, inputs, batch):
        return {"Y": inputs["X"] * 2}
"""
COUNT = """
import numpy as np
from penstock_server.backends.python import PythonModel

class Count(PythonModel):
    async def infer(self, inputs, batch):
        for number in range(int(inputs["X"][0])):
            yield {"Y": np.array([number], np.int32)}
"""
ADD = """
from penstock_server.backends.python import PythonModel

class Add(PythonModel):
    def infer(self, inputs, batch):
        return {"Y": inputs["X"] + inputs["OLD"], "NEW": inputs["X"] + inputs["OLD"]}
"""
SEQUENCES = """
max_batch_size: 8 sequence_batching {
    max_sequence_idle_microseconds: 1000
    oldest { } state { input_name: "OLD" output_name: "NEW" data_type: TYPE_INT32 dims: 1 }
}
"""
CONFIG = 'input { name: "X" data_type: TYPE_INT32 dims: 1 } output { name: "Y" data_type: TYPE_INT32 dims: 1 }'


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a model that doubles and a decoupled one that counts."""
    root = tmp_path_factory.mktemp("models")
    for name, text, more in (
        ("double", DOUBLE, ""),
        ("count", COUNT, "model_transaction_policy { decoupled: true }"),
        ("add", ADD, SEQUENCES),
    ):
        version: Path = root / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(text)
        (root / name / "config.pbtxt").write_text(CONFIG + more)
    settings = ServerSettings(source=root, transport=TransportSettings(port=0), metrics_port=None)
    with ServerThread(settings) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


async def answers(kind: str, target: str, requests: Iterable[StreamRequest]) -> list[StreamAnswer]:
    """All that comes back, whichever client asks."""
    if kind == "async":
        async with AsyncClient(target, timeout=60.0) as client:
            return [answer async for answer in client.stream(requests)]

    def blocking() -> list[StreamAnswer]:
        with Client(target, timeout=60.0) as client:
            return list(client.stream(requests))

    return await asyncio.to_thread(blocking)


def value(answer: StreamAnswer) -> int:
    return int(answer.result()["Y"][0])


async def test_answers_come_in_order(kind: str, target: str) -> None:
    """Each to its request; plain numbers become what the model takes."""
    found = await answers(kind, target, [StreamRequest("double", {"X": [n]}, request_id=f"{n}") for n in range(20)])
    assert [(answer.id, value(answer), answer.final) for answer in found] == [(f"{n}", 2 * n, True) for n in range(20)]


async def test_a_request_that_fails_does_not_end_the_stream(kind: str, target: str) -> None:
    """Its answer is the error, with the status that a unary call would have had."""
    tensor = np.array([4], np.int32)
    first, second = await answers(
        kind,
        target,
        [StreamRequest("nobody", {"X": tensor}, request_id="a"), StreamRequest("double", {"X": tensor})],
    )
    assert isinstance(first.outcome, InferenceError)
    assert (first.id, first.final, first.outcome.status) == ("a", True, grpc.StatusCode.NOT_FOUND)
    with pytest.raises(InferenceError, match="unknown model"):
        first.result()
    assert value(second) == 8


async def test_a_decoupled_model_answers_as_often_as_it_likes(kind: str, target: str) -> None:
    """The end is told to who asks for it."""
    asks = {"triton_enable_empty_final_response": True}
    found = await answers(kind, target, [StreamRequest("count", {"X": [3]}, request_id="a", parameters=asks)])
    assert [value(answer) for answer in found[:-1]] == [0, 1, 2]
    assert [answer.final for answer in found] == [False, False, False, True]
    assert dict(found[-1].result()) == {}


async def test_what_cannot_be_sent_is_raised(kind: str, target: str) -> None:
    """As it is, and not as gRPC's word for an iterator that failed."""
    with pytest.raises(InputError, match="has no input 'Z'"):
        await answers(kind, target, [StreamRequest("double", {"Z": [1]})])


async def test_an_error_of_the_callers_generator_is_the_callers(kind: str, target: str) -> None:
    """What was asked before was asked."""

    def requests() -> Iterator[StreamRequest]:
        yield StreamRequest("double", {"X": [1]})
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await answers(kind, target, requests())


async def test_nobody_there_fails_the_stream(kind: str) -> None:
    """With gRPC's own status."""
    with pytest.raises(InferenceError) as caught:
        await answers(kind, "127.0.0.1:1", [StreamRequest("m", {"X": np.zeros(1)})])
    assert caught.value.status is grpc.StatusCode.UNAVAILABLE


async def test_one_request_can_be_cancelled(target: str) -> None:
    """It is answered with CANCELLED; a decoupled one stops."""
    go = threading.Event()

    def requests() -> Iterator[StreamRequest]:
        yield StreamRequest("count", {"X": [1 << 30]}, request_id="a")
        go.wait(60)
        yield StreamRequest.cancel("a")

    def blocking() -> list[StreamAnswer]:
        found: list[StreamAnswer] = []
        with Client(target, timeout=60.0) as client:
            for answer in client.stream(requests()):
                found.append(answer)
                go.set()
        return found

    *_, last = await asyncio.to_thread(blocking)
    assert isinstance(last.outcome, InferenceError)
    assert last.outcome.status is grpc.StatusCode.CANCELLED


async def test_requests_may_depend_on_answers(target: str) -> None:
    """An async generator is asked for a request at a time, while answers are read."""
    known: asyncio.Queue[int] = asyncio.Queue()
    known.put_nowait(1)

    async def requests() -> AsyncIterator[StreamRequest]:
        for _ in range(5):
            yield StreamRequest("double", {"X": [await known.get()]})

    values: list[int] = []
    async with AsyncClient(target, timeout=60.0) as client:
        async for answer in client.stream(requests()):
            values.append(value(answer))
            known.put_nowait(values[-1])
    assert values == [2, 4, 8, 16, 32]


async def test_a_stream_is_a_sequence(kind: str, target: str) -> None:
    """A client that knows nothing of sequences just opens a stream; the next one begins anew."""
    for _ in range(2):
        found = await answers(kind, target, [StreamRequest("add", {"X": [[n]]}) for n in (1, 2, 3)])
        assert [int(answer.result()["Y"][0, 0]) for answer in found] == [1, 3, 6]


async def test_streams_do_not_see_each_others_states(target: str) -> None:
    """However many there are, and though their steps share batches."""

    async def one(client: AsyncClient, factor: int) -> list[int]:
        asked = (StreamRequest("add", {"X": [[factor * n]]}) for n in range(10))
        return [int(answer.result()["Y"][0, 0]) async for answer in client.stream(asked)]

    async with AsyncClient(target, timeout=60.0) as client:
        every = await asyncio.gather(*(one(client, factor) for factor in range(50)))
    assert every == [[factor * n * (n + 1) // 2 for n in range(10)] for factor in range(50)]


async def test_the_sequence_of_an_open_stream_is_never_idle_for_too_long(target: str) -> None:
    """The model's sequences end after a millisecond of silence; this one is silent for more."""

    async def requests() -> AsyncIterator[StreamRequest]:
        yield StreamRequest("add", {"X": [[1]]})
        await asyncio.sleep(0.02)
        yield StreamRequest("add", {"X": [[2]]})

    async with AsyncClient(target, timeout=60.0) as client:
        values = [int(answer.result()["Y"][0, 0]) async for answer in client.stream(requests())]
    assert values == [1, 3]


async def test_who_stops_taking_answers_has_cancelled_the_rest(target: str) -> None:
    """The model is not left counting for nobody: the client can be closed and another one served."""
    async with AsyncClient(target, timeout=60.0) as client:
        stream = client.stream([StreamRequest("count", {"X": [1 << 30]})])
        async for answer in stream:
            assert value(answer) == 0
            break
        await stream.aclose()
        assert [value(each) async for each in client.stream([StreamRequest("double", {"X": [1]})])] == [2]
