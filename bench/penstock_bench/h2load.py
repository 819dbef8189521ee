"""The same load by `h2load`, of nghttp2: a neutral check of our own generator.

It is another's program and fast, and it does less: one request over and over, closed loops only, and gRPC's status is
none of its business. So the reference client asks the request before, and a remark says the rest.
"""

import re
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock_bench.load.histograms import latency_of
from penstock_bench.load.messages import inputs_of, message
from penstock_bench.load.plan import ClosedLoop, LoadError, LoadPlan, check_plan
from penstock_bench.load.run import cpu_of
from penstock_bench.load.target import Counts, Target
from penstock_bench.results import Latency, Point

REMARK = "h2load repeats one request, and does not look at gRPC's status"
_PATH = "/inference.GRPCInferenceService/ModelInfer"
_SPARE = 30.0
_LIMIT_CPU = 0.9
_COUNTS = re.compile(r"requests: \d+ total, (\d+) started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored")
_RATE = re.compile(r"finished in [\d.]+\w*, ([\d.]+) req/s")


def run_h2load(plan: LoadPlan, *, watch: Sequence[int] = ()) -> Point:
    """Perform a closed loop of one model with h2load. Raises LoadError."""
    check_plan(plan)
    program = shutil.which("h2load")
    if program is None:
        raise LoadError("h2load is not installed: on Debian and Ubuntu it is in the package nghttp2-client")
    if not isinstance(plan.load, ClosedLoop) or len(plan.mix) != 1 or plan.stream or plan.http is not None:
        raise LoadError("h2load performs closed loops of unary calls for one model")
    with Target(plan) as target, tempfile.TemporaryDirectory(prefix="penstock-h2load-") as folder:
        signatures = target.signatures()
        target.answers(signatures)
        body, log = Path(folder, "request"), Path(folder, "log")
        lead, rest = message(plan.mix[0], next(inputs_of(plan.mix[0], 0, signatures[0], plan.seed)))
        body.write_bytes(lead + b"0000000000" + rest)
        before = target.counts()
        own, cpu, started = _own_cpu(), cpu_of(watch), time.monotonic()
        text = _run([program, *arguments(plan, body, log)], plan)
        taken = time.monotonic() - started
        after = target.counts()
        counts = after.since(before) if before is not None and after is not None else None
        served = (cpu_of(watch) - cpu) / taken
        point = parse(text, plan, latencies_of(log))
    return _with(point, counts, (_own_cpu() - own) / taken / plan.processes, served if watch and served > 0 else None)


def arguments(plan: LoadPlan, body: Path, log: Path) -> list[str]:
    """What h2load is told."""
    assert isinstance(plan.load, ClosedLoop)
    each = plan.load.concurrency // plan.connections
    scheme = "http" if plan.tls is None else "https"
    metadata = [part for name, value in plan.mix[0].metadata.items() for part in ("-H", f"{name}: {value}")]
    # 30 bits of window: it shall not be what is measured.
    windows = ["-w", "30", "-W", "30"]
    times = ["-D", f"{max(1, round(plan.seconds))}", f"--warm-up-time={max(1, round(plan.warmup))}"]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers", *metadata]
    load = ["-c", f"{plan.connections}", "-m", f"{each}", "-t", f"{plan.processes}"]
    return [*load, *times, *windows, *headers, f"--log-file={log}", "-d", str(body), f"{scheme}://{plan.target}{_PATH}"]


def parse(text: str, plan: LoadPlan, latency: Latency | None) -> Point:
    """A Point out of what h2load prints. Raises LoadError if it says nothing of requests."""
    counts, rate = _COUNTS.search(text), _RATE.search(text)
    if counts is None or rate is None or not int(counts[1]):
        raise LoadError(f"h2load got nothing done: {_last_line(text)}")
    started, succeeded, failed, errored = (int(each) for each in counts.groups())
    failures = {"HTTP": failed - errored, "CONNECTION": errored}
    assert isinstance(plan.load, ClosedLoop)
    return Point(
        connections=plan.connections,
        concurrency=plan.load.concurrency // plan.connections * plan.connections,
        duration=float(max(1, round(plan.seconds))),
        sent=started,
        ok=succeeded,
        failed={name: count for name, count in failures.items() if count > 0},
        latency=latency,
        throughput=float(rate[1]),
        generator_cpu=0.0,
        warnings=[REMARK],
        partial=not succeeded,
    )


def latencies_of(log: Path) -> Latency | None:
    """The distribution out of h2load's log: start, HTTP status, microseconds, a line for each request."""
    try:
        text = log.read_bytes()
        lines: NDArray[np.float64] = np.array(text.split(), np.float64).reshape(-1, 3)
    except (OSError, ValueError):  # none was made, or it was cut off
        return None
    good = lines[lines[:, 1] == 200, 2] if lines.size else np.empty(0)
    return latency_of(good / 1e6) if good.size else None


def _run(command: Sequence[str], plan: LoadPlan) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=plan.seconds + plan.warmup + _SPARE, check=False
        )
    except subprocess.TimeoutExpired:
        raise LoadError("h2load did not end in time") from None
    except OSError as error:
        raise LoadError(f"h2load cannot be started: {error.strerror or error}") from None
    if done.returncode:
        raise LoadError(f"h2load ended with status {done.returncode}: {_last_line(done.stderr or done.stdout)}")
    return done.stdout


def _with(point: Point, counts: Counts | None, own: float, served: float | None) -> Point:
    warnings = list(point.warnings)
    if own > _LIMIT_CPU:
        warnings.append(f"h2load used {own:.0%} of a core")
    return msgspec.structs.replace(
        point,
        generator_cpu=own,
        server_cpu=served / point.throughput if served is not None and point.throughput else None,
        batch_rows=counts.batch_rows if counts is not None else None,
        queue_time=counts.queue_time if counts is not None else None,
        warnings=warnings,
    )


def _own_cpu() -> float:
    """CPU seconds of the children that have ended: of h2load."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
