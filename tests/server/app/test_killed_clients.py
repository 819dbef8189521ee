"""A thousand streams of every kind, whose clients are killed at any moment: nothing of them is left."""

import asyncio
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock_server.app.server import PenstockServer
from penstock_server.backends.generators import GeneratorRunner
from penstock_server.engine.sequences import SequenceDriver
from tests.server.app.conftest import Start
from tests.server.app.stream_models import write_models

CLIENTS = 5
STREAMS = 100
"""For each client, about. Both transports together make a thousand."""
ROOT = Path(__file__).parents[3]


async def kill_one(port: int, seed: int) -> None:
    """Let a client use so many streams, and kill it in the middle of whatever it does then."""
    streams = STREAMS + random.Random(seed).randrange(20)
    command = (sys.executable, "-m", "tests.server.app.restless_client", str(port), str(seed))
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    client = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, env=variables)
    assert client.stdout is not None
    try:
        for _ in range(streams):
            assert await client.stdout.readline(), "it lives until it is killed"
    finally:
        client.kill()
        await client.wait()


def left(server: PenstockServer) -> Iterator[tuple[str, int]]:
    """All that a server can hold for its clients."""
    assert server._transport is not None
    assert server._streaming is not None
    transport, streams = server._transport.statistics(), server._streaming.statistics()
    yield "calls", transport.calls_in_flight
    yield "connections", transport.connections
    yield "bytes of connections", transport.held_bytes
    yield "streams", streams.streams
    yield "requests", streams.requests
    yield "bytes of requests", server._budget.taken
    yield "tasks", len(asyncio.all_tasks()) - 1
    for version in server.models.versions():
        driver, name = version.driver, version.spec.name
        queue = driver.statistics()
        yield f"requests that wait for {name}", queue.queued
        yield f"bytes that wait for {name}", queue.queued_bytes
        yield f"batches of {name}", queue.running
        yield f"instances of {name} in use", len(driver._runners) - len(driver._idle)
        for runner in driver._runners:
            if isinstance(runner, GeneratorRunner):
                yield f"generators of {name}", len(runner._tasks)
        if isinstance(driver, SequenceDriver):
            sequences = driver.sequence_statistics()
            yield f"seats of {name}", sequences.active
            yield f"sequences that wait for {name}", sequences.backlog
            yield f"steps that wait for {name}", sequences.waiting


@pytest.mark.slow
async def test_nothing_is_left_of_clients_that_are_killed(start: Start, tmp_path: Path) -> None:
    """No state, task, slot or byte, whatever their streams were for; and the models work as before."""
    server = await start(write_models(tmp_path))
    before = dict(left(server))
    async with asyncio.timeout(60):
        await asyncio.gather(*(kill_one(server.port, seed) for seed in range(CLIENTS)))
    assert server._streaming is not None
    assert server._streaming.statistics().opened >= CLIENTS * STREAMS
    try:
        async with asyncio.timeout(10):  # whoever is killed without a word is noticed when the kernel says so
            while dict(left(server)) != before:  # noqa: ASYNC110 - what is watched has no events
                await asyncio.sleep(0.01)
    except TimeoutError:
        assert dict(left(server)) == before
