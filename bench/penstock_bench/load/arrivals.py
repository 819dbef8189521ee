"""When the requests of an open loop are due. Pure: the same arguments give the same moments."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock_bench.load.plan import LoadError, OpenLoop

Moments = NDArray[np.float64]
BURST = 10
"""Requests of one burst."""


class TracedRequest(msgspec.Struct, frozen=True):
    """One line of a trace as `penstock serve --record-trace` writes it; what else is in it does not matter here."""

    at: Annotated[float, msgspec.Meta(ge=0)]
    """Seconds since the recording began."""
    model: str = ""
    rows: Annotated[int, msgspec.Meta(ge=1)] = 1


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Moments in seconds from the beginning, ascending, and of a recorded trace whose requests they were."""

    moments: Moments
    requests: Sequence[TracedRequest] = ()
    """One for each moment, or none."""

    def part(self, number: int, of: int) -> "Schedule":
        """The share of one of several processes: together they send exactly this schedule."""
        return Schedule(self.moments[number::of], self.requests[number::of])


def schedule(loop: OpenLoop, seconds: float, seed: int) -> Schedule:
    """The arrivals of this many seconds. LoadError for a trace that cannot be read."""
    match loop.arrivals:
        case "poisson":
            return Schedule(poisson(loop.rate, seconds, seed))
        case "constant":
            return Schedule(np.arange(round(loop.rate * seconds)) / loop.rate)
        case "bursts":
            return Schedule(np.repeat(poisson(loop.rate / BURST, seconds, seed), BURST))
        case "trace":
            return replayed(read_trace(Path(loop.trace or "")), loop.rate, seconds)


def poisson(rate: float, seconds: float, seed: int) -> Moments:
    """Given their number, the moments of a Poisson process are uniform: drawn at once and sorted."""
    random = np.random.default_rng(seed)
    return np.sort(random.uniform(0.0, seconds, random.poisson(rate * seconds)))


def replayed(trace: Sequence[TracedRequest], rate: float, seconds: float) -> Schedule:
    """A trace as recorded, or at another mean rate (0: as recorded); again from its beginning where it is too short.

    LoadError if it has no rate, since all its requests came at once.
    """
    recorded = np.array([one.at for one in trace])
    recorded -= recorded[0]
    if recorded[-1] <= 0:
        raise LoadError("all requests of the trace came at one moment, so there is no rate to replay it at")
    # As if the next request after the last one came after a mean gap.
    length = float(recorded[-1]) * len(recorded) / (len(recorded) - 1)
    faster = rate * length / len(recorded) if rate else 1.0
    recorded, length = recorded / faster, length / faster
    times = int(seconds // length) + 1
    moments = (recorded + np.arange(times)[:, None] * length).ravel()
    wanted = int(np.searchsorted(moments, seconds))
    return Schedule(moments[:wanted], (list(trace) * times)[:wanted])


def read_trace(path: Path) -> list[TracedRequest]:
    """A file of arrivals, one a line: a number of seconds, or a JSON object with `at`. In order of time.

    Raises LoadError.
    """
    try:
        with path.open("rb") as file:
            found = sorted(_parse(file, path), key=lambda one: one.at)
    except OSError as error:
        raise LoadError(f"cannot read {path}: {error.strerror or error}") from None
    if not found:
        raise LoadError(f"{path}: there is no request in this trace")
    return found


def _parse(lines: Iterator[bytes], path: Path) -> Iterator[TracedRequest]:
    decoder = msgspec.json.Decoder(TracedRequest | Annotated[float, msgspec.Meta(ge=0)])
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        try:
            one = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise LoadError(f"{path}, line {number}: {error}") from None
        yield one if isinstance(one, TracedRequest) else TracedRequest(float(one))
