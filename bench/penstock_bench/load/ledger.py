"""What happened, noted request by request at little cost, and made into numbers at the end.

Three moments decide what counts. A request counts if it was due between `begin` and `end`, however long its answer
takes: so the latencies are those of all requests of that time and of no others. Throughput counts the answers that
*came* between `begin` and `end`, of whatever request: in a steady state that is what the server did in that time.
"""

from array import array
from collections import Counter

import msgspec
import numpy as np

from penstock_bench.load.histograms import latency_of
from penstock_bench.results import Latency

WINDOWS = 10
"""Equal parts of the measured time. Answers are counted for each, to see whether the run was even."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What one process has measured; sums, and so mergeable."""

    sent: int
    failed: dict[str, int]
    wrong: int
    checked: int
    unanswered: int
    in_time: int
    latency: Latency | None
    by_class: dict[str, Latency]
    windows: list[int]
    """Good answers in each part of the measured time."""
    duration: float
    cpu: float
    """CPU seconds a second of this process."""
    late: float
    """Seconds by which the generator, on the average, sent after a request was due though it had room."""
    examples: dict[str, str]
    """Of failures by status, and of wrong answers under "wrong": in words."""
    trouble: str = ""
    """Why it ended before its time."""
    remark: str = ""
    """What else happened: a connection that was lost."""


class Ledger:
    """The notes of one process."""

    def __init__(self, begin: float, end: float, classes: list[str]) -> None:
        self.open(begin, end)
        self._classes = classes
        """The traffic class of each item of the mix."""
        self._latencies = array("d")
        self._items = array("H") if len(set(classes)) > 1 else None
        self._windows = [0] * WINDOWS
        self.sent = 0
        self.answers = self.failures = 0
        """All of them, for the progress."""
        self.failed: Counter[str] = Counter()
        self.checked = self.wrong = 0
        self.examples: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Ledger: {self.sent} sent, {self.answers} good answers, {self.failures} failures>"

    def open(self, begin: float, end: float) -> None:
        """What is measured: the time from one moment to the other."""
        self.begin, self.end = begin, end
        self._scale = WINDOWS / (end - begin)

    def send(self, due: float) -> None:
        if self.begin <= due < self.end:
            self.sent += 1

    def answer(self, due: float, item: int, now: float) -> None:
        """A good answer. Called for every request: it does as little as it can."""
        self.answers += 1
        if self.begin <= now < self.end:
            self._windows[int((now - self.begin) * self._scale)] += 1
        if self.begin <= due < self.end:
            self._latencies.append(now - due)
            if self._items is not None:
                self._items.append(item)

    def fail(self, due: float, status: str, words: str = "") -> None:
        self.failures += 1
        self.examples.setdefault(status, words)
        if self.begin <= due < self.end:
            self.failed[status] += 1

    def check(self, wrong: str) -> None:
        """An answer was looked at; empty: it was right."""
        self.checked += 1
        if wrong:
            self.wrong += 1
            self.examples.setdefault("wrong", wrong)

    def measured(
        self, *, now: float, slo: float | None, cpu: float, late: float, trouble: str = "", remark: str = ""
    ) -> Measured:
        """The sums. `now` ends the measured time if that is before `end`."""
        latencies = np.frombuffer(self._latencies) if self._latencies else np.empty(0)
        by_class: dict[str, Latency] = {}
        if self._items is not None and latencies.size:
            items = np.frombuffer(self._items, np.uint16)
            for name in sorted(set(self._classes)):
                of_class = [number for number, each in enumerate(self._classes) if each == name]
                if (part := latencies[np.isin(items, of_class)]).size:
                    by_class[name or "other"] = latency_of(part)
        elif latencies.size and self._classes and self._classes[0]:
            by_class[self._classes[0]] = latency_of(latencies)
        return Measured(
            sent=self.sent,
            failed=dict(self.failed),
            wrong=self.wrong,
            checked=self.checked,
            unanswered=self.sent - latencies.size - self.failed.total(),
            in_time=int(np.count_nonzero(latencies <= slo)) if slo is not None else 0,
            latency=latency_of(latencies) if latencies.size else None,
            by_class=by_class,
            windows=self._windows,
            duration=max(1e-9, min(now, self.end) - self.begin),
            cpu=cpu,
            late=late,
            examples=self.examples,
            trouble=trouble,
            remark=remark,
        )
