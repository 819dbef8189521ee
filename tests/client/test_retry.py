"""When another try is made: decisions, told the time, so that nothing here waits."""

import math
import time

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_client.errors import InferenceError
from penstock_client.retry import NO_DEADLINE, NO_RETRIES, Deadline, Retries, RetryPolicy, pushback_seconds

UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
MIDDLE = 0.5
"""The random number that makes no jitter."""

policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 8),
    initial_backoff=st.floats(0, 10),
    max_backoff=st.floats(0, 10),
    multiplier=st.floats(1, 10),
    jitter=st.floats(0, 1),
)
pushbacks = st.none() | st.integers(-5, 5000).map(str) | st.text(max_size=4)
randoms = st.floats(0, 1, exclude_max=True)


def failure(status: grpc.StatusCode = UNAVAILABLE, pushback: str | None = None) -> InferenceError:
    return InferenceError(status, "", () if pushback is None else (("grpc-retry-pushback-ms", pushback),))


def waits(retries: Retries, *failures: InferenceError, random: float = MIDDLE) -> list[float | None]:
    return [retries.next_wait(one, 0.0, random) for one in failures]


def test_backoffs_grow_up_to_the_maximum() -> None:
    """Each wait is the last one times the multiplier, until the maximum or the attempts are reached."""
    policy = RetryPolicy(attempts=6, initial_backoff=1, max_backoff=5, multiplier=2)
    assert waits(Retries(policy, NO_DEADLINE), *[failure()] * 6) == [1, 2, 4, 5, 5, None]


def test_jitter_spreads_the_waits() -> None:
    """A wait lies in back-off ± jitter; the random number says where."""
    policy = RetryPolicy(initial_backoff=1, jitter=0.2)
    assert policy.backoff(0, 0.0) == pytest.approx(0.8)
    assert policy.backoff(0, MIDDLE) == 1
    assert 1.19 < policy.backoff(0, 0.999) < 1.2


def test_a_pushback_replaces_the_backoff_and_restarts_it() -> None:
    """The server's wait is taken as it is, without jitter, and the back-off begins again after it."""
    policy = RetryPolicy(attempts=9, initial_backoff=1, max_backoff=99, multiplier=2)
    retries = Retries(policy, NO_DEADLINE)
    assert waits(retries, failure(), failure(), failure(pushback="250"), failure()) == [1, 2, 0.25, 1]
    assert waits(retries, failure(EXHAUSTED, "0"), random=0.9) == [0]


def test_a_pushback_counts_as_a_try() -> None:
    """A server cannot make a client try more often than its policy allows."""
    assert waits(Retries(RetryPolicy(attempts=2), NO_DEADLINE), *[failure(pushback="1")] * 2) == [0.001, None]


@pytest.mark.parametrize("pushback", ["-1", "", "soon", "1.5", "+5", " 5", "5 ", "٣", "²", "2147483648", "9" * 5000])
def test_what_is_no_pushback_forbids_the_retry(pushback: str) -> None:
    """Negative, out of range or unreadable: do not retry, whatever the status (gRFC A6)."""
    assert pushback_seconds(pushback) is None
    assert waits(Retries(RetryPolicy(), NO_DEADLINE), failure(pushback=pushback)) == [None]


def test_the_largest_pushback() -> None:
    """All of a signed 32-bit number of milliseconds is understood."""
    assert pushback_seconds("2147483647") == 2_147_483.647


def test_resource_exhausted_needs_a_pushback() -> None:
    """Else it may be gRPC's own word for a message that is too large."""
    assert waits(Retries(RetryPolicy(), NO_DEADLINE), failure(EXHAUSTED)) == [None]
    assert waits(Retries(RetryPolicy(), NO_DEADLINE), failure(EXHAUSTED, "7")) == [0.007]


@pytest.mark.parametrize("status", [status for status in grpc.StatusCode if status not in (UNAVAILABLE, EXHAUSTED)])
def test_other_statuses_are_final(status: grpc.StatusCode) -> None:
    """Not even a pushback makes the default policy retry them."""
    assert waits(Retries(RetryPolicy(), NO_DEADLINE), failure(status, "1")) == [None]


def test_a_policy_names_its_statuses() -> None:
    """A user may choose what is worth another try."""
    policy = RetryPolicy(initial_backoff=1, statuses=frozenset({grpc.StatusCode.ABORTED}))
    assert waits(Retries(policy, NO_DEADLINE), failure(grpc.StatusCode.ABORTED), failure()) == [1, None]


def test_no_retries() -> None:
    """One attempt is no retry."""
    assert waits(Retries(NO_RETRIES, NO_DEADLINE), failure(pushback="0")) == [None]


def test_a_wait_that_reaches_the_deadline_is_not_begun() -> None:
    """There must be time left after the wait."""
    assert Retries(RetryPolicy(), Deadline(10.0)).next_wait(failure(pushback="1000"), 8.9, MIDDLE) == 1
    assert Retries(RetryPolicy(), Deadline(10.0)).next_wait(failure(pushback="1000"), 9.0, MIDDLE) is None


@given(policies, st.lists(st.tuples(pushbacks, randoms, st.floats(0, 5)), max_size=12), st.floats(0, 20))
def test_tries_end(policy: RetryPolicy, story: list[tuple[str | None, float, float]], limit: float) -> None:
    """Whatever happens: not too many tries, no wait past the deadline, pushbacks to the letter."""
    retries, now, tries = Retries(policy, Deadline(limit)), 0.0, 1
    for pushback, random, took in story:
        now += took
        wait = retries.next_wait(failure(pushback=pushback), now, random)
        if wait is None:
            break
        assert 0 <= wait <= max(policy.max_backoff * (1 + policy.jitter), 5)
        assert now + wait < limit
        assert pushback is None or wait == int(pushback) / 1000
        now += wait
        tries += 1
    assert tries <= policy.attempts


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"initial_backoff": -1.0}, {"max_backoff": -1.0}, {"multiplier": 0.5}, {"jitter": 1.5}],
)
def test_senseless_policies(wrong: dict[str, float]) -> None:
    """A policy that would misbehave later is refused when it is made."""
    with pytest.raises(ValueError, match=r"attempts|back-off"):
        RetryPolicy(**wrong)  # type: ignore[arg-type]


def test_what_a_deadline_leaves() -> None:
    """The timeout of a try is what is left; when nothing is, there is no try."""
    assert Deadline(10.0).timeout(now=7.5) == 2.5
    assert NO_DEADLINE.timeout(now=7.5) is None
    assert Deadline(1e12).timeout(now=7.5) is None  # to gRPC, it would have passed
    for now in (10.0, 11.0):
        with pytest.raises(InferenceError, match="DEADLINE_EXCEEDED"):
            Deadline(10.0).timeout(now)


def test_a_deadline_from_now() -> None:
    """`after` counts from now, on the monotonic clock, and infinity is no deadline."""
    before = time.monotonic()
    assert before + 2 <= Deadline.after(2).at <= time.monotonic() + 2
    assert Deadline.after(math.inf) == NO_DEADLINE
