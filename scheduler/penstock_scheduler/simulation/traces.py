"""Arrivals to replay: recorded ones, or made with a seed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, pi, sin
from random import Random

from penstock_scheduler.values import TrafficClass


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that comes in `at` seconds after the start."""

    at: float
    rows: int = 1
    patience: float = inf
    """Seconds until its deadline; infinity is none."""
    traffic: TrafficClass = TrafficClass.INTERACTIVE
    level: int = 0
    tenant: str = ""
    timeout: float = 0.0
    """The V2 parameter in seconds, 0 for none: see `Ticket`."""


def poisson(rate: float, count: int, *, seed: int, patience: float = inf) -> list[Arrival]:
    """Arrivals that know nothing of each other, `rate` a second on average."""
    return bursty(rate, count, variation=1.0, seed=seed, patience=patience)


def bursty(rate: float, count: int, *, variation: float, seed: int, patience: float = inf) -> list[Arrival]:
    """Arrivals with gamma-distributed gaps of this coefficient of variation: 1 is Poisson, 3 comes in bursts."""
    rng = Random(seed)
    shape = 1 / variation**2
    gaps = (rng.gammavariate(shape, 1 / (shape * rate)) for _ in range(count))
    return [Arrival(at, patience=patience) for at in _sums(gaps)]


def diurnal(low: float, high: float, period: float, count: int, *, seed: int, patience: float = inf) -> list[Arrival]:
    """Arrivals whose rate swings from `low` to `high` a second and back in each `period` of seconds."""
    rng = Random(seed)
    at, arrivals = 0.0, list[Arrival]()
    while len(arrivals) < count:
        at += rng.expovariate(high)
        rate = low + (high - low) * (1 - _cos(at / period)) / 2
        if rng.random() * high < rate:  # thinning: of arrivals at the highest rate, as many as the rate of now says
            arrivals.append(Arrival(at, patience=patience))
    return arrivals


def recorded(times: Sequence[float], *, patience: float = inf) -> list[Arrival]:
    """Arrivals at recorded times, in any order; the first is at 0."""
    ordered = sorted(times)
    return [Arrival(at - ordered[0], patience=patience) for at in ordered]


def _sums(gaps: Iterable[float]) -> Iterator[float]:
    at = 0.0
    for gap in gaps:
        at += gap
        yield at


def _cos(turns: float) -> float:
    return sin(2 * pi * turns + pi / 2)
