"""One alarm at a time on `time.monotonic()`, exact to some tens of microseconds.

uvloop's clock moves in steps of a millisecond and its timers are whole milliseconds, which is useless
for a queue delay of 100 µs. A timerfd is not, and it runs on the same clock as `time.monotonic()`, so
it never fires early. Where there is none (outside Linux) `call_later` has to do.
"""

import asyncio
import ctypes
import os
import struct
import sys
import time
from collections.abc import Callable
from math import inf

_CLOCK_MONOTONIC = time.CLOCK_MONOTONIC
_TFD_TIMER_ABSTIME = 1
_ITIMERSPEC = struct.Struct("@qqqq")  # interval (s, ns), value (s, ns); an interval of 0 is a single alarm


class WakeUp:
    """Calls back once the time it was set to has come. Not before, and perhaps without need."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._armed = inf
        self._timer: asyncio.TimerHandle | None = None
        self._fd = -1
        if sys.platform == "linux":
            self._fd = _timerfd_create()
            loop.add_reader(self._fd, self._fired)

    def set(self, when: float | None) -> None:
        """Call back at `when`; None: there is nothing to wait for.

        An alarm that is armed for an earlier time is left alone: the callback looks, finds nothing to
        do and sets it again, which costs less than a system call for each change of plan.
        """
        if when is None or when >= self._armed:
            return
        self._armed = when
        if self._fd >= 0:
            _timerfd_settime(self._fd, when)
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, when - time.monotonic()), self._fired)

    def close(self) -> None:
        """Never call back again."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._timer is not None:
            self._timer.cancel()
        self._armed = -inf  # whatever is set now is later

    def _fired(self) -> None:
        if self._fd >= 0:
            try:
                os.read(self._fd, 8)
            except BlockingIOError:
                return
        self._armed = inf
        self._callback()


# Python has these in `os` from 3.13 on.
_libc = ctypes.CDLL(None, use_errno=True)


def _timerfd_create() -> int:
    fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create failed")
    return fd


def _timerfd_settime(fd: int, when: float) -> None:
    seconds = max(0, int(when))
    # A value of zero would disarm the timer; a nanosecond in the past fires at once.
    nanoseconds = max(1, int((when - seconds) * 1e9))
    if _libc.timerfd_settime(fd, _TFD_TIMER_ABSTIME, _ITIMERSPEC.pack(0, 0, seconds, nanoseconds), None) < 0:
        raise OSError(ctypes.get_errno(), "timerfd_settime failed")
