"""The policies on the real server: goodput and latency over load, against the simulator, and the gap between batches.

    python bench/policies/measure.py                       three minutes; results to bench/results/policies
    python bench/policies/measure.py --seconds 20          longer runs, less noise
    python bench/policies/measure.py --results out         elsewhere

A model of known cost (known_cost.py) is served by `penstock serve` in a process of its own, once for each policy.

*Load*: requests of one row arrive by a Poisson process at multiples of the capacity, whatever became of those before
(open loop), each with a gRPC deadline. Latency counts from when a request should have been sent, so a generator that
is late does not flatter the server. All policies see the same arrivals. `penstock simulate` predicts the same runs.

*Gap*: one instance with batches of 4 ms, never without work (closed loop). The time between the end of one batch and
the beginning of the next, measured in the model, is what the server adds; it must be less than 5 % of a batch in the
best of four runs.

The load generator is simple, one asyncio client. It is good for some hundred requests a second, so the model's
capacity is chosen to be less than that.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

from penstock_client import NO_RETRIES, AsyncClient, Client, InferenceError

PENSTOCK = (sys.executable, "-c", "from penstock_server.cli.main import main; main()")
FOLDER = Path(__file__).parent
MODEL = "known_cost"
LOADS = (0.1, 0.9, 1.5)
PER_ROW_MS, PER_BATCH_MS, MAX_BATCH, DEADLINE_MS = 3.0, 12.0, 16, 150.0
FIXED_DELAY_MS = 10.0
GAP_MS, GAP_BATCH, GAP_ROWS, GAP_CALLS = 4.0, 8, 4, 8
GAP_BOUND, GAP_RUNS = 0.05, 4

ROW = np.zeros((1, 1), np.float32)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a model's config.pbtxt says of its scheduling."""

    name: str
    config: str


POLICIES = (
    Policy("eager", "dynamic_batching { }"),
    Policy("fixed", f"dynamic_batching {{ max_queue_delay_microseconds: {FIXED_DELAY_MS * 1e3:.0f} }}"),
    Policy("deadline", "dynamic_batching { }"),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One policy at one load. Parts are from 0 to 1, of all requests."""

    policy: str
    load: float
    requests: int
    in_time: float
    p50_ms: float | None
    """Of those that were answered, which with a gRPC deadline are those in time."""
    p90_ms: float | None
    p99_ms: float | None
    mean_batch_rows: float
    statuses: Mapping[str, int]
    """How the others ended."""
    late_sends_ms: float
    """How late the generator was at worst: its own noise."""
    simulated: Mapping[str, float | None]
    """What the simulator says: in_time, p50_ms, mean_batch_rows."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Between batches of a saturated instance. Milliseconds."""

    policy: str
    batches: int
    batch_ms: float
    """Measured: of the model's own time."""
    mean_ms: float
    p50_ms: float
    p99_ms: float
    part: float
    """The mean, of a batch."""
    parts: Sequence[float] = ()
    """Of all runs, of which this is the least disturbed."""


# ── a server of the model ─────────────────────────────────────────────────────────────────────────


def write_repository(folder: Path, policy: Policy, per_row_ms: float, per_batch_ms: float, max_batch: int) -> None:
    """A repository with the model, whose warm-up tells the scheduler what batches cost."""
    options = {"scheduling_policy": policy.name, "per_row_ms": per_row_ms, "per_batch_ms": per_batch_ms}
    parameters = "".join(f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}\n' for k, v in options.items())
    zeros = 'inputs { key: "X" value { data_type: TYPE_FP32 dims: [ 1 ] zero_data: true } }'
    sizes = [1, max_batch // 4, max_batch // 2, max_batch]
    warmups = "".join(f'model_warmup {{ name: "{n}" batch_size: {n} count: 5 {zeros} }}\n' for n in sizes)
    model = folder / MODEL
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_bytes((FOLDER / "known_cost.py").read_bytes())
    (model / "config.pbtxt").write_text(
        f'backend: "python"\nmax_batch_size: {max_batch}\n'
        'input [ { name: "X" data_type: TYPE_FP32 dims: [ 1 ] } ]\n'
        'output [ { name: "TIMES" data_type: TYPE_FP64 dims: [ 2 ] } ]\n'
        f"{policy.config}\n{parameters}{warmups}"
    )


@contextmanager
def serving(policy: Policy, per_row_ms: float, per_batch_ms: float, max_batch: int) -> Generator[str]:
    """A server of the model, as `host:port`."""
    with tempfile.TemporaryDirectory() as folder:
        write_repository(Path(folder), policy, per_row_ms, per_batch_ms, max_batch)
        command = [*PENSTOCK, "serve", folder, "--grpc-port", "0", "--no-metrics", "--log-format", "json"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            # A full pipe would block the server: what it logs later is read, too, and forgotten.
            rest = threading.Thread(target=deque, args=(process.stderr, 0))
            try:
                port = _port(process.stderr)
                rest.start()
                yield f"127.0.0.1:{port}"
            finally:
                process.terminate()
                if rest.ident is not None:
                    rest.join()


def _port(log: IO[str]) -> int:
    """The port, once the server is ready."""
    port, seen = 0, list[str]()
    for line in log:
        seen.append(line)
        record: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
        port = int(record.get("grpc_port", port))
        if record.get("ready"):
            return port
    raise SystemExit("the server did not start:\n" + "".join(seen))


# ── open loop ─────────────────────────────────────────────────────────────────────────────────────


def arrival_times(rate: float, seconds: float, seed: int) -> list[float]:
    rng = random.Random(seed)
    times, at = list[float](), rng.expovariate(rate)
    while at < seconds:
        times.append(at)
        at += rng.expovariate(rate)
    return times


@dataclass(slots=True)
class Offered:
    """What became of the requests of one run. Seconds."""

    latencies: list[float]
    """Of those that were answered."""
    statuses: dict[str, int]
    late: float = 0.0


async def offer(target: str, times: Sequence[float], deadline: float) -> Offered:
    """Send a request at each of these times."""
    offered = Offered([], {})
    async with AsyncClient(target, retries=NO_RETRIES) as client:
        await client.infer(MODEL, {"X": ROW})  # connects
        start = time.monotonic() + 0.1

        async def call(at: float) -> None:
            left = at + deadline - time.monotonic()
            try:
                await client.infer(MODEL, {"X": ROW}, timeout=max(left, 1e-3))
            except InferenceError as error:
                status = error.status.name  # and what it says, of one that is not expected here
                end = status if status == "DEADLINE_EXCEEDED" else f"{status}: {error.message}"
                offered.statuses[end] = offered.statuses.get(end, 0) + 1
            else:
                offered.latencies.append(time.monotonic() - at)

        async with asyncio.TaskGroup() as tasks:
            for at in times:
                wait = start + at - time.monotonic()
                if wait > 0:
                    await asyncio.sleep(wait)
                offered.late = max(offered.late, time.monotonic() - start - at)
                tasks.create_task(call(start + at))
    return offered


def measure_load(policy: Policy, load: float, rate: float, seconds: float, simulated: Mapping[str, Any]) -> Measured:
    """One policy at one load, on a fresh server: nothing is learned from the run before."""
    times = arrival_times(rate, seconds, seed=1)
    with serving(policy, PER_ROW_MS, PER_BATCH_MS, MAX_BATCH) as target:
        offered = asyncio.run(offer(target, times, DEADLINE_MS / 1e3))
        with Client(target) as client:
            (statistics,) = client.statistics(MODEL)
    in_time = [latency for latency in offered.latencies if latency <= DEADLINE_MS / 1e3]
    p50, p90, p99 = (
        (float(np.percentile(offered.latencies, percent)) * 1e3 if offered.latencies else None)
        for percent in (50, 90, 99)
    )
    return Measured(
        policy.name,
        load,
        len(times),
        len(in_time) / len(times),
        p50,
        p90,
        p99,
        statistics.inference_count / max(1, statistics.execution_count),
        offered.statuses,
        offered.late * 1e3,
        {name: simulated[name] for name in ("in_time", "p50_ms", "mean_batch_rows")},
    )


def simulate(seconds: float) -> dict[str, Any]:
    """What `penstock simulate` says of the same model, loads and deadline."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        options = {
            "--cost": f"{PER_ROW_MS},{PER_BATCH_MS}",
            "--deadline-ms": DEADLINE_MS,
            "--max-batch-size": MAX_BATCH,
            "--queue-delay-ms": FIXED_DELAY_MS,
            "--loads": ",".join(map(str, LOADS)),
            "--seconds": seconds,
            "--repeat": 10,
            "--json": file,
        }
        command = [*PENSTOCK, "simulate", *(str(part) for pair in options.items() for part in pair)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        report: dict[str, Any] = json.loads(file.read_text())
        return report


# ── closed loop ───────────────────────────────────────────────────────────────────────────────────


async def saturate(target: str, seconds: float) -> list[tuple[float, float]]:
    """Keep the instance busy. Begin and end of each batch, in order."""
    batches = set[tuple[float, float]]()
    rows = np.zeros((GAP_ROWS, 1), np.float32)
    async with AsyncClient(target, retries=NO_RETRIES) as client:
        end = time.monotonic() + seconds

        async def ask_on() -> None:
            while time.monotonic() < end:
                times = (await client.infer(MODEL, {"X": rows}))["TIMES"]
                batches.update((float(begin), float(over)) for begin, over in times)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(GAP_CALLS):
                tasks.create_task(ask_on())
    return sorted(batches)


def measure_gap(policy: Policy, seconds: float) -> Gap:
    """The best of several runs: whoever else uses the cores can only make a gap longer."""
    runs = [_measure_gap(policy, seconds / 2) for _ in range(GAP_RUNS)]
    return replace(min(runs, key=lambda run: run.part), parts=[run.part for run in runs])


def _measure_gap(policy: Policy, seconds: float) -> Gap:
    with serving(policy, 0.0, GAP_MS, GAP_BATCH) as target:
        batches = asyncio.run(saturate(target, seconds))
    batches = batches[len(batches) // 10 : -len(batches) // 10]  # steady: no start, no end
    gaps = np.array([begin - end for (_, end), (begin, _) in pairwise(batches)]) * 1e3
    batch = float(np.mean([end - begin for begin, end in batches])) * 1e3
    mean = float(gaps.mean())
    p50, p99 = (float(np.percentile(gaps, percent)) for percent in (50, 99))
    return Gap(policy.name, len(batches), batch, mean, p50, p99, mean / batch)


# ── the report ────────────────────────────────────────────────────────────────────────────────────


def markdown(results: Mapping[str, Any], measured: Sequence[Measured], gaps: Sequence[Gap]) -> str:
    machine, capacity = results["machine"], results["capacity"]
    lines = [
        "# Policies on the real server",
        "",
        f"Measured by [`bench/policies/measure.py`](../../policies/measure.py), {results['when']}, on "
        f"{machine['cpus']} cores ({machine['architecture']}), Python {machine['python']}. Load average before and "
        f"after: {machine['load_before']:.1f}, {machine['load_after']:.1f}; niceness {machine['nice']}; the generator "
        f"sent at most {max(one.late_sends_ms for one in measured):.0f} ms late. Server and generator share the cores.",
        "",
        f"The model: {PER_ROW_MS:g} ms a row + {PER_BATCH_MS:g} ms a batch, batches of up to {MAX_BATCH}, one "
        f"instance. Deadline {DEADLINE_MS:g} ms (gRPC). Capacity {capacity:.0f} rows/s. Poisson arrivals, "
        f"{results['seconds']:g} s a run. Policy `fixed` has a queue delay of {FIXED_DELAY_MS:g} ms. In brackets: what "
        "`penstock simulate` says of the same question, ten runs together.",
        "",
        "| load | policy | requests | in time | p50 ms | p90 ms | p99 ms | rows a batch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in sorted(measured, key=lambda one: one.load):
        said = one.simulated
        lines.append(
            f"| {one.load:g}x | `{one.policy}` | {one.requests} "
            f"| {one.in_time:.1%} ({_shown(said['in_time'], '.1%')}) | {_shown(one.p50_ms)} ({_shown(said['p50_ms'])}) "
            f"| {_shown(one.p90_ms)} | {_shown(one.p99_ms)} "
            f"| {one.mean_batch_rows:.1f} ({_shown(said['mean_batch_rows'])}) |"
        )
    lines += [
        "",
        "Latencies are those of answered requests: a gRPC deadline ends the others, also late ones that the simulator "
        "counts as answered.",
        "",
        "## The gap between batches",
        "",
        f"One instance, batches of {GAP_MS:g} ms, {GAP_CALLS} requests of {GAP_ROWS} rows always under way. From the "
        f"end of one batch in the model to the beginning of the next; the bound is {GAP_BOUND:.0%}. The least "
        f"disturbed of {GAP_RUNS} runs, since whoever else uses the cores can only make a gap longer; the last column "
        "has all.",
        "",
        "| policy | batches | batch ms | mean gap ms | p50 | p99 | of a batch | all runs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{gap.policy}` | {gap.batches} | {gap.batch_ms:.3f} | {gap.mean_ms:.3f} | {gap.p50_ms:.3f} "
        f"| {gap.p99_ms:.3f} | {gap.part:.1%} | {', '.join(f'{part:.1%}' for part in gap.parts)} |"
        for gap in gaps
    ]
    return "\n".join(lines) + "\n"


def _shown(value: float | None, form: str = ".1f") -> str:
    return "-" if value is None else format(value, form)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures the policies on the real server.")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    parser.add_argument("--results", type=Path, default=FOLDER.parent / "results" / "policies", metavar="FOLDER")
    options = parser.parse_args()
    seconds: float = options.seconds
    folder: Path = options.results
    load_before = os.getloadavg()[0]
    report = simulate(seconds)
    capacity = float(report["capacity"])
    measured: list[Measured] = []
    for load in LOADS:
        for policy in POLICIES:
            (said,) = [one for one in report["outcomes"] if (one["policy"], one["load"]) == (policy.name, load)]
            measured.append(measure_load(policy, load, load * capacity, seconds, said))
            print(f"{load:g}x {policy.name}: {measured[-1].in_time:.1%} in time, simulated {said['in_time']:.1%}")
    gaps: list[Gap] = []
    for policy in POLICIES:
        gaps.append(measure_gap(policy, seconds))
        print(f"gap {policy.name}: {gaps[-1].mean_ms:.3f} ms, {gaps[-1].part:.1%} of a batch")
    results = {
        "when": time.strftime("%Y-%m-%d"),
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
            "nice": os.nice(0),
            "load_before": load_before,
            "load_after": os.getloadavg()[0],
        },
        "seconds": seconds,
        "capacity": capacity,
        "measured": [asdict(one) for one in measured],
        "gaps": [asdict(gap) for gap in gaps],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (folder / "README.md").write_text(markdown(results, measured, gaps))
    return 0 if all(gap.part < GAP_BOUND for gap in gaps) else 1


if __name__ == "__main__":
    sys.exit(main())
