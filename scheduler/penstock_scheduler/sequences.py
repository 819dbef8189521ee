"""Which step of which sequence may run next: ids, seats, the backlog, idle time. Told the time, answers with effects.

A sequence is a row of requests, its *steps*, that belong together: the model keeps something from each to the next.
So they run in order, one at a time, and each that runs had all those before it.

    submit ─▶ WAITING ──Ready──▶ RELEASED ──finish──▶ OVER
                 └─────Lost────────────┴──lose──────▶ OVER

A sequence needs a *seat* to run: a row of a batch or a candidate's place, of which there are so many. Whoever finds
none waits in the backlog, first come, first served, and keeps the seat until its END, until nothing came for `idle`
seconds, or until it lost a step. A table of seats knows nothing of batches: what it calls ready goes on to a scheduler,
and whoever runs it says when it is over.

The rules are Triton's (its sequence batcher), with one of our own: a sequence that lost a step before it ran is over,
since what the model remembers would be wrong from there on: all its steps that wait are lost with it. In particular,

  * the first step of a sequence has START; START on a sequence that runs begins anew behind the steps that wait;
  * after END only START goes on: a sequence of the same id, but another one;
  * a cancelled step ends its sequence, unless it has run;
  * a `patience` that ends in the backlog ends the whole sequence, and is of no concern once it has a seat;
  * while draining, sequences that run go on and none begins.

After every `poll(now)`:
  * no sequence is in the backlog while a seat is free, and no more than `seats` have one;
  * a sequence with a seat has a step released if it has any;
  * nothing waits past its deadline, nor is a sequence idle past its time;
  * `next_wakeup()` is None or later than `now`.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, auto
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Generic, TypeVar

P = TypeVar("P")

_SLACK = 64
"""Alarms of steps that are over already, beyond which they are swept out."""


class Refusal(Enum):
    """Why a step did not get in."""

    NOT_STARTED = auto()
    """It has no START, and there is no such sequence: none yet, it is at its END, or it was idle for too long."""
    FULL = auto()
    """As many steps wait as may. The sequence is over: it would go on without this step."""
    DRAINING = auto()


class Loss(Enum):
    """Why a step that waited will not run."""

    DEADLINE = auto()
    PATIENCE = auto()
    """Its sequence got no seat within the time that one of its steps allows."""
    ORPHANED = auto()
    """Another step of its sequence was lost."""


class _State(Enum):
    WAITING = auto()
    RELEASED = auto()
    OVER = auto()


class Step(Generic[P]):
    """One request of a sequence, made by its caller and submitted once. The payload is never looked into."""

    __slots__ = ("deadline", "end", "id", "lasts", "patience", "payload", "sequence", "start", "state")

    def __init__(
        self,
        payload: P,
        id: Hashable,
        *,
        start: bool = False,
        end: bool = False,
        deadline: float = inf,
        patience: float = inf,
        lasts: bool = False,
    ) -> None:
        """Two times: at its `deadline` nobody wants the answer any more, and until `patience` it waits for a seat.

        `lasts`: its sequence is never idle for too long, since somebody will `forget` it.
        """
        self.payload = payload
        self.id = id
        self.start = start
        self.end = end
        self.deadline = deadline
        self.patience = patience
        self.lasts = lasts
        self.state = _State.WAITING
        self.sequence: Sequence[P] | None = None

    def __repr__(self) -> str:
        flags = (" START" if self.start else "") + (" END" if self.end else "")
        return f"<Step of {self.id!r}{flags}: {self.state.name}>"

    @property
    def is_over(self) -> bool:
        """Whether it was finished, lost or cancelled."""
        return self.state is _State.OVER


class Sequence(Generic[P]):
    """A sequence from its START to its end."""

    __slots__ = ("broken", "closed", "id", "idle_since", "lasts", "released", "seat", "waiting")

    def __init__(self, id: Hashable, waiting: deque[Step[P]]) -> None:
        self.id = id
        self.seat: int | None = None
        self.waiting = waiting
        self.released: Step[P] | None = None
        self.closed = False  # the last step that came has END: only a START may follow
        self.broken = False  # it has lost a step, and is over as soon as nothing of it runs
        self.idle_since = -inf
        self.lasts = False
        for step in waiting:
            step.sequence = self

    def __repr__(self) -> str:
        place = "backlog" if self.seat is None else f"seat {self.seat}"
        return f"<Sequence {self.id!r}: {place}, {len(self.waiting)} waiting, released {self.released!r}>"


@dataclass(frozen=True, slots=True)
class Ready(Generic[P]):
    """Run this step: all those before it are over."""

    step: Step[P]


@dataclass(frozen=True, slots=True)
class Lost(Generic[P]):
    """This step will not run."""

    step: Step[P]
    loss: Loss


@dataclass(frozen=True, slots=True)
class Ended(Generic[P]):
    """The sequence is over and its seat given back: what is kept for it can go."""

    sequence: Sequence[P]


SequenceEffect = Ready[P] | Lost[P] | Ended[P]


@dataclass(frozen=True, slots=True)
class SequenceStatistics:
    """What a table holds, and has seen since it was made."""

    active: int
    """Sequences with a seat."""
    backlog: int
    """Sequences without one."""
    waiting: int
    """Steps."""
    started: int
    ended: int
    """By END."""
    idle_ended: int
    lost_steps: int


class SequenceTable(Generic[P]):
    """See the module's text for the contract."""

    def __init__(self, seats: int, *, idle: float = 1.0, max_waiting: int = 4096) -> None:
        """`idle` in seconds. ValueError for less than one seat."""
        if seats < 1:
            raise ValueError(f"a table needs at least one seat, not {seats}")
        self._idle_time = idle
        self._max_waiting = max_waiting
        self._free = list(range(seats))  # a heap: the lowest seat first, so that batches stay short
        self._seats = seats
        self._sequences: dict[Hashable, Sequence[P]] = {}
        self._backlog: OrderedDict[Sequence[P], None] = OrderedDict()
        self._idle: OrderedDict[Sequence[P], None] = OrderedDict()  # the longest idle first
        self._resting: set[Sequence[P]] = set()  # idle, and for as long as they like
        self._alarms: list[tuple[float, int, Step[P], Loss]] = []  # a heap
        self._numbers = count()
        self._waiting = 0
        self._draining = False
        self._effects: list[SequenceEffect[P]] = []
        self._started = self._ended = self._idle_ended = self._lost = 0

    def __repr__(self) -> str:
        taken = self._seats - len(self._free)
        return f"<SequenceTable: {taken} of {self._seats} seats, {len(self._backlog)} in the backlog>"

    def __contains__(self, id: Hashable) -> bool:
        return id in self._sequences

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is released. Sequences may be there and idle."""
        return len(self._idle) + len(self._resting) == len(self._sequences)

    @property
    def is_empty(self) -> bool:
        """Whether every sequence that began is over."""
        return not self._sequences

    @property
    def has_news(self) -> bool:
        """Whether `poll` has something to tell, whatever the time."""
        return bool(self._effects)

    @property
    def unended(self) -> int:
        """Sequences whose END has not come, but for those that somebody will `forget`."""
        return sum(not sequence.closed and not sequence.lasts for sequence in self._sequences.values())

    # Telling it what happened.

    def submit(self, step: Step[P], now: float) -> Refusal | None:
        """Take a step in, or say why not."""
        self._expire(now)
        sequence = self._sequences.get(step.id)
        if not step.start and (sequence is None or sequence.closed):
            return Refusal.NOT_STARTED
        if step.start and self._draining:
            return Refusal.DRAINING
        if self._waiting >= self._max_waiting:
            if sequence is not None:
                self._break(sequence)
            return Refusal.FULL
        self._waiting += 1
        if sequence is None:
            sequence = self._begin(step.id, deque((step,)))
        else:
            self._idle.pop(sequence, None)
            self._resting.discard(sequence)
            sequence.waiting.append(step)
            step.sequence = sequence
        sequence.closed = step.end
        sequence.lasts = step.lasts
        self._go_on(sequence)
        self._set_alarms(step)
        return None

    def finish(self, step: Step[P], now: float) -> None:
        """A released step is over, however it ended. ValueError if it was not released."""
        sequence = step.sequence
        if sequence is None or sequence.released is not step:
            raise ValueError(f"{step!r} was not released")
        step.state = _State.OVER
        sequence.released = None
        if step.end:
            self._ended += 1
        if step.end or sequence.broken:
            self._end(sequence)
        elif sequence.waiting:
            self._go_on(sequence)
        else:
            self._rest(sequence, now)

    def lose(self, step: Step[P], now: float) -> None:
        """A released step has not run and will not: its sequence is over."""
        self.cancel(step)
        self.finish(step, now)

    def cancel(self, step: Step[P]) -> bool:
        """Nobody wants this step any more: it is forgotten, and the others of its sequence that wait are lost.

        False if it is released: it is over when it is finished, and its sequence with it; or if it is over.
        """
        sequence = step.sequence
        if step.state is _State.OVER or sequence is None:
            return False
        was_waiting = step.state is _State.WAITING
        if was_waiting:
            sequence.waiting.remove(step)
            self._forget(step)
        self._break(sequence)
        return was_waiting

    def forget(self, id: Hashable) -> None:
        """Whoever would go on with this sequence is gone: it ends now, or when its released step is over."""
        sequence = self._sequences.get(id)
        if sequence is not None:
            self._break(sequence)

    def drain(self) -> None:
        """Let no further sequence begin."""
        self._draining = True

    # Asking it what to do.

    def poll(self, now: float) -> list[SequenceEffect[P]]:
        """What must be done now, in this order."""
        self._expire(now)
        effects, self._effects = self._effects, []
        return effects

    def next_wakeup(self) -> float | None:
        """When to poll next if nothing happens before; None if time alone changes nothing."""
        if self._effects:
            return -inf
        while self._alarms and self._alarms[0][2].state is not _State.WAITING:
            heappop(self._alarms)
        wakeup = self._alarms[0][0] if self._alarms else inf
        if self._idle:
            wakeup = min(wakeup, next(iter(self._idle)).idle_since + self._idle_time)
        return None if wakeup == inf else wakeup

    def statistics(self) -> SequenceStatistics:
        return SequenceStatistics(
            active=self._seats - len(self._free),
            backlog=len(self._backlog),
            waiting=self._waiting,
            started=self._started,
            ended=self._ended,
            idle_ended=self._idle_ended,
            lost_steps=self._lost,
        )

    # A sequence's life.

    def _begin(self, id: Hashable, waiting: deque[Step[P]]) -> Sequence[P]:
        sequence = self._sequences[id] = Sequence(id, waiting)
        self._started += 1
        if self._free:  # then nobody is in the backlog
            sequence.seat = heappop(self._free)
        else:
            self._backlog[sequence] = None
        return sequence

    def _go_on(self, sequence: Sequence[P]) -> None:
        """Release the next step if there is a seat and none is released."""
        if sequence.seat is not None and sequence.released is None and sequence.waiting:
            step = sequence.released = sequence.waiting.popleft()
            step.state = _State.RELEASED
            self._waiting -= 1
            self._effects.append(Ready(step))

    def _rest(self, sequence: Sequence[P], now: float) -> None:
        if sequence.lasts:
            self._resting.add(sequence)
            return
        sequence.idle_since = now
        self._idle[sequence] = None

    def _end(self, sequence: Sequence[P]) -> None:
        """It is over. What waits behind it belongs to the next sequence of this id, which queues up like any other."""
        del self._sequences[sequence.id]
        self._idle.pop(sequence, None)
        self._resting.discard(sequence)
        self._backlog.pop(sequence, None)
        self._effects.append(Ended(sequence))
        if sequence.seat is not None:
            heappush(self._free, sequence.seat)
        if sequence.waiting:
            self._begin_behind(sequence)
        while self._free and self._backlog:
            first, _ = self._backlog.popitem(last=False)
            first.seat = heappop(self._free)
            self._go_on(first)

    def _begin_behind(self, sequence: Sequence[P]) -> None:
        successor = self._sequences[sequence.id] = Sequence(sequence.id, sequence.waiting)
        successor.closed = sequence.closed
        successor.lasts = sequence.lasts
        self._started += 1
        self._backlog[successor] = None

    def _break(self, sequence: Sequence[P]) -> None:
        """It has lost a step: nothing that waits will run, and only a START begins anew."""
        sequence.closed = sequence.broken = True
        while sequence.waiting:
            step = sequence.waiting.popleft()
            self._forget(step)
            self._lose(step, Loss.ORPHANED)
        if sequence.released is None:
            self._end(sequence)

    def _forget(self, step: Step[P]) -> None:
        step.state = _State.OVER
        self._waiting -= 1

    def _lose(self, step: Step[P], loss: Loss) -> None:
        self._lost += 1
        self._effects.append(Lost(step, loss))

    # Time.

    def _set_alarms(self, step: Step[P]) -> None:
        """A step that is released needs none: from then on it is somebody else's."""
        if step.state is not _State.WAITING:
            return
        if step.deadline < inf:
            heappush(self._alarms, (step.deadline, next(self._numbers), step, Loss.DEADLINE))
        if step.patience < inf:
            heappush(self._alarms, (step.patience, next(self._numbers), step, Loss.PATIENCE))
        if len(self._alarms) > 2 * self._waiting + _SLACK:
            self._alarms = [alarm for alarm in self._alarms if alarm[2].state is _State.WAITING]
            heapify(self._alarms)

    def _expire(self, now: float) -> None:
        while self._alarms and self._alarms[0][0] <= now:
            _, _, step, loss = heappop(self._alarms)
            sequence = step.sequence
            assert sequence is not None
            if step.state is _State.WAITING and (loss is Loss.DEADLINE or sequence.seat is None):
                sequence.waiting.remove(step)
                self._forget(step)
                self._lose(step, loss)
                self._break(sequence)
        while self._idle and next(iter(self._idle)).idle_since + self._idle_time <= now:
            sequence, _ = self._idle.popitem(last=False)
            self._idle_ended += 1
            self._end(sequence)
