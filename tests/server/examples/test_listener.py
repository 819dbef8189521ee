"""Audio on many streams at once: each is heard as if it were alone, however the server batches across them."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest

from penstock_client import AsyncClient, StreamRequest
from penstock_server.app.run import ServerThread
from penstock_server.app.settings import ServerSettings
from penstock_server.engine.sequences import SequenceDriver
from penstock_server.examples import LISTENER, REPOSITORY, speech_example, write_repository_with_listener
from penstock_server.transports.base import TransportSettings

SPEECH = speech_example()
FRAMES = 40


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    source = write_repository_with_listener(tmp_path_factory.mktemp("models"))
    settings = ServerSettings(source=source, transport=TransportSettings(port=0, max_streams=1024), metrics_port=None)
    with ServerThread(settings) as server:
        yield server


@pytest.fixture(scope="module")
def offline() -> list[list[float]]:
    """What the model says of the recording from each of some beginnings, run alone and without a server."""
    session: Any = onnxruntime.InferenceSession(REPOSITORY / "silero_vad" / "1" / "model.onnx")
    heard: list[list[float]] = []
    for begin in range(8):
        state = SPEECH.initial_state
        heard.append([])
        for window in windows(begin):
            output, state = session.run(["output", "stateN"], {"input": window, "state": state})
            heard[-1].append(float(output[0, 0]))
    return heard


def windows(begin: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return SPEECH.windows[5 * begin : 5 * begin + FRAMES]


async def listen(client: AsyncClient, begin: int, rng: random.Random, most: int = FRAMES) -> list[float]:
    """One stream, sent in bursts of any size; broken off by its client after `most` answers."""

    async def requests() -> AsyncIterator[StreamRequest]:
        for window in windows(begin):
            yield StreamRequest(LISTENER, {"input": window})
            if rng.random() < 0.2:
                await asyncio.sleep(0)

    heard: list[float] = []
    stream = client.stream(requests())
    async for answer in stream:
        heard.append(float(answer.result()["output"][0, 0]))
        if len(heard) == most:
            break
    await stream.aclose()
    return heard


@pytest.mark.parametrize("count", [1, 8, 64, pytest.param(256, marks=pytest.mark.slow)])
async def test_every_stream_is_heard_as_if_it_were_alone(
    server: ServerThread, offline: list[list[float]], count: int
) -> None:
    """Under random interleaving, among streams that break off and come back; and no state is left."""
    rng = random.Random(count)

    async def one(client: AsyncClient) -> None:
        begin = rng.randrange(len(offline))
        if rng.random() < 0.3:
            broken_off = rng.randrange(1, FRAMES)
            heard = await listen(client, begin, rng, broken_off)
            np.testing.assert_allclose(heard, offline[begin][:broken_off], atol=1e-5)
        np.testing.assert_allclose(await listen(client, begin, rng), offline[begin], atol=1e-5)

    async with AsyncClient(f"127.0.0.1:{server.port}", timeout=60.0) as client:
        await asyncio.gather(*(one(client) for _ in range(count)))
    (version,) = [each for each in server.server.models.versions() if each.spec.name == LISTENER]
    assert isinstance(version.driver, SequenceDriver)
    async with asyncio.timeout(60):  # the server may hear a moment later that a client is gone
        while version.driver.sequence_statistics().active:  # noqa: ASYNC110
            await asyncio.sleep(0)
    if count >= 8:
        counters = version.driver.counters
        assert counters.execution_count < counters.inference_count, "batched across streams"
