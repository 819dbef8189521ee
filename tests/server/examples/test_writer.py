"""Continuous batching: streams of an autoregressive model join and leave a running batch, and none of them notices."""

import asyncio
import importlib.util
import shutil
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from penstock_client import AsyncClient, StreamRequest
from penstock_server import examples
from penstock_server.app.run import ServerThread
from penstock_server.app.settings import ServerSettings
from penstock_server.backends.base import ModelBatch
from penstock_server.examples import STREAMS
from penstock_server.transports.base import TransportSettings

PROGRAM = STREAMS / "writer" / "1" / "model.py"
WATCHED = """
import watched

_infer = Writer.infer

def _watch(self, inputs, batch):
    watched.begun(inputs["SO_FAR"][:, 0].tolist())
    return _infer(self, inputs, batch)

Writer.infer = _watch
"""
"""Appended to the model: it tells how far each stream of a batch is, and waits until the test has heard it."""
STREAM_COUNT = 24


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """The model's file, without a server."""
    spec = importlib.util.spec_from_file_location("writer_alone", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def alone(program: ModuleType) -> Any:
    """An instance of the model that no server runs."""
    model = program.Writer()
    model.load(None)
    return model


def written_alone(model: Any, prompt: str, length: int) -> list[str]:
    """A stream's characters, greedily decoded a step at a time, in batches of one."""
    fixed = {"PROMPT": np.array([[prompt.encode()]], object), "LENGTH": np.array([[length]], np.int32)}
    state = {"SO_FAR": np.zeros((1, 1), np.int32), "MEMORY": np.zeros((1, 480))}
    text: list[str] = []
    while True:
        batch = ModelBatch({}, 1, ())
        outputs = model.infer(fixed | state | {"START": np.array([[not text]], np.int32)}, batch)
        text.append(str(outputs["TEXT"][0, 0]))
        state = {"SO_FAR": outputs["NEW_SO_FAR"], "MEMORY": outputs["NEW_MEMORY"]}
        if not batch.unfinished:
            return text


def test_it_knows_its_sentences(program: ModuleType, alone: Any) -> None:
    """From any beginning that belongs to one of them only, to its end or as far as asked."""
    for sentence in program.SENTENCES:
        for size in (4, 9, 30):
            assert "".join(written_alone(alone, sentence[:size], 100)) == sentence[size:] + program.END
            assert "".join(written_alone(alone, sentence[:size], 5)) == sentence[size : size + 5]


def test_the_example_is_what_it_knows(program: ModuleType, alone: Any) -> None:
    """A beginning for each text, to the end of its sentence."""
    example = examples.writing_example()
    for prompt, text in zip(example.prompts, example.texts, strict=True):
        assert (prompt + text).removesuffix(program.END) in program.SENTENCES
        assert "".join(written_alone(alone, prompt, example.length)) == text
    assert example.differences(example.texts) == []
    (difference,) = example.differences((*example.texts[:-1], "no"))
    assert difference.startswith(f"'{example.prompts[-1]}': 'no', not ")


class Watch:
    """The batches of the served model. While one runs, the next stream begins; the batch goes on once it has."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.server: ServerThread | None = None
        self.may_begin = [asyncio.Event() for _ in range(STREAM_COUNT)]
        self.loop = asyncio.get_running_loop()

    def begun(self, so_far: list[int]) -> None:
        """Called by the model, in its thread."""
        self.batches.append(so_far)
        following = len(self.batches)
        if following < STREAM_COUNT:
            self.loop.call_soon_threadsafe(self.may_begin[following].set)
            while self._streams_asked() <= following:
                time.sleep(0.001)

    def _streams_asked(self) -> int:
        assert self.server is not None
        assert self.server.server._streaming is not None
        return self.server.server._streaming.messages


@pytest.fixture
async def watch(tmp_path: Path) -> AsyncIterator[Watch]:
    """A server of the model, and what it says of its batches, which run in its thread."""
    watch = Watch()
    module: Any = ModuleType("watched")
    module.begun = watch.begun
    sys.modules["watched"] = module
    shutil.copytree(STREAMS, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "writer" / "1" / "model.py").open("a") as file:
        file.write(WATCHED)
    transport = TransportSettings(port=0)
    settings = ServerSettings(source=tmp_path, transport=transport, metrics_port=None, inline_below=0)
    with ServerThread(settings) as watch.server:
        yield watch
    del sys.modules["watched"]


async def test_streams_join_and_leave_the_running_batch(watch: Watch, program: ModuleType, alone: Any) -> None:
    """A stream begins with every batch, and each gets the text that it would get alone."""
    texts: list[list[str]] = [[] for _ in range(STREAM_COUNT)]
    asked = [(program.SENTENCES[n % 6][: 4 + n], 3 + 5 * n) for n in range(STREAM_COUNT)]
    watch.may_begin[0].set()

    async def one(client: AsyncClient, n: int) -> None:
        await watch.may_begin[n].wait()
        prompt, length = asked[n]
        async for answer in client.stream([StreamRequest("writer", {"PROMPT": [[prompt]], "LENGTH": [[length]]})]):
            texts[n].append(answer.result().text("TEXT").item())

    assert watch.server is not None
    async with AsyncClient(f"127.0.0.1:{watch.server.port}", timeout=60.0) as client:
        await client.model_metadata("writer")  # which it would ask for with the first stream
        await asyncio.gather(*(one(client, n) for n in range(STREAM_COUNT)))
    assert texts == [written_alone(alone, *each) for each in asked]
    for number, batch in enumerate(watch.batches):
        there = [(n, number - n) for n in range(STREAM_COUNT)]
        assert sorted(batch) == sorted(so_far for n, so_far in there if 0 <= so_far < len(texts[n]))
    assert max(map(len, watch.batches)) > 10
