"""The generators of a decoupled model: beside each other, within their window, and closed in any case."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable

import numpy as np
import pytest

from penstock_server.backends.base import DecoupledInstance, ModelBatch, RequestInfo, Tensors
from penstock_server.backends.generators import WINDOW, GeneratorRunner
from penstock_server.backends.python import PythonGenerators, PythonModel
from penstock_server.backends.runner import Outcome
from penstock_server.errors import Failure, ModelError
from penstock_server.status import Status

Work = Callable[[ModelBatch], AsyncGenerator[Tensors, None]]


def response(number: int) -> Tensors:
    return {"I": np.array([number])}


class Instance:
    """Streams what it is told, and notes when it is closed."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.closed_in: list[str] = []

    def stream(self, batch: ModelBatch) -> AsyncGenerator[Tensors, None]:
        return self._work(batch)

    def close(self) -> None:
        self.closed_in.append(threading.current_thread().name)


class Desk:
    """The engine's end of one request: takes responses and the end."""

    def __init__(self, runner: GeneratorRunner, name: str = "", *, gives: bool = True) -> None:
        self.responses: list[int] = []
        self.outcomes: list[Outcome] = []
        self._gives = gives
        self._news = asyncio.Event()
        self.batch = ModelBatch({}, 1, [RequestInfo(1, id=name)], respond=self._respond)
        runner.start(self.batch, self._done)
        assert self.batch.flow is not None
        self.flow = self.batch.flow

    def _respond(self, tensors: Tensors) -> None:
        self.responses.append(int(tensors["I"][0]))
        if self._gives:
            self.flow.give()
        else:
            self.flow.withhold()
        self._news.set()

    def _done(self, batch: ModelBatch, outcome: Outcome) -> None:
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


def running(instance: DecoupledInstance) -> GeneratorRunner:
    return GeneratorRunner(instance, asyncio.get_running_loop().call_soon_threadsafe, "m")


async def counting(batch: ModelBatch) -> AsyncGenerator[Tensors, None]:
    for number in range(20):
        yield response(number)


async def test_every_response_comes_in_order_and_then_the_end() -> None:
    """The end has no outputs of its own."""
    runner = running(Instance(counting))
    desk = Desk(runner)
    assert await desk.end() == {}
    assert desk.responses == list(range(20))
    assert 0 < desk.batch.started <= desk.batch.ended
    assert runner.close(60.0)


async def test_requests_run_beside_each_other() -> None:
    """One that waits holds nobody up."""
    go = threading.Event()

    async def first_waits(batch: ModelBatch) -> AsyncGenerator[Tensors, None]:
        if batch.requests[0].id == "slow":
            await asyncio.to_thread(go.wait)
        yield response(1)

    runner = running(Instance(first_waits))
    slow = Desk(runner, "slow")
    quick = Desk(runner)
    await quick.end()
    assert slow.outcomes == []
    go.set()
    await slow.end()
    assert slow.responses == [1]
    assert runner.close(60.0)


async def test_plain_generators_take_turns() -> None:
    """A response each: the second is at its end long before the first, which never awaits."""

    class Plain(PythonModel):
        def infer(self, inputs: Tensors, batch: ModelBatch) -> object:
            for number in range(1000 if batch.requests[0].id == "long" else 2):
                yield response(number)

    runner = running(PythonGenerators(Plain()))
    long = Desk(runner, "long")
    short = Desk(runner)
    await short.end()
    assert long.outcomes == []
    await long.end()
    assert long.responses == list(range(1000))
    assert runner.close(60.0)


async def test_a_generator_is_no_further_ahead_than_its_window() -> None:
    """It is not even stepped; when there is room it goes on where it stood, and nothing is lost."""
    stepped: list[int] = []

    async def noting(batch: ModelBatch) -> AsyncGenerator[Tensors, None]:
        for number in range(2 * WINDOW):
            stepped.append(number)
            yield response(number)

    runner = running(Instance(noting))
    slow, other = Desk(runner, gives=False), Desk(runner)
    await slow.reached(WINDOW)
    await other.end()  # by then the slow one would have been stepped, too
    assert len(stepped) == 3 * WINDOW
    slow.flow.give_withheld()
    await slow.reached(2 * WINDOW)
    slow.flow.give_withheld()
    await slow.end()
    assert slow.responses == list(range(2 * WINDOW))
    assert runner.close(60.0)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ModelError(Status.NOT_FOUND, "no such voice"), Failure(Status.NOT_FOUND, "no such voice")),
        (SystemExit(3), None),
        (KeyboardInterrupt(), None),
        (asyncio.CancelledError(), None),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_a_generator_raises_ends_its_request_alone(
    error: BaseException, expected: Failure | None, caplog: pytest.LogCaptureFixture
) -> None:
    """After the responses that it has made; the thread lives on."""

    async def failing(batch: ModelBatch) -> AsyncGenerator[Tensors, None]:
        yield response(1)
        if batch.requests[0].id == "bad":
            raise error

    runner = running(Instance(failing))
    bad, good = Desk(runner, "bad"), Desk(runner)
    failure = await bad.end()
    assert isinstance(failure, Failure)
    assert (failure == expected) if expected else failure.unforeseen
    assert bad.responses == [1]
    assert await good.end() == {}
    assert runner.close(60.0)


async def test_a_cancelled_generator_is_closed_where_it_stands() -> None:
    """Its `finally` runs, and the end is told."""
    closed: list[bool] = []

    async def endless(batch: ModelBatch) -> AsyncGenerator[Tensors, None]:
        try:
            while True:
                yield response(0)
        finally:
            closed.append(True)

    runner = running(Instance(endless))
    desk = Desk(runner, gives=False)
    await desk.reached(1)
    desk.flow.cancel()
    failure = await desk.end()
    assert isinstance(failure, Failure)
    assert (failure.status, closed) == (Status.CANCELLED, [True])
    assert runner.close(60.0)


async def test_closing_ends_what_still_runs_then_the_instance() -> None:
    """Generators first, in the thread that ran them; no hold on them does harm afterwards."""
    closed: list[str] = []

    async def endless(batch: ModelBatch) -> AsyncGenerator[Tensors, None]:
        try:
            while True:
                yield response(0)
        finally:
            closed.append(threading.current_thread().name)

    instance = Instance(endless)
    runner = running(instance)
    desk = Desk(runner, gives=False)
    await desk.reached(1)
    assert await asyncio.to_thread(runner.close, 60.0)
    assert closed == instance.closed_in == ["penstock m"]
    desk.flow.give_withheld()
    desk.flow.cancel()
    assert await asyncio.to_thread(runner.close, 60.0)  # once more is harmless
    assert isinstance(await desk.end(), Failure)


async def test_a_generator_that_is_cancelled_before_it_began_still_tells_its_end() -> None:
    """Else its place would never come back. The generator is not stepped at all."""
    stepped: list[str] = []
    hold, goes_on = threading.Event(), threading.Event()

    async def noting(batch: ModelBatch) -> AsyncGenerator[Tensors, None]:
        name = batch.requests[0].id
        stepped.append(name)
        if name == "first":
            goes_on.set()
            hold.wait(60)  # both calls of the second come into one pass of the runner's loop
        yield response(0)

    runner = running(Instance(noting))
    first = Desk(runner, "first")
    await asyncio.to_thread(goes_on.wait, 60)
    second = Desk(runner, "second")
    second.flow.cancel()
    hold.set()
    failure = await asyncio.wait_for(second.end(), 60)
    assert isinstance(failure, Failure)
    assert failure.status is Status.CANCELLED
    await first.end()
    assert stepped == ["first"]
    assert await asyncio.to_thread(runner.close, 60.0)


async def test_closing_ends_what_has_not_begun() -> None:
    """Its end is told, and the runner's thread comes to its own."""
    hold, goes_on = threading.Event(), threading.Event()

    async def holding(batch: ModelBatch) -> AsyncGenerator[Tensors, None]:
        goes_on.set()
        hold.wait(60)
        yield response(0)

    instance = Instance(holding)
    runner = running(instance)
    first = Desk(runner)
    await asyncio.to_thread(goes_on.wait, 60)
    second = Desk(runner)
    assert not runner.close(0.0)
    hold.set()
    assert await asyncio.to_thread(runner.close, 60.0)
    await asyncio.wait_for(first.end(), 60)
    assert isinstance(await asyncio.wait_for(second.end(), 60), Failure)
    assert len(instance.closed_in) == 1


async def test_a_generator_that_does_not_mind_its_cancelling_is_closed_at_its_next_response() -> None:
    """Nobody takes that one, so it would wait for room for ever."""

    async def stubborn(batch: ModelBatch) -> AsyncGenerator[Tensors, None]:
        while True:
            try:
                yield response(0)
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass

    runner = running(Instance(stubborn))
    desk = Desk(runner)
    await desk.reached(1)
    desk.flow.cancel()
    failure = await asyncio.wait_for(desk.end(), 60)
    assert isinstance(failure, Failure)
    assert failure.status is Status.CANCELLED
    assert await asyncio.to_thread(runner.close, 60.0)
