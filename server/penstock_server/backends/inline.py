"""Whether a batch may run on the event loop, instead of in its instance's thread.

The way to a thread and back costs some 50 µs of the loop's own time, more than a tiny model takes. But while a model
runs on the loop nothing else does, so this is only for models that are known to be fast, and decided by what was
measured, for each size of batch (in powers of two):

    thread ── the p95 of the last runs is within the bound ──▶ loop
    loop ──── it is beyond twice the bound ──▶ thread, for good
    either ── one run took a hundred times the bound ──▶ thread, for good, for all sizes

What counts is the CPU time of a run, since these models do nothing but compute. The clock would say how busy the
machine is: in a thread, the end of a run waits for the interpreter as long as the loop is busy, and on the loop a few
runs that another process has interrupted would send a fast model away for good.

The first run of a size is not counted, since it is a cold one. The bound is the one that was chosen as long as nothing
else runs: what waits then are only the next requests. While other batches run in threads, or the version has several
instances, which could run at the same time, it is at most what the way to the thread would cost the loop.

No clock is read here: it is told what runs took.
"""

from bisect import bisect_left, insort
from collections import deque

INLINE_SECONDS = 200e-6
"""The bound, unless the operator chooses another."""
_HOP_SECONDS = 50e-6
_WINDOW = 32
_LEAVE = 2.0
_SLOW = 100.0


class Threads:
    """How many batches run in threads now, over all models of a server."""

    def __init__(self) -> None:
        self.running = 0


class _Size:
    """One size of batch: where it runs, and what its last runs there took."""

    __slots__ = ("_ordered", "_recent", "is_inline", "is_slow", "is_warm", "p95")

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._ordered: list[float] = []
        self.is_warm = False
        self.is_inline = False
        self.is_slow = False
        """It ran on the loop once, and must not again."""
        self.p95 = 0.0

    def add(self, seconds: float, bound: float) -> None:
        """Take in what a run took, and decide where the next one may be."""
        self._recent.append(seconds)
        insort(self._ordered, seconds)
        if len(self._recent) < _WINDOW:
            return
        self.p95 = self._ordered[(_WINDOW * 95 + 99) // 100 - 1]
        if not self.is_inline and not self.is_slow and self.p95 <= bound:
            self.is_inline = True
            self._recent.clear()
            self._ordered.clear()
            return
        if self.is_inline and self.p95 > _LEAVE * bound:
            self.is_inline, self.is_slow = False, True
        del self._ordered[bisect_left(self._ordered, self._recent.popleft())]


class Inline:
    """Says for each batch of a version whether it may run on the loop."""

    def __init__(self, below: float = INLINE_SECONDS, instances: int = 1) -> None:
        """`below` is the bound in seconds; 0: no batch runs on the loop."""
        self._bound = below if instances == 1 else min(below, _HOP_SECONDS)
        self._slow = _SLOW * below
        self._sizes: dict[int, _Size] = {}
        self._never = below <= 0

    def __repr__(self) -> str:
        if self._never:
            return "<Inline: never>"
        sizes = [1 << power >> 1 for power, size in sorted(self._sizes.items()) if size.is_inline]
        return f"<Inline below {self._bound * 1e6:.0f} µs: sizes from {', '.join(map(str, sizes)) or 'none yet'}>"

    def may_run(self, rows: int, others: bool) -> bool:
        """Whether a batch of `rows` may run on the loop; `others` if batches run in threads now."""
        size = self._sizes.get(rows.bit_length())
        if size is None or not size.is_inline or self._never:
            return False
        return not others or size.p95 <= _HOP_SECONDS

    def ran(self, rows: int, seconds: float) -> None:
        """A batch of `rows` took so many seconds of CPU, wherever it ran."""
        size = self._sizes.get(rows.bit_length())
        if size is None:
            size = self._sizes[rows.bit_length()] = _Size()
        if not size.is_warm:
            size.is_warm = True
            return
        if seconds > self._slow:
            self._never = True
        size.add(seconds, self._bound)
