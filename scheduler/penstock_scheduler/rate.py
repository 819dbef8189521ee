"""How fast rows arrive: a moving average of the time between two of them.

The rows of one moment share the time until the next moment. So it does not matter in how many calls they come, and a
burst at the very start, after which no time has passed, says nothing yet.
"""

_KEPT = 0.98
"""Of the average, for each row that comes."""


class Rate:
    """Rows per second of late."""

    __slots__ = ("_gap", "_last", "_rows")

    def __init__(self) -> None:
        self._gap = 0.0  # seconds between two rows; 0 before two moments are known
        self._last = 0.0
        self._rows = 0  # that came at the last moment

    def add(self, rows: int, now: float) -> None:
        """`rows` have arrived at once."""
        if now > self._last and self._rows:
            self._gap = self._seen(now)
            self._rows = rows
        else:
            self._rows += rows
        self._last = now

    def per_second(self, now: float) -> float:
        """The rate as if a row came now, unless that would make it higher: so it falls while nothing comes."""
        gap = max(self._gap, self._seen(now)) if self._gap else 0.0
        return 1 / gap if gap > 0 else 0.0

    def gap(self) -> float:
        """Seconds between two rows, as of the last moment; 0 before anything is known."""
        return self._gap

    def _seen(self, now: float) -> float:
        """The average if the next row comes now."""
        rows, average = self._rows, self._gap
        gap = (now - self._last) / rows if rows else 0.0
        return average + (1 - _KEPT**rows) * (gap - average) if average else gap
