"""The client that does nothing wrong: grpcio's, one request after the other, each answer looked at."""

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

import numpy as np

from penstock_client import NO_RETRIES, Client, InferenceError

_MODEL, _INPUT, _OUTPUT = "iris", "X", "label"
_TIMEOUT_SECONDS = 10.0
_PAUSE_SECONDS = 0.002
_FLOWERS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], np.float32)
_LABELS = (0, 2)


class Neighbour:
    """Asks all the time, in a thread. What came of it since the last `take` can be taken at any time."""

    def __init__(self, target: str) -> None:
        options = {"grpc.enable_http_proxy": 0, "grpc.use_local_subchannel_pool": 1}
        self._client = Client(target, timeout=_TIMEOUT_SECONDS, retries=NO_RETRIES, options=options)
        self._lock = threading.Condition()
        self._latencies: list[float] = []
        self._failures: Counter[str] = Counter()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="neighbour")

    def __repr__(self) -> str:
        return f"<Neighbour: {len(self._latencies)} answers, {sum(self._failures.values())} failures>"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._client.close()

    def take(self) -> tuple[list[float], dict[str, int]]:
        """The latencies in seconds and the failures since the last time."""
        with self._lock:
            latencies, self._latencies = self._latencies, []
            failures, self._failures = self._failures, Counter()
        return latencies, dict(failures)

    def wait(self, seconds: float) -> None:
        """Until something has come of a request since the last `take`, at most so long."""
        with self._lock:
            self._lock.wait_for(lambda: self._latencies or self._failures, seconds)

    def _ask(self) -> None:
        number = 0
        while not self._stopped.wait(_PAUSE_SECONDS):
            number += 1
            which = number % 2
            began = time.monotonic()
            failure = ""
            try:
                answer = self._client.infer(_MODEL, {_INPUT: _FLOWERS[which : which + 1]}, request_id=f"n{number}")
                if answer.id != f"n{number}" or int(answer[_OUTPUT].item()) != _LABELS[which]:
                    failure = "a wrong answer"
            except InferenceError as error:
                failure = f"{error.status.name}: {error.message}"
            with self._lock:
                if failure:
                    self._failures[failure] += 1
                else:
                    self._latencies.append(time.monotonic() - began)
                self._lock.notify_all()
