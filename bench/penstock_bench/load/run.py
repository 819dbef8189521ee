"""Performs plans: starts the processes, watches the server, merges what they measured."""

from collections.abc import Callable, Sequence

from penstock_bench.load.plan import LoadPlan, Progress
from penstock_bench.results import Point, Series


def run_load(
    plan: LoadPlan, *, watch: Sequence[int] = (), on_progress: Callable[[Progress], None] | None = None
) -> Point:
    """Perform a load. Ctrl-C and a server that dies in the middle make a Point that is `partial`.

    `watch` are process ids: their CPU, with that of their children, makes `server_cpu`. Raises LoadError if there is
    nothing to measure.
    """
    raise NotImplementedError


def run_repeatedly(
    plan: LoadPlan,
    repetitions: int,
    *,
    watch: Sequence[int] = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> Point:
    """The median of several runs, by throughput, with their spread."""
    raise NotImplementedError


def sweep(
    plan: LoadPlan,
    server: str,
    *,
    loads: Sequence[float] | None = None,
    watch: Sequence[int] = (),
    on_progress: Callable[[Progress], None] | None = None,
    on_point: Callable[[Point], None] | None = None,
) -> Series:
    """The plan at several loads, to saturation: rates if it is an open loop, concurrencies if it is a closed one.

    Without `loads`: concurrencies double until throughput does not grow any more; rates are parts of what a closed
    loop found to be the capacity. A load that fails ends the series, which then says why.
    """
    raise NotImplementedError
