"""Memory against requests: how many bytes each request leaves behind.

The first third of the samples is left out: caches fill, pools reach their size, allocators find theirs. Through the
rest a line is laid (least squares). Beside it stands the error of its slope by what the samples scatter around it, so
that a slope of some bytes is not taken for a leak when it is noise.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

_WARMUP = 1 / 3
_FEWEST = 8


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the server."""

    seconds: float
    """Since the beginning."""
    requests: int
    """That it has served by then, by its own count."""
    memory: int
    """Its resident bytes."""


class Slope(msgspec.Struct, frozen=True, kw_only=True):
    """The line through the samples."""

    bytes_per_request: float
    error: float
    """One standard error of it."""
    requests: int
    """That it goes over."""
    grown: int
    """Bytes between the means of the first and the last tenth of the samples that it goes through."""


def slope_of(samples: Sequence[Sample]) -> Slope | None:
    """Of the last two thirds. None of too few samples, or if no request was served."""
    kept = samples[int(len(samples) * _WARMUP) :]
    requests = np.array([sample.requests for sample in kept], np.float64)
    memory = np.array([sample.memory for sample in kept], np.float64)
    if len(kept) < _FEWEST or np.ptp(requests) == 0:
        return None
    x, y = requests - requests.mean(), memory - memory.mean()
    spread = float(x @ x)
    slope = float(x @ y) / spread
    rest = y - slope * x
    error = float(np.sqrt(rest @ rest / (len(kept) - 2) / spread))
    tenth = max(1, len(kept) // 10)
    grown = int(memory[-tenth:].mean() - memory[:tenth].mean())
    return Slope(bytes_per_request=slope, error=error, requests=int(np.ptp(requests)), grown=grown)
