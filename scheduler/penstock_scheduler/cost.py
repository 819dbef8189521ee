"""What a batch costs, learnt from the batches that ran.

For each size that was run: the 95th percentile of its last 64 service times. With the mean instead, noise alone makes
every other batch late. From these a table over all numbers of rows:

* between two measured sizes: on the line between them; beyond the largest: on the line that fits all of them (service
  time is a·n + b in practice); below the smallest: as the smallest; with one size measured: as that one;
* forced monotone: more rows never cost less, so that whoever asks "how many rows until then?" gets one answer.

Nothing measured is a cost of 0: nothing is refused and nothing waits because of what nobody knows. Warm-up `seed`s
the sizes that it has run. The table is made again at once when a percentile has moved far, and some batches later when
that of the size that has just run has moved by 2 %: of many sizes there is always one that has.

What was measured may be far too much: a first run that loads or compiles something. Were requests refused because of
it while nothing runs, nothing would ever run again, and nothing be measured. So such refusals make the model `doubt`
its numbers, until a request is let in. What that one takes then stands in place of all that was measured for its size,
and of the replies; the other sizes are believed again as before, so that hopeless deadlines wear nothing down.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from math import inf

_WINDOW = 64
_MOVED = 0.02
_MOVED_FAR = 0.25
_KEPT_BATCHES = 64
"""Batches that a table must have served before it is made again for a percentile that has not moved far."""
_DOUBT = 0.75
_DOUBT_SECONDS = 0.1
"""Doubt grows no faster than by one step in this time, however many are refused."""


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The least of the values that so many percent do not exceed. They ascend, and there is at least one."""
    return ordered[(len(ordered) * percent + 99) // 100 - 1]


class _Window:
    """The last service times of one size, and a percentile of them."""

    __slots__ = ("_ordered", "_percent", "_recent", "level", "percentile")

    def __init__(self, percent: int = 95) -> None:
        self._percent = percent
        self._recent: deque[float] = deque()
        self._ordered: list[float] = []
        self.percentile = 0.0
        self.level = 0.0
        """The percentile that the table was made with."""

    def add(self, seconds: float) -> None:
        """Take it in."""
        recent, ordered = self._recent, self._ordered
        recent.append(seconds)
        insort(ordered, seconds)
        if len(recent) > _WINDOW:
            del ordered[bisect_left(ordered, recent.popleft())]
        self.percentile = percentile(ordered, self._percent)

    def has_moved(self, part: float) -> bool:
        """Whether the percentile is further than this part of it away from what the table was made with."""
        return abs(self.percentile - self.level) > part * self.level


class CostModel:
    """Seconds for each number of rows."""

    __slots__ = (
        "_doubts_again",
        "_max_rows",
        "_replies",
        "_served",
        "_sizes",
        "_trust",
        "_windows",
        "line",
        "margin",
        "table",
        "version",
    )

    def __init__(self, sizes: Sequence[int]) -> None:
        """`sizes` says for each number of rows which size is run (padding.row_sizes)."""
        self._sizes = sizes
        self._max_rows = len(sizes) - 1
        self._windows: dict[int, _Window] = {}
        self._replies = _Window(100)
        self._trust = 1.0  # what is left of the numbers' credit
        self._doubts_again = -inf
        self._served = 0  # batches since the table was made
        self.table: list[float] = [0.0] * len(sizes)
        """Seconds by rows; entry 0 is 0."""
        self.line = (0.0, 0.0)
        """a and b of the line a·n + b through the sizes that were measured."""
        self.margin = 0.0
        """Seconds to keep for everything between the end of a batch and the client: the largest of the last 64."""
        self.version = 0
        """Grows when the table changes."""

    def seed(self, rows: int, seconds: float) -> None:
        """Take in what a warm-up run of `rows` took."""
        self.observe(rows, seconds)

    def observe(self, rows: int, seconds: float) -> None:
        """Take in what a batch of `rows` took."""
        window, is_doubted = self._windows.get(rows), self._trust < 1
        if window is None or is_doubted:
            window = self._begin(self._sizes[rows if rows < self._max_rows else self._max_rows])
        window.add(seconds)
        self._served += 1
        is_late = self._served >= _KEPT_BATCHES and window.has_moved(_MOVED)
        if is_late or is_doubted or window.has_moved(_MOVED_FAR):
            self._make_table()

    def _begin(self, size: int) -> _Window:
        """Where to take in what a size takes of which nothing is known, or nothing that is believed."""
        if self._trust < 1:
            self._trust = 1.0
            self._replies, self.margin = _Window(100), 0.0  # its own reply will tell
        elif size in self._windows:
            return self._windows[size]
        window = self._windows[size] = _Window()
        return window

    def observe_reply(self, seconds: float) -> None:
        """Take in how long an answer took from the end of its batch to the wire."""
        self._replies.add(seconds)
        self.margin = self._replies.percentile * self._trust

    def doubt(self, now: float) -> None:
        """A request was refused while nothing ran: believe a quarter less of what was measured."""
        if now < self._doubts_again:
            return
        self._doubts_again = now + _DOUBT_SECONDS
        self._trust *= _DOUBT
        self.margin = self._replies.percentile * self._trust
        if self._windows:
            self._make_table()

    def of(self, rows: int) -> float:
        """Seconds for a request of any size, in parts one after the other if it is larger than a batch."""
        if rows <= self._max_rows:
            return self.table[rows]
        return rows // self._max_rows * self.table[-1] + self.table[rows % self._max_rows]

    def _make_table(self) -> None:
        self._served = 0
        for window in self._windows.values():
            window.level = window.percentile
        points = sorted((size, window.level) for size, window in self._windows.items())
        self.line = slope, base = _fit(points)
        self.version += 1
        table = [0.0]
        right = 0  # of the points, the first that is not below the size
        for size in self._sizes[1:]:
            while right < len(points) and points[right][0] < size:
                right += 1
            if right == len(points):
                seconds = slope * size + base
            elif right == 0 or points[right][0] == size:
                seconds = points[right][1]
            else:
                (n, low), (m, high) = points[right - 1], points[right]
                seconds = low + (high - low) * (size - n) / (m - n)
            table.append(max(table[-1], seconds * self._trust))
        self.table = table


def _fit(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """The line of least squares, never falling; a level one through a single point."""
    count = len(points)
    mean_n = sum(n for n, _ in points) / count
    mean_l = sum(seconds for _, seconds in points) / count
    spread = sum((n - mean_n) ** 2 for n, _ in points)
    slope = sum((n - mean_n) * (seconds - mean_l) for n, seconds in points) / spread if spread else 0.0
    slope = max(0.0, slope)
    return slope, mean_l - slope * mean_n
