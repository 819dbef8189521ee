"""Whether to try again, and when. Decisions only: the clients do the waiting.

    policy ──▶ Retries ── next_wait(failure, now, random) ──▶ seconds to wait, or None: give up
    deadline ─┘

* A deadline spans all tries and the waits between them. A wait that would not end before it is not
  begun: the failure at hand is more telling than a later DEADLINE_EXCEEDED.
* The server's pushback (gRFC A6) is obeyed to the millisecond; one that is negative or no number
  means "do not retry". After a pushback the back-off starts over.
* RESOURCE_EXHAUSTED is also what gRPC says of a message that is too large, which no retry helps.
  It is retried only with a pushback: then a server meant "later".
* UNAVAILABLE may leave open whether the server did the work. An inference has no side effects, so
  doing it twice is harmless; calls that must not be repeated never come here (`calls.Call.once`).
"""

import math
import time
from dataclasses import dataclass

import grpc

from penstock_client.errors import InferenceError

_FOREVER = 1e9  # seconds, 30 years: gRPC takes timeouts of some thousand years for past ones
_MAX_PUSHBACK_MS = 2**31 - 1  # gRFC A6: a signed 32-bit number


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time by which an answer is wanted.

    One may serve several calls:

    >>> deadline = Deadline.after(0.5)
    >>> boxes = client.infer("detect", {"image": image}, timeout=deadline)
    >>> names = client.infer("name", {"boxes": boxes["boxes"]}, timeout=deadline)
    """

    at: float
    """In terms of `time.monotonic()`, seconds; infinite if there is none."""

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """The deadline this many seconds from now."""
        return cls(time.monotonic() + seconds)

    def timeout(self, now: float) -> float | None:
        """What is left, in seconds; None if there is no deadline. InferenceError if it has passed."""
        left = self.at - now
        if left <= 0:  # gRPC would try all the same, and sometimes be answered
            raise InferenceError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the call was made")
        return None if left > _FOREVER else left


NO_DEADLINE = Deadline(math.inf)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a call is tried, and how long a client waits in between. Times are in seconds."""

    attempts: int = 3
    """All tries, the first one included; 1 for no retries."""
    initial_backoff: float = 0.05
    max_backoff: float = 2.0
    multiplier: float = 2.0
    jitter: float = 0.2
    """Each wait is drawn from back-off ± this part of it, so that clients do not come back in step."""
    statuses: frozenset[grpc.StatusCode] = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})
    """What is worth another try."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}, but there is always a first")
        if self.initial_backoff < 0 or self.max_backoff < 0 or self.multiplier < 1 or not 0 <= self.jitter <= 1:
            raise ValueError("a back-off is not negative, its multiplier at least 1, its jitter between 0 and 1")

    def backoff(self, step: int, random: float) -> float:
        """The wait after this many back-offs before it; `random` lies in [0, 1)."""
        # The exponent is bounded by `attempts`, which nobody sets so high that this overflows.
        plain = min(self.initial_backoff * self.multiplier**step, self.max_backoff)
        return plain * (1 + self.jitter * (2 * random - 1))


NO_RETRIES = RetryPolicy(attempts=1)


class Retries:
    """The tries of one call. Told the time and a random number; reads neither itself."""

    def __init__(self, policy: RetryPolicy, deadline: Deadline) -> None:
        self._policy = policy
        self._deadline = deadline
        self._tries = 0
        self._step = 0  # back-offs since the start or the last pushback

    def next_wait(self, failure: InferenceError, now: float, random: float) -> float | None:
        """A try failed. Seconds to wait before the next one, or None: there is none."""
        self._tries += 1
        pushback = failure.pushback
        if self._tries >= self._policy.attempts or failure.status not in self._policy.statuses:
            return None
        if pushback is not None:
            wait = pushback_seconds(pushback)
            self._step = 0
        elif failure.status is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return None
        else:
            wait = self._policy.backoff(self._step, random)
            self._step += 1
        return None if wait is None or now + wait >= self._deadline.at else wait


def pushback_seconds(pushback: str) -> float | None:
    """The wait a server asks for; None if it asks not to be tried again, or is not understood."""
    if not (pushback.isascii() and pushback.isdigit()):
        return None
    milliseconds = int(pushback[:11])  # more digits are too large whatever they are
    return milliseconds / 1000 if milliseconds <= _MAX_PUSHBACK_MS else None
