"""The thread that runs an instance: each batch ends once, and nothing a model does ends the thread."""

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable

import numpy as np
import pytest

from penstock_server.backends.base import ModelBatch, RequestInfo, Tensors
from penstock_server.backends.inline import Inline, Threads
from penstock_server.backends.runner import Outcome, ThreadRunner
from penstock_server.errors import Failure, ModelError
from penstock_server.status import Status
from penstock_server.tensors.codec import Array


class FakeInstance:
    """Does in `run` what it is told, and notes when it is closed."""

    def __init__(self, work: Callable[[ModelBatch], Tensors] = lambda batch: batch.inputs) -> None:
        self._work = work
        self.closed: list[str] = []

    def run(self, batch: ModelBatch) -> Tensors:
        return self._work(batch)

    def close(self) -> None:
        self.closed.append(threading.current_thread().name)


class Desk:
    """Where the ends of batches arrive. Waits for as many as it is asked for."""

    def __init__(self) -> None:
        self.ended: list[tuple[ModelBatch, Outcome]] = []
        self._news = asyncio.Event()

    def done(self, batch: ModelBatch, outcome: Outcome) -> None:
        assert asyncio.get_running_loop(), "done is called on the loop"
        self.ended.append((batch, outcome))
        self._news.set()

    async def wait_for(self, count: int) -> None:
        while len(self.ended) < count:
            self._news.clear()
            await self._news.wait()


def runner(instance: FakeInstance) -> ThreadRunner:
    return ThreadRunner(instance, asyncio.get_running_loop().call_soon_threadsafe, "m")


def a_batch(number: int = 0) -> ModelBatch:
    return ModelBatch({"X": np.full((1,), number)}, 1, [RequestInfo(1)])


async def test_each_batch_ends_once_in_order() -> None:
    """With what the instance returned, on the loop, and with the times of its run."""
    desk, one = Desk(), runner(FakeInstance())
    batches = [a_batch(number) for number in range(20)]
    for batch in batches:
        one.start(batch, desk.done)
    await desk.wait_for(20)
    assert await asyncio.to_thread(one.close, 60)
    assert [batch for batch, _ in desk.ended] == batches
    assert all(outcome is batch.inputs for batch, outcome in desk.ended)
    assert all(0 < batch.started <= batch.ended for batch in batches)


@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit(1), KeyboardInterrupt(), MemoryError()])
async def test_whatever_an_instance_raises_the_next_batch_runs(error: BaseException) -> None:
    """The thread outlives it, and the client is not told what it was."""

    def work(batch: ModelBatch) -> Tensors:
        if batch.inputs["X"][0] == 0:
            raise error
        return batch.inputs

    desk, one = Desk(), runner(FakeInstance(work))
    one.start(a_batch(0), desk.done)
    one.start(a_batch(1), desk.done)
    await desk.wait_for(2)
    assert await asyncio.to_thread(one.close, 60)
    (failed, failure), (good, outputs) = desk.ended
    assert isinstance(failure, Failure)
    assert failure.status is Status.INTERNAL
    assert failure.unforeseen
    assert "secret" not in failure.message
    assert failed.ended >= failed.started > 0
    assert outputs is good.inputs


async def test_a_deliberate_error_keeps_its_words() -> None:
    """It is the model's answer, and nothing for the log."""

    def work(batch: ModelBatch) -> Tensors:
        raise ModelError(Status.NOT_FOUND, "no such word in the dictionary")

    desk, one = Desk(), runner(FakeInstance(work))
    one.start(a_batch(), desk.done)
    await desk.wait_for(1)
    assert await asyncio.to_thread(one.close, 60)
    assert desk.ended[0][1] == Failure(Status.NOT_FOUND, "no such word in the dictionary")


async def test_an_idle_runner_holds_nothing_of_its_last_batch() -> None:
    """Tensors may be large, and the next batch may be hours away: inputs and outputs are let go at once."""
    freed = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def watch(array: Array, event: asyncio.Event) -> Array:
        weakref.finalize(array, loop.call_soon_threadsafe, event.set)
        return array

    desk = Desk()
    one = runner(FakeInstance(lambda batch: {"Y": watch(batch.inputs["X"].copy(), freed[1])}))
    batch = a_batch()
    watch(batch.inputs["X"], freed[0])
    one.start(batch, desk.done)
    del batch
    await desk.wait_for(1)
    desk.ended.clear()
    for event in freed:  # were the thread to keep one, the test would time out
        await event.wait()
    assert await asyncio.to_thread(one.close, 60)


async def test_close_waits_for_the_batch_that_runs() -> None:
    """What was started is finished, then the instance is closed, once, in its own thread."""
    runs, go_on = threading.Event(), threading.Event()

    def work(batch: ModelBatch) -> Tensors:
        runs.set()
        assert go_on.wait(60)
        return batch.inputs

    instance, desk = FakeInstance(work), Desk()
    one = runner(instance)
    assert repr(one) == "<ThreadRunner m: running>"
    one.start(a_batch(), desk.done)
    closing = asyncio.ensure_future(asyncio.to_thread(one.close, 60))
    assert await asyncio.to_thread(runs.wait, 60)
    assert not instance.closed
    go_on.set()
    assert await closing
    await desk.wait_for(1)
    assert instance.closed == ["penstock m"]
    assert repr(one) == "<ThreadRunner m: closed>"


async def test_close_does_not_wait_for_ever() -> None:
    """A model that hangs is left behind in its thread, which does not keep the process alive."""
    runs, go_on = threading.Event(), threading.Event()

    def work(batch: ModelBatch) -> Tensors:
        runs.set()
        assert go_on.wait(60)
        return batch.inputs

    instance, desk = FakeInstance(work), Desk()
    one = runner(instance)
    one.start(a_batch(), desk.done)
    assert await asyncio.to_thread(runs.wait, 60)
    assert not one.close(0.0)
    assert not instance.closed
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "penstock m")
    go_on.set()
    await desk.wait_for(1)
    assert await asyncio.to_thread(one.close, 60)


@pytest.mark.parametrize("error", [OSError("stuck"), SystemExit(1), KeyboardInterrupt()])
async def test_an_instance_that_cannot_be_closed_is_logged(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """And no more: the server is on its way out, or the model is."""

    class Stuck(FakeInstance):
        def close(self) -> None:
            raise error

    with caplog.at_level(logging.ERROR):
        assert await asyncio.to_thread(runner(Stuck()).close, 60)
    (record,) = caplog.records
    assert "closing m failed" in record.getMessage()


def test_an_answer_that_comes_after_the_loop_has_ended_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits for it any more; the thread ends in peace."""
    runs, go_on = threading.Event(), threading.Event()

    def work(batch: ModelBatch) -> Tensors:
        runs.set()
        assert go_on.wait(60)
        return batch.inputs

    async def begin() -> ThreadRunner:
        one = runner(FakeInstance(work))
        one.start(a_batch(), lambda batch, outcome: None)
        assert await asyncio.to_thread(runs.wait, 60)
        return one

    one = asyncio.run(begin())
    go_on.set()
    assert one.close(60)
    assert "finished a batch after the server had stopped" in caplog.text


async def test_what_is_known_to_be_short_runs_at_once() -> None:
    """On the caller's thread, with its times and its failure as values; nobody is called back. The rest goes on."""

    def work(batch: ModelBatch) -> Tensors:
        if batch.inputs["X"][0] == 1:
            raise SystemExit(1)
        return {"thread": np.array([threading.get_ident()])}

    desk, inline, threads = Desk(), Inline(below=1.0), Threads()
    post = asyncio.get_running_loop().call_soon_threadsafe
    one = ThreadRunner(FakeInstance(work), post, "m", inline, threads)
    assert one.start(a_batch(), desk.done) is None
    await desk.wait_for(1)
    assert threads.long == 0
    for _ in range(32):
        inline.ran(1, 1e-6)
    batch = a_batch()
    outcome = one.start(batch, desk.done)
    assert isinstance(outcome, dict)
    assert outcome["thread"] == [threading.get_ident()]
    assert 0 < batch.started <= batch.ended
    assert isinstance(one.start(a_batch(1), desk.done), Failure)
    assert (len(desk.ended), threads.long) == (1, 0)
    threads.long = 1  # something else runs, but this is shorter than the way to the thread
    assert one.start(a_batch(), desk.done) is not None
    assert await asyncio.to_thread(one.close, 60)


@pytest.mark.parametrize("inline", [None, 0.5, 1.0])
async def test_long_batches_in_threads_are_counted(inline: float | None) -> None:
    """Those beyond the bound, and all of a model that never runs on the loop; until each has ended."""
    desk, threads = Desk(), Threads()
    sizes = None if inline is None else Inline(below=inline)
    post = asyncio.get_running_loop().call_soon_threadsafe
    one = ThreadRunner(FakeInstance(lambda batch: batch.inputs), post, "m", sizes, threads)
    if sizes is not None:
        sizes.ran(1, 0.7)
        sizes.ran(1, 0.7)
    one.start(a_batch(), desk.done)
    assert threads.long == (1 if inline != 1.0 else 0)
    await desk.wait_for(1)
    assert threads.long == 0
    assert await asyncio.to_thread(one.close, 60)


async def test_runs_in_the_thread_are_measured() -> None:
    """What they took of the processor, but for those that failed, which may have failed early."""
    desk, inline = Desk(), Inline(below=1.0)

    def work(batch: ModelBatch) -> Tensors:
        if batch.inputs["X"][0] == 1:
            raise ValueError
        return batch.inputs

    one = ThreadRunner(FakeInstance(work), asyncio.get_running_loop().call_soon_threadsafe, "m", inline)
    for number in (0, *[1] * 100, *[0] * 31):
        one.start(a_batch(number), desk.done)
    await desk.wait_for(132)
    assert not inline.may_run(1, others=False)
    one.start(a_batch(), desk.done)
    await desk.wait_for(133)
    assert inline.may_run(1, others=False)
    assert await asyncio.to_thread(one.close, 60)


async def test_nothing_runs_at_once_while_its_instance_runs_in_the_thread() -> None:
    """A batch of sequences has to go to its own instance, even if that is busy: it waits there."""
    running, go_on, overlaps = threading.Event(), threading.Event(), list[int]()

    def work(batch: ModelBatch) -> Tensors:
        number = int(batch.inputs["X"][0])
        if number == 1:
            running.set()
            go_on.wait(60)
            running.clear()
        elif running.is_set():
            overlaps.append(number)
        return batch.inputs

    desk, inline = Desk(), Inline(below=1.0)
    one = ThreadRunner(FakeInstance(work), asyncio.get_running_loop().call_soon_threadsafe, "m", inline)
    one.start(a_batch(1), desk.done)
    await asyncio.to_thread(running.wait, 60)
    for _ in range(40):
        inline.ran(1, 1e-6)
    assert inline.may_run(1, others=True)
    assert one.start(a_batch(2), desk.done) is None
    go_on.set()
    await desk.wait_for(2)
    assert one.start(a_batch(3), desk.done) is not None
    assert overlaps == []
    assert await asyncio.to_thread(one.close, 60)
