"""The load generator: a plan in, a `results.Point` out.

    plan ─▶ run.run_load ─▶ worker processes, each: messages ─▶ channels ◀─▶ sockets ─▶ ledger ─▶ Point

`plan` is what is asked for. The pure parts are `arrivals` (when), `messages` (what), `headers` and `frames` (HTTP/2 as
bytes), `unary`, `streams` and `http1` (channels: bytes in, bytes out), `pacing` (who is next), `ledger` (what was
measured) and `answers` (what is checked). `engine` owns sockets and clock, `worker` is a process, `run` starts them.
"""

from penstock_bench.load.plan import (
    ClosedLoop,
    HttpTarget,
    LoadError,
    LoadPlan,
    MixItem,
    OpenLoop,
    Progress,
    Timeouts,
    TlsFiles,
)
from penstock_bench.load.run import run_load, run_repeatedly, sweep

__all__ = [
    "ClosedLoop",
    "HttpTarget",
    "LoadError",
    "LoadPlan",
    "MixItem",
    "OpenLoop",
    "Progress",
    "Timeouts",
    "TlsFiles",
    "run_load",
    "run_repeatedly",
    "sweep",
]
