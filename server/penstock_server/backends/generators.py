"""Runs the generators of a decoupled model: many requests beside each other, any number of responses for each.

An instance has one thread with an event loop of its own, on which each request is a task that steps through its
generator. So async generators wait beside each other, and plain ones take turns, a window of responses each; one that
sleeps instead of awaiting holds the others up.

A generator may be WINDOW responses ahead of whoever takes them. Then it is not stepped until there is room: a client
that reads slowly slows its own generator, and no other.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial

from penstock_server.backends.base import DecoupledInstance, ModelBatch, Tensors
from penstock_server.backends.runner import Done, Outcome, Post, close
from penstock_server.errors import Failure, failure_of
from penstock_server.status import Status

_log = logging.getLogger(__name__)

WINDOW = 4
"""Responses that a generator may be ahead. Enough to compute one while another is written, and little to keep."""

_CANCELLED = Failure(Status.CANCELLED, "the request was cancelled")


class GeneratorFlow:
    """The engine's hold on a generator of a GeneratorRunner: see `Flow`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._withheld = 0
        # The runner's, on its own loop:
        self.room = asyncio.Semaphore(WINDOW)
        self.task: asyncio.Task[None] | None = None
        """From when it has begun: a task that is cancelled before would never tell its end."""
        self.is_cancelled = False

    def __repr__(self) -> str:
        return f"<GeneratorFlow: {self._withheld} responses withheld>"

    def give(self) -> None:
        self._post(self.room.release)

    def withhold(self) -> None:
        self._withheld += 1

    def give_withheld(self) -> None:
        for _ in range(self._withheld):
            self.give()
        self._withheld = 0

    def cancel(self) -> None:
        self._post(self.cancel_here)

    def cancel_here(self) -> None:
        """The same, on the runner's loop."""
        self.is_cancelled = True
        if self.task is not None:
            self.task.cancel()

    def _post(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the runner is closed, and with it this generator
            _log.debug("a generator had ended before it was told to go on")


class GeneratorRunner:
    """Runs an instance of a decoupled model in a thread of its own."""

    def __init__(self, instance: DecoupledInstance, post: Post, name: str) -> None:
        self._instance = instance
        self._post = post
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._tasks: dict[asyncio.Task[None], GeneratorFlow] = {}
        self._is_closing = False
        self._thread = threading.Thread(target=self._run_loop, name=f"penstock {name}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        state = f"{len(self._tasks)} generators" if self._thread.is_alive() else "closed"
        return f"<GeneratorRunner {self._name}: {state}>"

    def start(self, batch: ModelBatch, done: Done) -> None:
        """Run a request: `batch.respond(tensors)` on the engine's loop for each response, `done` once after the last.

        `batch.flow` is there when this returns. Each response has to be answered with its `give` or `withhold`.
        """
        flow = batch.flow = GeneratorFlow(self._loop)
        self._loop.call_soon_threadsafe(self._begin, batch, flow, done)

    def close(self, timeout: float) -> bool:
        """Close what still runs, then the instance. False if that took longer than `timeout` seconds."""
        if not self._is_closing:  # stopped twice, the loop would not let the generators end
            self._is_closing = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            for flow in self._tasks.values():
                flow.cancel_here()
            self._loop.run_until_complete(asyncio.gather(*self._tasks))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
            close(self._instance, self._name)

    def _begin(self, batch: ModelBatch, flow: GeneratorFlow, done: Done) -> None:
        task = self._loop.create_task(self._run(batch, flow, done))
        self._tasks[task] = flow
        task.add_done_callback(self._tasks.pop)

    async def _run(self, batch: ModelBatch, flow: GeneratorFlow, done: Done) -> None:
        batch.started = time.monotonic()
        flow.task = asyncio.current_task()
        outcome: Outcome = _CANCELLED
        try:
            if not flow.is_cancelled:
                await self._step_through(self._instance.stream(batch), batch, flow)
                outcome = {}
        except BaseException as error:  # a model may raise SystemExit or KeyboardInterrupt; the server stays
            outcome = _CANCELLED if flow.is_cancelled else failure_of(error, during=f"execution of {self._name}")
        batch.ended = time.monotonic()
        self._tell(partial(done, batch, outcome))

    async def _step_through(
        self, responses: AsyncGenerator[Tensors, None], batch: ModelBatch, flow: GeneratorFlow
    ) -> None:
        respond = batch.respond
        assert respond is not None
        try:
            await flow.room.acquire()
            async for tensors in responses:
                self._tell(partial(respond, tensors))
                del tensors
                await flow.room.acquire()  # a plain generator never awaits: here comes the others' turn
                if flow.is_cancelled:  # and the generator has caught what told it so
                    raise asyncio.CancelledError
        finally:
            await responses.aclose()

    def _tell(self, call: Callable[[], None]) -> None:
        try:
            self._post(call)
        except RuntimeError:  # the loop is closed: nobody waits for this answer any more
            _log.warning("%s made a response after the server had stopped", self._name)
