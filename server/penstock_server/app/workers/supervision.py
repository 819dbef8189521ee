"""Who is to run, who is replaced and when it is given up: decided here, done elsewhere.

A slot is a worker's place, with a number from 1 on. What a slot goes through:

    starting ──serving──▶ serving
       │                     │
       └──────ended──────────┴──▶ waiting ──poll──▶ starting     (or gone, when all is to end)

* A worker that ends is replaced. If it had served for `steady_seconds`, at once and with a clean slate. If not, that is
  one failure more in a row of its slot, and each after the first waits twice as long as the one before.
* `most_failures` in a row in one slot, and everything ends with status 1 and a sentence that says what happened last.
* A worker that says why it cannot start, before all have served for the first time, ends everything with its own words
  and status: what is wrong with a model is wrong for all of them. Later on it is a failure like others, for the rest
  of them serves.
* To end is to drain: each worker is told once, and killed if it has not ended in time. The status is 0 only if nobody
  had a reason for another.

This is told the time and what happened, and returns what to do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from math import inf
from signal import Signals
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Patience:
    """How much is put up with."""

    steady_seconds: float = 10.0
    """A worker that has served for so long has not failed when it ends."""
    first_wait: float = 0.5
    """Before the second replacement in a row; the first comes at once."""
    longest_wait: float = 30.0
    most_failures: int = 5
    """In a row, in one slot: then it is given up."""


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker in this slot, which has none."""

    slot: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Tell a worker to finish what it has and to end."""

    slot: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker's process now."""

    slot: int


@dataclass(frozen=True, slots=True)
class AllServing:
    """Every worker serves, for the first time."""


@dataclass(frozen=True, slots=True)
class Replace:
    """For the log: a worker has ended, and another one follows after so many seconds."""

    slot: int
    ending: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Finish:
    """End the supervisor with this status. Nothing follows."""

    status: int
    reason: str
    """A sentence for the operator; empty if it was asked to end."""


Effect: TypeAlias = Spawn | Drain | Kill | AllServing | Replace | Finish


class State(Enum):
    """Of a slot."""

    STARTING = "starting"
    SERVING = "serving"
    WAITING = "waiting"
    GONE = "gone"


@dataclass(slots=True)
class Slot:
    """A worker's place."""

    number: int
    state: State = State.WAITING
    since: float = -inf
    """When it began to serve; in state WAITING, when its next worker is due."""
    failures: int = 0
    """In a row."""
    refusal: tuple[int, str] | None = None
    """Status and words of a worker that cannot start, until its process has ended."""

    @property
    def alive(self) -> bool:
        """Whether it has a process."""
        return self.state in (State.STARTING, State.SERVING)


class Supervision:
    """All workers of a server, from `start` to the effect `Finish`."""

    def __init__(self, workers: int, drain_seconds: float, patience: Patience | None = None) -> None:
        self._slots = {number: Slot(number) for number in range(1, workers + 1)}
        self._drain_seconds = drain_seconds
        self._patience = patience or Patience()
        self._announced = False
        self._kill_at = inf
        self._stopping = False
        self._finished = False
        self._status = 0
        self._reason = ""
        self.replaced = 0
        """Workers that took another's place."""

    def __repr__(self) -> str:
        states = ", ".join(f"{slot.number} {slot.state.value}" for slot in self._slots.values())
        return f"<Supervision: {states}{'; stopping' if self._stopping else ''}>"

    @property
    def announced(self) -> bool:
        """Whether all workers have served at one time."""
        return self._announced

    @property
    def stopping(self) -> bool:
        return self._stopping

    @property
    def serving(self) -> int:
        """How many workers serve."""
        return sum(slot.state is State.SERVING for slot in self._slots.values())

    @property
    def all_serving(self) -> bool:
        return not self._stopping and self.serving == len(self._slots)

    def start(self) -> list[Effect]:
        """Begin. Called once."""
        return [self._spawn(slot) for slot in self._slots.values()]

    def started(self, number: int, now: float) -> list[Effect]:
        """A worker serves."""
        slot = self._slots[number]
        if slot.state is not State.STARTING:
            return []
        slot.state, slot.since = State.SERVING, now
        if self._announced or not self.all_serving:
            return []
        self._announced = True
        return [AllServing()]

    def refused(self, number: int, status: int, message: str) -> None:
        """A worker says that it cannot start, and with which status it ends. `ended` follows."""
        self._slots[number].refusal = (status, message)

    def ended(self, number: int, code: int, now: float) -> list[Effect]:
        """A worker's process is gone. `code`: its exit status, or below 0 the signal that killed it."""
        slot = self._slots[number]
        if self._finished or not slot.alive:
            return []
        refusal, slot.refusal = slot.refusal, None
        steady = slot.state is State.SERVING and now - slot.since >= self._patience.steady_seconds
        slot.state = State.GONE
        if self._stopping:
            if code:
                self._status = self._status or 1
            return self._finish_if_empty()
        if refusal is not None and not self._announced:
            return self._stop(now, *refusal)
        slot.failures = 0 if steady else slot.failures + 1
        ending = describe_end(code) if refusal is None else f"could not start: {refusal[1]}"
        if slot.failures >= self._patience.most_failures:
            reason = f"worker {number} has failed {slot.failures} times in a row, the last time it {ending}"
            return self._stop(now, 1, reason)
        wait = self._wait(slot.failures)
        slot.state, slot.since = State.WAITING, now + wait
        return [Replace(number, ending, wait), *self.poll(now)]

    def stop(self, now: float) -> list[Effect]:
        """Drain, because the operator wants it so. The status is 0 if all goes well."""
        return [] if self._stopping else self._stop(now, 0, "")

    def cut(self) -> list[Effect]:
        """End at once, whatever runs."""
        if self._finished:
            return []
        self._stopping = self._finished = True
        return [*(Kill(slot.number) for slot in self._alive()), Finish(1, self._reason)]

    def poll(self, now: float) -> list[Effect]:
        """Do what is due."""
        if self._finished:
            return []
        if self._stopping:
            if now < self._kill_at:
                return []
            self._kill_at = inf
            self._status = self._status or 1
            return [Kill(slot.number) for slot in self._alive()]
        effects: list[Effect] = []
        for slot in self._slots.values():
            if slot.state is State.WAITING and slot.since <= now:
                self.replaced += 1
                effects.append(self._spawn(slot))
        return effects

    def next_wakeup(self) -> float | None:
        """When to poll, if nothing happens before. None: not at all."""
        due = min((slot.since for slot in self._slots.values() if slot.state is State.WAITING), default=self._kill_at)
        return None if self._finished or due == inf else due

    def _spawn(self, slot: Slot) -> Spawn:
        slot.state = State.STARTING
        return Spawn(slot.number)

    def _stop(self, now: float, status: int, reason: str) -> list[Effect]:
        self._stopping = True
        self._status, self._reason = status, reason
        self._kill_at = now + self._drain_seconds
        for slot in self._slots.values():
            if slot.state is State.WAITING:
                slot.state = State.GONE
        return [*(Drain(slot.number) for slot in self._alive()), *self._finish_if_empty()]

    def _finish_if_empty(self) -> list[Effect]:
        if any(self._alive()):
            return []
        self._finished = True
        return [Finish(self._status, self._reason)]

    def _alive(self) -> Iterator[Slot]:
        return (slot for slot in self._slots.values() if slot.alive)

    def _wait(self, failures: int) -> float:
        if failures < 2:
            return 0.0
        return min(self._patience.first_wait * 2.0 ** (failures - 2), self._patience.longest_wait)


def describe_end(code: int) -> str:
    """How a process ended, as a predicate: `was killed by SIGKILL`."""
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
