"""The opt-in breakdown of where a request's time went, as trailing metadata.

A client that sends the metadata key `penstock-timing` gets `server-timing` in the form that browsers know:

    queue;dur=1.204, assembly;dur=0.031, compute;dur=2.870, reply;dur=0.055, total;dur=4.160, batch;desc="8 idle"

Durations are milliseconds; `batch` has the rows of the batch and why it was started.
Source: https://www.w3.org/TR/server-timing/
"""

from penstock_server.engine.jobs import Job
from penstock_server.errors import Trailers

TIMING_KEY = "penstock-timing"


def server_timing(job: Job, now: float) -> Trailers:
    """The trailer for a request that is answered now."""
    total = f"total;dur={_ms(now - job.arrived)}"
    times = job.times
    if times is None:  # it was never run
        return (("server-timing", total),)
    parts = (
        f"queue;dur={_ms(times.assembly - job.arrived)}",
        f"assembly;dur={_ms(times.infer - times.assembly)}",
        f"compute;dur={_ms(times.output - times.infer)}",
        f"reply;dur={_ms(now - times.output)}",
        total,
        f'batch;desc="{times.rows} {times.reason.name.lower()}"',
    )
    return (("server-timing", ", ".join(parts)),)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3f}"
