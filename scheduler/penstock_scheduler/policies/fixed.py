"""The policy `fixed`: Triton's dynamic batcher (dynamic_batch_scheduler.cc), to the letter.

    levels ──scan──▶ pending ──fire──▶ payload, payload ──▶ instance
    (queues)         (of one key)      (the last may grow)

Rules, by the numbers of the protocol page on the batcher (2.5):

 1. *Slot gate.* Nothing is looked at until there is a slot: fewer payloads queued ahead than twice the instances; or,
    with a queue policy or several levels, an instance that is free and has none. So batches form while instances work.
 2. *Scan* in order of level, then arrival. A request that does not fit, or has another key, closes the batch; nobody
    is passed over to find a match.
 3. The largest preferred size that is hit is marked; so is what is there when the next request would overshoot the
    largest preferred size and none was hit.
 4. *Fire* the marked requests while the oldest has not waited for the delay (or there is none); else all, if the
    batch is closed, has the largest preferred size, or has waited. So once the delay has passed the preferred sizes
    are forgotten and as many go as fit. Else wait.
 5. *Late join.* A payload that waits for an instance and is not saturated (closed, or at the largest preferred size)
    keeps growing. Only the last one can be unsaturated, so merging payloads at pick-up never has anything to merge.
 6. The delay counts from the admission of the oldest request in the batch.
10. Levels are strict. There is no ageing.
11. `max_queue_size` counts the requests of a level that are in no payload. A request's `timeout` counts only if the
    policy allows it and it is less than the default; with no default it never counts. REJECT drops, DELAY serves after
    all of the level that are in time. In a payload nothing times out.

Better than Triton in what nobody can hold against it: requests that are cancelled, or whose deadline passes, leave a
payload too, and are reported when it happens and not at the next scan. An oversize request, which Triton refuses,
goes in batches of its own but for the last part.
"""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from math import inf
from operator import attrgetter
from typing import Generic

from penstock_scheduler.agenda import Agenda
from penstock_scheduler.padding import bucket_of
from penstock_scheduler.policies.base import Policy
from penstock_scheduler.settings import QueuePolicy, Settings, TimeoutAction
from penstock_scheduler.splitting import Dropper
from penstock_scheduler.values import Batch, FireReason, Place, Reason, Share, State, T, Ticket

_QUEUED = State.QUEUED


class _Level:
    """One priority level."""

    __slots__ = ("policy", "size")

    def __init__(self, policy: QueuePolicy) -> None:
        self.policy = policy
        self.size = 0
        """Requests that are in no payload."""


class _Queue(Place, Generic[T]):
    """Tickets of one level in order of arrival. Those that are counted elsewhere by now are skipped."""

    __slots__ = ("level", "tickets")

    def __init__(self, level: _Level) -> None:
        self.level = level
        self.tickets: deque[T] = deque()

    def left(self, ticket: Ticket) -> None:
        self.level.size -= 1
        if len(self.tickets) > 2 * self.level.size + 64:
            self.tickets = deque(ticket for ticket in self.tickets if self._is_here(ticket))

    def head(self) -> T | None:
        tickets = self.tickets
        while tickets:
            ticket = tickets[0]
            if ticket.state is _QUEUED and ticket.place is self:
                return ticket
            tickets.popleft()
        return None

    def _is_here(self, ticket: Ticket) -> bool:
        return ticket.state is _QUEUED and ticket.place is self


class _Pending(Place, Generic[T]):
    """What has been scanned and not fired. It is given back to the queues when the scan has to start again."""

    __slots__ = ("mark", "mark_is_last", "oldest", "rows", "taken")

    def __init__(self) -> None:
        self.taken: list[tuple[T, _Queue[T]]] = []
        self.rows = 0
        self.oldest = inf
        self.mark = 0  # so many of the first have a preferred size
        self.mark_is_last = False  # nothing may join them

    def __len__(self) -> int:
        return len(self.taken)

    def left(self, ticket: Ticket) -> None:
        queue = next(queue for other, queue in self.taken if other is ticket)
        self.give_back()  # it skips what is gone
        queue.level.size -= 1

    def add(self, ticket: T, queue: _Queue[T]) -> None:
        queue.tickets.popleft()
        ticket.place = self
        self.taken.append((ticket, queue))
        self.rows += ticket.remaining
        if ticket.enqueued < self.oldest:
            self.oldest = ticket.enqueued

    def take(self, count: int) -> list[T]:
        """The first tickets, to be fired; the rest goes back."""
        fired, self.taken = self.taken[:count], self.taken[count:]
        self.give_back()
        for _, queue in fired:
            queue.level.size -= 1
        return [ticket for ticket, _ in fired]

    def give_back(self) -> None:
        for ticket, queue in reversed(self.taken):
            if ticket.state is _QUEUED:
                ticket.place = queue
                queue.tickets.appendleft(ticket)
        self.taken = []
        self.rows, self.oldest, self.mark, self.mark_is_last = 0, inf, 0, False


class _Payload(Place, Generic[T]):
    """A batch that waits for an instance."""

    __slots__ = ("_payloads", "is_saturated", "key", "reason", "rows", "tickets")

    def __init__(self, payloads: "deque[_Payload[T]]", key: Hashable) -> None:
        self._payloads = payloads
        self.key = key
        self.tickets: list[T] = []
        self.rows = 0
        self.is_saturated = False
        self.reason = FireReason.IDLE

    def left(self, ticket: Ticket) -> None:
        self.rows -= ticket.remaining
        if not self.rows:
            self._payloads.remove(self)

    def add(self, tickets: Sequence[T]) -> None:
        for ticket in tickets:
            ticket.place = self
            self.rows += ticket.remaining
        self.tickets.extend(tickets)


class Fixed(Policy[T]):
    """See the module's text."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._max_rows = settings.max_batch_rows
        self._preferred = frozenset(settings.preferred_sizes or (settings.max_batch_rows,))
        self._largest = max(self._preferred)
        self._delay = settings.max_queue_delay or 0.0
        self._levels = [_Level(settings.queue_policy_of(level)) for level in range(1, settings.levels + 1)]
        self._queues: list[_Queue[T]] = [_Queue(level) for level in self._levels for _ in ("in time", "delayed")]
        self._prefetches = settings.levels == 1 and self._levels[0].policy == QueuePolicy()
        self._pending: _Pending[T] = _Pending()
        self._payloads: deque[_Payload[T]] = deque()
        self._timeouts: Agenda[T] = Agenda(attrgetter("due"))
        self._wakeup = inf
        self._draining = False

    def door(self) -> Callable[[T], Reason | None]:
        return self._add

    def _add(self, ticket: T) -> Reason | None:
        number = self._settings.level_of(ticket.level) - 1
        level = self._levels[number]
        policy = level.policy
        if policy.max_queue_size and level.size >= policy.max_queue_size:
            return Reason.QUEUE_FULL
        if self._settings.lengths and bucket_of(ticket.length, self._settings.lengths) is None:
            return Reason.TOO_LONG
        queue = self._queues[2 * number]
        if self._pending.taken and self._pending.taken[-1][1].level is not level:
            self._pending.give_back()  # it may come before some of them
        level.size += 1
        ticket.place = queue
        queue.tickets.append(ticket)
        if policy.default_timeout:
            timeout = policy.default_timeout
            if policy.allow_timeout_override and 0 < ticket.timeout < timeout:
                timeout = ticket.timeout
            ticket.due = ticket.enqueued + timeout
            self._timeouts.add(ticket, ticket.due)
        return None

    def drain(self) -> None:
        self._draining = True

    def wakeup(self) -> float:
        return self._wakeup

    def next_timeout(self) -> float:
        ticket = self._next_to_time_out()
        return inf if ticket is None else ticket.due

    def keep(self, now: float, free: int, drop: Dropper[T]) -> None:
        while (ticket := self._next_to_time_out()) is not None and ticket.due <= now:
            self._timeouts.pop()
            number = self._settings.level_of(ticket.level) - 1
            if self._levels[number].policy.timeout_action is TimeoutAction.REJECT:
                drop(ticket, Reason.TIMEOUT)
            else:
                self._pending.give_back()
                delayed = self._queues[2 * number + 1]
                ticket.place = delayed
                delayed.tickets.append(ticket)
        self._timeouts.compact(sum(level.size for level in self._levels))
        self._batch(now, free)

    def form(self, now: float, free: int, drop: Dropper[T]) -> Batch[T] | None:
        self._batch(now, free)
        if self._payloads:
            return self._pick_up(self._payloads.popleft())
        queue = self._first_queue()
        head = None if queue is None else queue.head()
        if head is None or head.remaining <= self._max_rows:
            return None
        batch = Batch(head.key, self._bucket(head), [head], self._max_rows, FireReason.FULL)
        batch.shares = [Share(head.rows - head.remaining, self._max_rows)]
        head.remaining -= self._max_rows
        return batch

    # The batcher's thread.

    def _batch(self, now: float, free: int) -> None:
        self._wakeup = inf
        while self._has_slot(free) and self._step(now):
            pass

    def _has_slot(self, free: int) -> bool:
        if self._prefetches:
            return len(self._payloads) < 2 * self._settings.instances
        return len(self._payloads) < free

    def _step(self, now: float) -> bool:
        """Scan, and fire if it is time. Whether anything was done."""
        payload = self._payloads[-1] if self._payloads and not self._payloads[-1].is_saturated else None
        closed = self._scan(payload)
        pending = self._pending
        if not pending:
            if payload is None or closed is None:
                return False
            payload.is_saturated = True
            return True
        count, saturated, reason = self._decide(now, payload, closed)
        if not count:
            self._wakeup = pending.oldest + self._delay
            return False
        if payload is None:
            payload = _Payload(self._payloads, self._key(pending.taken[0][0]))
            self._payloads.append(payload)
        payload.add(pending.take(count))
        payload.is_saturated = saturated
        payload.reason = reason
        return True

    def _scan(self, payload: _Payload[T] | None) -> FireReason | None:
        """Move what may join the batch to `pending`. Why nothing more may; None if nothing more is there."""
        pending = self._pending
        rows = pending.rows + (0 if payload is None else payload.rows)
        is_new = not pending.taken and payload is None
        key = None if payload is None else payload.key
        if pending.taken:
            key = self._key(pending.taken[0][0])
        for queue in self._queues:
            while (ticket := queue.head()) is not None:
                rows += ticket.remaining
                if rows > self._max_rows:
                    # An oversize request with nothing before it is for `form`.
                    return FireReason.FULL
                if is_new:
                    key, is_new = self._key(ticket), False
                elif self._key(ticket) != key:
                    return FireReason.SHAPE
                if rows > self._largest and pending.taken and not pending.mark:
                    pending.mark = len(pending)
                    pending.mark_is_last = True
                pending.add(ticket, queue)
                if rows in self._preferred:
                    pending.mark = len(pending)
                    pending.mark_is_last = rows >= self._largest
        return None

    def _decide(
        self, now: float, payload: _Payload[T] | None, closed: FireReason | None
    ) -> tuple[int, bool, FireReason]:
        """How many of the pending to fire (0: wait), whether nothing may join them, and why."""
        pending = self._pending
        rows = pending.rows + (0 if payload is None else payload.rows)
        has_waited = now >= pending.oldest + self._delay
        if self._draining:
            return len(pending), closed is not None, FireReason.DRAIN
        if pending.mark and not (self._delay and has_waited):
            reason = FireReason.FULL if rows >= self._max_rows else FireReason.PREFERRED
            return pending.mark, pending.mark_is_last, reason
        if closed is not None:
            return len(pending), True, closed
        if rows >= self._largest:
            return len(pending), True, FireReason.FULL if rows >= self._max_rows else FireReason.PREFERRED
        if has_waited:
            return len(pending), False, FireReason.DELAY if self._delay else FireReason.IDLE
        return 0, False, FireReason.IDLE

    def _pick_up(self, payload: _Payload[T]) -> Batch[T]:
        tickets = [ticket for ticket in payload.tickets if ticket.state is _QUEUED]
        batch = Batch(tickets[0].key, self._bucket(tickets[0]), tickets, payload.rows, payload.reason)
        if any(ticket.rows > self._max_rows for ticket in tickets):
            batch.shares = [_last_share(ticket) if ticket.rows > self._max_rows else None for ticket in tickets]
        return batch

    # The queues.

    def _first_queue(self) -> _Queue[T] | None:
        """The queue whose head is next: by level, those in time first."""
        for queue in self._queues:
            if queue.head() is not None:
                return queue
        return None

    def _next_to_time_out(self) -> T | None:
        """Of those whose timeout still matters: neither delayed already nor in a payload."""
        while (ticket := self._timeouts.head()) is not None:
            place = ticket.place
            if place is self._pending or place is self._queues[2 * self._settings.level_of(ticket.level) - 2]:
                return ticket
            self._timeouts.pop()
        return None

    def _key(self, ticket: T) -> Hashable:
        return (ticket.key, self._bucket(ticket)) if self._settings.lengths else ticket.key

    def _bucket(self, ticket: T) -> int:
        return (bucket_of(ticket.length, self._settings.lengths) or 0) if self._settings.lengths else 0


def _last_share(ticket: Ticket) -> Share:
    return Share(ticket.rows - ticket.remaining, ticket.remaining)
