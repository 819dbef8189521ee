"""Latencies as HDR histograms: of many numbers, of several processes, and back from a report.

The one file that knows the library. Three significant digits, in microseconds, up to an hour. Its `record_value` is
plain Python and takes some microseconds, so equal values are counted by numpy before.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, cast

import numpy as np
from hdrh.histogram import HdrHistogram  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from penstock_bench.results import QUANTILES, Latency

_DIGITS = 3
_MOST = 3_600_000_000
_EXACT_BITS = 11  # values below 2^11 are exact with three digits; above, that many leading bits are


class _Histogram(Protocol):
    """The part of the library that is used; it has no annotations."""

    def record_value(self, value: int, count: int = 1) -> bool: ...
    def get_value_at_percentile(self, percentile: float) -> int: ...
    def add(self, other_hist: "_Histogram") -> None: ...
    def encode(self) -> bytes: ...


def _new() -> _Histogram:
    return cast("_Histogram", HdrHistogram(1, _MOST, _DIGITS))


def _decode(text: str) -> _Histogram:
    return cast("Callable[[str], _Histogram]", HdrHistogram.decode)(text)  # pyright: ignore[reportUnknownMemberType]


def latency_of(seconds: NDArray[np.float64]) -> Latency:
    """The distribution of these latencies; at least one. Count, mean, minimum and maximum are exact."""
    micros = np.clip(np.rint(seconds * 1e6), 1, _MOST).astype(np.int64)
    shift = np.maximum(0, np.frexp(micros)[1] - _EXACT_BITS)
    values, counts = np.unique((micros >> shift) << shift, return_counts=True)
    histogram = _new()
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    return _described(histogram, len(seconds), float(seconds.mean()), float(seconds.min()), float(seconds.max()))


def merged(parts: Iterable[Latency | None]) -> Latency | None:
    """One distribution of several; None if there is none."""
    found = [part for part in parts if part is not None]
    if len(found) < 2:
        return found[0] if found else None
    histogram = _new()
    for part in found:
        histogram.add(_decode(part.histogram))
    count = sum(part.count for part in found)
    mean = sum(part.mean * part.count for part in found) / count
    return _described(histogram, count, mean, min(p.minimum for p in found), max(p.maximum for p in found))


def quantiles(latency: Latency, wanted: Sequence[float]) -> list[float]:
    """Other quantiles, in seconds, out of the histogram that a Latency carries. Raises ValueError if there is none."""
    try:
        histogram = _decode(latency.histogram)
    except Exception as error:  # its own and those of base64, zlib and struct: the file was changed by somebody
        raise ValueError(f"this is no histogram: {error}") from None
    return [histogram.get_value_at_percentile(100 * each) / 1e6 for each in wanted]


def _described(histogram: _Histogram, count: int, mean: float, minimum: float, maximum: float) -> Latency:
    found = {f"{each:g}": histogram.get_value_at_percentile(100 * each) / 1e6 for each in QUANTILES}
    return Latency(
        count=count,
        mean=mean,
        minimum=minimum,
        maximum=maximum,
        # A bucket's value may lie a thousandth beyond what was measured.
        quantiles={name: min(max(value, minimum), maximum) for name, value in found.items()},
        histogram=histogram.encode().decode(),
    )
