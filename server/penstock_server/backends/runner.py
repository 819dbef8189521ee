"""Runs an instance's batches and reports each end once.

A runner runs one batch at a time, the others wait (few do: the scheduler starts as many as there are instances, but
sequences that keep their rows have to go to their own), and calls `done` where the engine lives, on the event loop.
Nothing a model does gets past it: what an instance raises, even `SystemExit`, is turned into a `Failure` here.
"""

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from penstock_server.backends.base import DecoupledInstance, ModelBatch, ModelInstance, Tensors
from penstock_server.backends.inline import Inline, Threads
from penstock_server.errors import Failure, failure_of

_log = logging.getLogger(__name__)

Outcome = Tensors | Failure
Done = Callable[[ModelBatch, Outcome], None]
Post = Callable[[Callable[[], None]], object]
"""Runs a callable on the event loop, from any thread."""


class Runner(Protocol):
    """Runs the batches of one instance."""

    def start(self, batch: ModelBatch, done: Done) -> Outcome | None:
        """Run the batch, then call `done(batch, outcome)` on the loop, exactly once.

        Or run it at once, on the caller's thread, and return the outcome; then `done` is not called.
        """
        ...

    def close(self, timeout: float) -> bool:
        """Close the instance after its last batch. False if that took longer than `timeout` seconds."""
        ...


def run(instance: ModelInstance, batch: ModelBatch, name: str) -> Outcome:
    """Run one batch on this thread and note when."""
    batch.started = time.monotonic()
    try:
        return instance.run(batch)
    except BaseException as error:  # a model may raise SystemExit or KeyboardInterrupt; the server stays
        return failure_of(error, during=f"execution of {name}")
    finally:
        batch.ended = time.monotonic()


def close(instance: ModelInstance | DecoupledInstance, name: str) -> None:
    """Close an instance. That it cannot be closed is for the log: it is given up anyway."""
    try:
        instance.close()
    except BaseException:  # as in `run`
        _log.exception("closing %s failed", name)


class ThreadRunner:
    """Runs an instance in a thread of its own: the loop stays free while the model computes.

    With `inline`, which all runners of a version share, batches that are known to be short run on the loop.
    """

    def __init__(
        self,
        instance: ModelInstance,
        post: Post,
        name: str,
        inline: Inline | None = None,
        threads: Threads | None = None,
    ) -> None:
        self._instance = instance
        self._inline = inline
        self._threads = threads or Threads()
        self._post = post
        self._name = name
        self._in_thread = 0  # batches that the thread has, or has ended and not told
        self._work: SimpleQueue[tuple[ModelBatch, Done, bool] | None] = SimpleQueue()
        # A daemon: a model that hangs must not keep the process from exiting when its drain is over.
        self._thread = threading.Thread(target=self._loop, name=f"penstock {name}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<ThreadRunner {self._name}: {'running' if self._thread.is_alive() else 'closed'}>"

    def start(self, batch: ModelBatch, done: Done) -> Outcome | None:
        inline = None if self._in_thread else self._inline
        if inline is not None and inline.may_run(batch.rows, others=self._threads.long > 0):
            if not inline.wants(batch.rows):
                return run(self._instance, batch, self._name)
            began = time.thread_time()
            outcome = run(self._instance, batch, self._name)
            inline.ran(batch.rows, time.thread_time() - began)
            return outcome
        self._in_thread += 1
        is_long = self._inline is None or self._inline.is_long(batch.rows)
        self._threads.long += is_long
        self._work.put((batch, done, is_long))
        return None

    def close(self, timeout: float) -> bool:
        self._work.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while (work := self._work.get()) is not None:
            self._run(*work)
            # The name would keep the last batch's tensors alive until the next one comes.
            del work
        close(self._instance, self._name)

    def _run(self, batch: ModelBatch, done: Done, is_long: bool) -> None:
        began = time.thread_time()
        outcome = run(self._instance, batch, self._name)
        seconds = time.thread_time() - began

        def ended() -> None:
            self._in_thread -= 1
            self._threads.long -= is_long
            # A run that fails early says nothing of the others.
            if self._inline is not None and not isinstance(outcome, Failure):
                self._inline.ran(batch.rows, seconds)
            done(batch, outcome)

        try:
            self._post(ended)
        except RuntimeError:  # the loop is closed: nobody waits for this answer any more
            _log.warning("%s finished a batch after the server had stopped", self._name)
