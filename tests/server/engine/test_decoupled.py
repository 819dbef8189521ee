"""Decoupled models in the engine: responses on their way to their request, and models that are not what they say."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from penstock_server.backends.base import RequestInfo
from penstock_server.backends.python import PythonBackend
from penstock_server.engine.decoupled import LIVE
from penstock_server.engine.jobs import Job, Outcome, Outputs, Plan, StreamedJob
from penstock_server.engine.loading import LoadSettings, load_model
from penstock_server.engine.versions import ServedVersion
from penstock_server.errors import Failure
from penstock_server.models.repository import scan
from penstock_server.status import Status

COUNTER = """
import numpy as np
from penstock_server.backends.python import PythonModel

class Counter(PythonModel):
    async def infer(self, inputs, batch):
        for number in range(int(inputs["N"][0])):
            yield {"I": np.array([number if number < 7 else "seven"], np.int32 if number < 7 else object)}
"""
BATCHER = """
from penstock_server.backends.python import PythonModel

class Batcher(PythonModel):
    def infer(self, inputs, batch):
        return {"I": inputs["N"]}
"""
CONFIG = """
input { name: "N" data_type: TYPE_INT32 dims: 1 }
output { name: "I" data_type: TYPE_INT32 dims: 1 }
"""
DECOUPLED = "model_transaction_policy { decoupled: true }"
WARMUP = 'model_warmup { name: "one" inputs { key: "N" value { data_type: TYPE_INT32 dims: 1 zero_data: true } } }'


def write(root: Path, text: str, config: str) -> Path:
    (root / "m" / "1").mkdir(parents=True)
    (root / "m" / "1" / "model.py").write_text(text)
    (root / "m" / "config.pbtxt").write_text(CONFIG + config)
    return root


class Asked(StreamedJob):
    """A request, what came, and when it was over."""

    def __init__(self, version: ServedVersion, count: int, *, room: int = 1 << 30) -> None:
        plan = Plan(version, 1, version.spec.inputs, ((1,),), (0,), (0,), None)
        raw = np.array([count], "<i4").tobytes()
        super().__init__(plan, [raw], RequestInfo(1, outputs=("I",)), time.monotonic())
        self.responses: list[int] = []
        self.outcomes: list[Outcome] = []
        self.room = room
        self._news = asyncio.Event()
        version.driver.submit(self)

    def respond(self, outputs: Outputs) -> bool:
        self.responses.append(int(outputs[0][0]))
        self._news.set()
        self.room -= 1
        return self.room > 0

    def answer(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._news.set()

    async def reached(self, count: int) -> None:
        while len(self.responses) < count:
            self._news.clear()
            await self._news.wait()

    async def end(self) -> Outcome:
        while not self.outcomes:
            self._news.clear()
            await self._news.wait()
        (outcome,) = self.outcomes
        return outcome


@pytest.fixture
async def counter(tmp_path: Path) -> AsyncIterator[ServedVersion]:
    root = write(tmp_path, COUNTER, DECOUPLED + WARMUP)
    model = await load_model(scan(root).models["m"], {"python": PythonBackend()}, LoadSettings())
    assert model.ready, model.states
    version = model.served[1]
    yield version
    assert version.driver.scheduler.is_idle, "every generator has given its place back"
    assert await version.driver.close(60.0)


async def test_responses_come_one_by_one_and_then_the_end(counter: ServedVersion) -> None:
    """In order; the statistics count one execution."""
    asked = Asked(counter, 3)
    assert await asked.end() == ()
    assert asked.responses == [0, 1, 2]
    assert counter.driver.counters.inference_count == 1


async def test_more_run_beside_each_other_than_there_are_instances(counter: ServedVersion) -> None:
    """And those beyond wait for a place, instead of being refused."""
    every = [Asked(counter, 2) for _ in range(2 * LIVE)]
    for asked in every:
        assert await asked.end() == ()
        assert asked.responses == [0, 1]


async def test_who_has_no_room_gets_the_rest_later(counter: ServedVersion) -> None:
    """Nothing is lost and nothing comes twice."""
    slow = Asked(counter, 7, room=1)
    await slow.reached(1)
    await Asked(counter, 7).end()
    assert slow.outcomes == []
    slow.room = 1 << 30
    slow.go_on()
    assert await slow.end() == ()
    assert slow.responses == list(range(7))


async def test_a_bad_response_fails_its_request_and_ends_its_generator(counter: ServedVersion) -> None:
    """With an error id: the model's author has to look into the log."""
    asked = Asked(counter, 1000)
    failure = await asked.end()
    assert isinstance(failure, Failure)
    assert failure.status is Status.INTERNAL
    assert asked.responses == list(range(7))
    await Asked(counter, 1).end()
    assert (counter.driver.counters.fail.count, counter.driver.counters.success.count) == (1, 1), "it is no success"


async def test_a_cancelled_request_hears_nothing_more(counter: ServedVersion) -> None:
    """Its generator is closed, and its place is free for others."""
    asked = Asked(counter, 7, room=1)
    await asked.reached(1)
    assert asked.cancel()
    await asyncio.gather(*(Asked(counter, 1).end() for _ in range(LIVE)))
    assert asked.outcomes == []


async def test_a_request_for_one_answer_is_refused(counter: ServedVersion) -> None:
    """The service keeps them apart; were it not to, the request would fail and not hang."""
    answers: list[Outcome] = []
    came = asyncio.Event()

    class Once(Job):
        def answer(self, outcome: Outcome) -> None:
            answers.append(outcome)
            came.set()

    plan = Plan(counter, 1, counter.spec.inputs, ((1,),), (0,), (0,), None)
    counter.driver.submit(Once(plan, [bytes(4)], RequestInfo(1), time.monotonic()))
    await came.wait()
    assert isinstance(answers[0], Failure)


@pytest.mark.parametrize(
    ("text", "config", "reason"),
    [
        (BATCHER, DECOUPLED, "a decoupled model is a Python model whose infer() is a generator"),
        (COUNTER, "", "its infer() is a generator"),
    ],
    ids=["no generator", "a generator"],
)
async def test_a_model_answers_as_its_config_says(text: str, config: str, reason: str, tmp_path: Path) -> None:
    """Better told at load than by the first client."""
    source = scan(write(tmp_path, text, config)).models["m"]
    model = await load_model(source, {"python": PythonBackend()}, LoadSettings())
    assert reason in model.states[1][1]
    assert "decoupled" in model.states[1][1]
