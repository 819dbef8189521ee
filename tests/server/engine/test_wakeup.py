"""The alarm: never early, never lost, and gone when it is closed."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from penstock_server.engine.wakeup import WakeUp

Run = Callable[[Coroutine[Any, Any, None]], None]

MS = 1e-3
HOUR = 3600.0


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test's story on a loop of either kind: their clocks differ, the alarm must not."""

    def run(story: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(story)

    return run


class Alarm:
    """A wake-up that notes when it goes off."""

    def __init__(self, then: Callable[["Alarm"], None] = lambda alarm: None) -> None:
        self.times: list[float] = []
        self._rang = asyncio.Event()
        self._then = then
        self.wakeup = WakeUp(asyncio.get_running_loop(), self._ring)

    def _ring(self) -> None:
        self.times.append(time.monotonic())
        self._then(self)
        self._rang.set()

    async def rings(self) -> float:
        """Wait until it goes off; when it did."""
        await self._rang.wait()
        self._rang.clear()
        return self.times[-1]


def test_it_goes_off_and_never_early(run: Run) -> None:
    """From a tenth of a millisecond to some; uvloop's own timers would be whole milliseconds."""

    async def story() -> None:
        alarm = Alarm()
        for delay in (0.1 * MS, 0.3 * MS, 0.7 * MS, 2.5 * MS, 0.05 * MS, 11 * MS):
            when = time.monotonic() + delay
            alarm.wakeup.set(when)
            assert await alarm.rings() >= when
        assert len(alarm.times) == 6
        alarm.wakeup.close()

    run(story())


@pytest.mark.parametrize("ago", [0.0, 1.0, 1e9])
def test_a_time_that_has_passed_is_now(run: Run, ago: float) -> None:
    """Also one before the clock began."""

    async def story() -> None:
        alarm = Alarm()
        alarm.wakeup.set(time.monotonic() - ago)
        await alarm.rings()
        alarm.wakeup.close()

    run(story())


def test_an_earlier_time_goes_before(run: Run) -> None:
    """Whatever it was set to, it goes off at the earliest."""

    async def story() -> None:
        alarm = Alarm()
        alarm.wakeup.set(time.monotonic() + HOUR)
        when = time.monotonic() + 2 * MS
        alarm.wakeup.set(when)
        alarm.wakeup.set(when + HOUR)
        assert await alarm.rings() >= when
        alarm.wakeup.close()

    run(story())


def test_nothing_to_wait_for_changes_nothing(run: Run) -> None:
    """None sets no alarm, and takes none back: whoever is called for nothing looks again."""

    async def story() -> None:
        alarm = Alarm()
        alarm.wakeup.set(None)
        when = time.monotonic() + 2 * MS
        alarm.wakeup.set(when)
        alarm.wakeup.set(None)
        assert await alarm.rings() >= when
        assert len(alarm.times) == 1
        alarm.wakeup.close()

    run(story())


def test_it_can_be_set_again_by_what_it_calls(run: Run) -> None:
    """As the driver does at each turn; also to a later time than the one that has just come."""

    async def story() -> None:
        whens: list[float] = []

        def again(alarm: Alarm) -> None:
            if len(whens) < 4:
                whens.append(time.monotonic() + len(whens) * MS)
                alarm.wakeup.set(whens[-1])

        alarm = Alarm(again)
        alarm.wakeup.set(time.monotonic())
        while len(alarm.times) < 5:
            await alarm.rings()
        assert all(rang >= when for when, rang in zip(whens, alarm.times[1:], strict=True))
        alarm.wakeup.close()

    run(story())


def test_after_close_it_is_silent(run: Run) -> None:
    """Whether it was set before or after; and closing again does no harm."""

    async def story() -> None:
        closed, other = Alarm(), Alarm()
        when = time.monotonic() + MS
        closed.wakeup.set(when)
        closed.wakeup.close()
        closed.wakeup.set(when)
        closed.wakeup.set(0.0)
        closed.wakeup.close()
        other.wakeup.set(when + MS)
        await other.rings()
        assert closed.times == []
        other.wakeup.close()

    run(story())


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_close_gives_the_descriptor_back(run: Run) -> None:
    """A server that loads and unloads models for years must not run out of them."""

    async def story() -> None:
        before = os.listdir("/proc/self/fd")
        alarms = [Alarm() for _ in range(10)]
        assert len(os.listdir("/proc/self/fd")) == len(before) + 10
        for alarm in alarms:
            alarm.wakeup.close()
        assert len(os.listdir("/proc/self/fd")) == len(before)

    run(story())


def test_without_a_timerfd_the_loops_timers_have_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes off, at the earliest time it was set to, and not after it was closed."""

    async def story() -> None:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(sys, "platform", "elsewhere")
            alarm, closed = Alarm(), Alarm()
        alarm.wakeup.set(time.monotonic() + HOUR)
        alarm.wakeup.set(time.monotonic() + MS)
        closed.wakeup.set(time.monotonic())
        closed.wakeup.close()
        await alarm.rings()
        alarm.wakeup.set(time.monotonic() - HOUR)
        await alarm.rings()
        assert len(alarm.times) == 2
        assert closed.times == []
        alarm.wakeup.close()

    asyncio.run(story())
