"""What a process holds: its resident memory, looked at some times a second while something else happens."""

import threading
from types import TracebackType
from typing import Self

import psutil

_PERIOD_SECONDS = 0.05


def memory_of(pid: int) -> int:
    """Resident bytes; 0 once the process is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


class MemoryWatch:
    """The most that a process has held since this began, or since `peak` was last taken."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory watch")

    def __repr__(self) -> str:
        return f"<MemoryWatch of {self._pid}: {self._peak >> 20} MiB at most>"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def take_peak(self) -> int:
        """Bytes; begins anew."""
        peak, self._peak = max(self._peak, memory_of(self._pid)), 0
        return peak

    def _watch(self) -> None:
        while not self._stopped.wait(_PERIOD_SECONDS):
            self._peak = max(self._peak, memory_of(self._pid))
