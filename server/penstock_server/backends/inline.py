"""Whether a batch may run on the event loop, instead of in its instance's thread.

The way to a thread and back costs some 50 µs of the loop's own time, more than a tiny model takes. But while a model
runs on the loop nothing else does, so this is only for models that are known to be fast, and decided by what was
measured, for each size of batch (in powers of two):

    trial ─── the model was loaded, and took less than the bound ──▶ loop
    thread ── the p95 of the last runs is within the bound ──▶ loop
    loop ──── it is beyond twice the bound ──▶ thread, for good
    either ── one run took a hundred times the bound ──▶ thread, for good, for all sizes

What counts is the CPU time of a run, since these models do nothing but compute. The clock would say how busy the
machine is: in a thread, the end of a run waits for the interpreter as long as the loop is busy, and on the loop a few
runs that another process has interrupted would send a fast model away for good. Asking for it is a system call, so of a
size that is known only every eighth run is measured.

The first run of a size is not counted, since it is a cold one. What is known of one size serves its neighbours, each
until it is found to be slow itself: a smaller batch of a model takes no longer, and one of up to twice the rows at most
twice as long. For in a thread beside a busy loop a run may cost several times what it would cost on the loop.

The bound is the one that was chosen as long as nothing else runs: what waits then are only the next requests. While
long batches run in threads, or the version has several instances, which could run at the same time, it is at most what
the way to the thread would cost the loop. Short batches in threads do not matter, else many models that are asked at
once would keep each other in their threads, where they contend for the interpreter.

No clock is read here: it is told what runs took.
"""

from bisect import bisect_left, insort
from collections import deque

INLINE_SECONDS = 200e-6
"""The bound, unless the operator chooses another."""
_HOP_SECONDS = 50e-6
_WINDOW = 32
_EVERY = 8
"""Of the runs on the loop of a size that is known, one in so many is measured."""
_LEAVE = 2.0
_SLOW = 100.0


class Threads:
    """How many long batches run in threads now, over all models of a server."""

    def __init__(self) -> None:
        self.long = 0


class _Size:
    """One size of batch: where it runs, and what its last runs there took."""

    __slots__ = ("_ordered", "_recent", "is_inline", "is_known", "is_slow", "is_warm", "last", "p95", "skipped")

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._ordered: list[float] = []
        self.is_warm = False
        self.is_known = False
        """A window of runs was measured where it runs now."""
        self.is_inline = False
        self.is_slow = False
        """It ran on the loop once, and must not again."""
        self.last = 0.0
        """What the last run took that was measured."""
        self.skipped = 0
        """Runs since then."""
        self.p95 = 0.0

    def add(self, seconds: float, bound: float) -> None:
        """Take in what a run took, and decide where the next one may be."""
        self.last = seconds
        self._recent.append(seconds)
        insort(self._ordered, seconds)
        if len(self._recent) < _WINDOW:
            return
        self.p95 = self._ordered[(_WINDOW * 95 + 99) // 100 - 1]
        if not self.is_inline and self.p95 <= bound:
            self.admit(self.p95)
            if self.is_inline:
                return
        if self.is_inline and self.p95 > _LEAVE * bound:
            self.is_inline, self.is_slow = False, True
        self.is_known = True
        del self._ordered[bisect_left(self._ordered, self._recent.popleft())]

    def admit(self, p95: float) -> None:
        """Let it run on the loop, unless it does or must not, and measure it anew there."""
        if not self.is_inline and not self.is_slow:
            self.is_inline, self.is_known, self.p95 = True, False, p95
            self._recent.clear()
            self._ordered.clear()


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
        """Whether a batch of `rows` may run on the loop; `others` if long batches run in threads now."""
        size = self._sizes.get(rows.bit_length())
        if size is None or not size.is_inline or self._never:
            return False
        return not others or size.p95 <= _HOP_SECONDS

    def wants(self, rows: int) -> bool:
        """Whether to measure the next run of a batch of `rows` on the loop."""
        size = self._sizes.get(rows.bit_length())
        if size is None or not size.is_known:
            return True
        size.skipped = (size.skipped + 1) % _EVERY
        return not size.skipped

    def ran(self, rows: int, seconds: float) -> None:
        """A batch of `rows` took so many seconds of CPU, wherever it ran."""
        power = rows.bit_length()
        size = self._size(power)
        if not size.is_warm:
            size.is_warm = True
            return
        if seconds > self._slow:
            self._never = True
        was_inline = size.is_inline
        size.add(seconds, self._bound)
        if size.is_inline:
            self._admit_neighbours(power, size, is_new=not was_inline)

    def tried(self, rows: int, seconds: float) -> None:
        """A batch of `rows` took so many seconds of CPU before anybody asked for one: let such batches begin here."""
        if seconds <= self._bound:
            for power in range(1, rows.bit_length() + 1):
                self._size(power).admit(seconds)

    def is_long(self, rows: int) -> bool:
        """Whether the last batch like one of `rows` took longer than the bound. One that nobody knows is not long."""
        size = self._sizes.get(rows.bit_length())
        return size is not None and size.last > self._bound

    def _size(self, power: int) -> _Size:
        size = self._sizes.get(power)
        if size is None:
            size = self._sizes[power] = _Size()
        return size

    def _admit_neighbours(self, power: int, size: _Size, *, is_new: bool) -> None:
        """Let other sizes onto the loop, by one that has just come there, or was measured there."""
        if is_new:
            for smaller in range(1, power):
                self._size(smaller).admit(size.p95)
        elif size.is_known and (twice := self._sizes.get(power + 1)) is not None and 2 * size.p95 <= self._bound:
            twice.admit(2 * size.p95)
