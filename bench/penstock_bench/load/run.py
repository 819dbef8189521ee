"""Performs plans: asks the server what it needs to know, starts the processes, watches the CPU, merges the results."""

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec
import psutil

from penstock_bench.load.arrivals import read_trace
from penstock_bench.load.histograms import merged
from penstock_bench.load.ledger import Measured
from penstock_bench.load.messages import Signature, inputs_of
from penstock_bench.load.plan import ClosedLoop, LoadError, LoadPlan, OpenLoop, Progress, check_plan, describe
from penstock_bench.load.target import Counts, Target
from penstock_bench.load.worker import Answered, Done, Failed, Order, Ready, Word
from penstock_bench.metrics import Metrics, hit_rates, read_metrics
from penstock_bench.results import Point, Series

OnProgress = Callable[[Progress], None]

_LEAD = 0.1
"""Seconds from the word to the beginning, so that all processes begin together."""
_PREPARE_SECONDS = 120.0
_LIMIT_CPU = 0.9
_NOISE = 0.15
_GROWTH = 1.05
"""A sweep of concurrencies ends after throughput has grown by less than this twice."""
_PARTS = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.1)
"""Of the capacity: the rates of a sweep."""
_MOST_CONCURRENCY = 1024


def run_load(
    plan: LoadPlan, *, watch: Sequence[int] = (), on_progress: OnProgress | None = None, metrics: str = ""
) -> Point:
    """Perform a load. Ctrl-C and a server that dies in the middle make a Point that is `partial`.

    `watch` are process ids: their CPU, with that of their children, makes `server_cpu`. `metrics` is where a Penstock
    tells its metrics, which make `hit_rates`. Raises LoadError if there is nothing to measure.
    """
    check_plan(plan)
    if isinstance(plan.load, OpenLoop) and plan.load.trace is not None:
        read_trace(Path(plan.load.trace))  # before anything is started
    with ExitStack() as stack:
        target, remarks = None, list[str]()
        signatures: Sequence[Signature] = ()
        answers: Sequence[Sequence[bytes]] = ()
        if plan.http is None:
            target = stack.enter_context(Target(plan))
            signatures = target.signatures()
            for number, (item, signature) in enumerate(zip(plan.mix, signatures, strict=True)):
                next(inputs_of(item, number, signature, plan.seed))  # complains here of what does not fit
            if plan.sequences is None:
                answers, remarks = target.answers(signatures)
            else:  # the answer to a step is none that could be asked for by itself
                answers = [() for _ in plan.mix]
        orders = [
            Order(plan=plan, number=number, signatures=signatures, answers=answers) for number in range(plan.processes)
        ]
        crew = stack.enter_context(_crew(orders))
        return _point(plan, _perform(plan, crew, target, watch, on_progress, metrics), remarks)


def run_repeatedly(
    plan: LoadPlan, repetitions: int, *, watch: Sequence[int] = (), on_progress: OnProgress | None = None
) -> Point:
    """The median of several runs, by throughput, with their spread. Each has a seed of its own."""
    points: list[Point] = []
    for number in range(repetitions):
        again = msgspec.structs.replace(plan, seed=plan.seed + number)
        points.append(run_load(again, watch=watch, on_progress=on_progress))
        if points[-1].partial:
            break
    if len(points) == 1:
        return points[0]
    return median_of(points)


def median_of(points: Sequence[Point]) -> Point:
    """The one in the middle by throughput (of an even number the lower one), with what is to be said of all."""
    ordered = sorted(points, key=lambda point: point.throughput)
    middle = ordered[(len(ordered) - 1) // 2]
    centre = median(point.throughput for point in points)
    spread = (ordered[-1].throughput - ordered[0].throughput) / centre if centre else 0.0
    warnings = list(dict.fromkeys(warning for point in points for warning in point.warnings))
    if spread > _NOISE:
        warnings.append(f"noisy: throughput differs by {spread:.0%} between repetitions")
    return msgspec.structs.replace(
        middle,
        spread=spread,
        repetitions=len(points),
        warnings=warnings,
        partial=any(point.partial for point in points),
    )


def sweep(
    plan: LoadPlan,
    server: str,
    *,
    loads: Sequence[float] | None = None,
    repetitions: int = 1,
    watch: Sequence[int] = (),
    on_progress: OnProgress | None = None,
    on_point: Callable[[Point], None] | None = None,
) -> Series:
    """The plan at several loads, to saturation: rates if it is an open loop, concurrencies if it is a closed one.

    Without `loads`: concurrencies double until throughput does not grow any more; rates are parts of what a closed
    loop found to be the capacity. A load that fails ends the series, which then says why.
    """
    points: list[Point] = []
    failure = ""
    try:
        for each in _plans(plan, loads, points, watch):
            points.append(run_repeatedly(each, repetitions, watch=watch, on_progress=on_progress))
            if on_point is not None:
                on_point(points[-1])
            if points[-1].partial:
                break
    except LoadError as error:
        failure = str(error)
    return series_of(plan, server, points, failure=failure, swept=True)


def series_of(
    plan: LoadPlan, server: str, points: Sequence[Point], *, failure: str = "", swept: bool = False
) -> Series:
    """The points with what they are of."""
    models = " + ".join(dict.fromkeys(item.model for item in plan.mix))
    load = describe(plan)
    if swept:
        kind = "closed loop" if isinstance(plan.load, ClosedLoop) else f"open loop, {plan.load.arrivals}"
        load = f"{kind}, swept, {plan.connections} connections"
    return Series(
        server=server,
        protocol="gRPC" if plan.http is None else "HTTP/1.1",
        model=models or "unknown",
        load=load,
        points=points,
        failure=failure,
    )


def _plans(
    plan: LoadPlan, loads: Sequence[float] | None, points: Sequence[Point], watch: Sequence[int]
) -> Iterator[LoadPlan]:
    """The plans of a sweep; which comes next depends on the points so far."""
    match plan.load:
        case ClosedLoop():
            for concurrency in map(int, loads) if loads else _concurrencies(points):
                ways = min(plan.connections, concurrency)
                processes = min(plan.processes, ways)
                yield msgspec.structs.replace(
                    plan, load=ClosedLoop(concurrency=concurrency), connections=ways, processes=processes
                )
        case OpenLoop():
            for rate in loads or _rates(plan, watch):
                yield msgspec.structs.replace(plan, load=msgspec.structs.replace(plan.load, rate=rate))


def _concurrencies(points: Sequence[Point]) -> Iterator[int]:
    concurrency = 1
    while concurrency <= _MOST_CONCURRENCY:
        yield concurrency
        if len(points) >= 3 and points[-1].throughput < _GROWTH**2 * points[-3].throughput:
            return
        concurrency *= 2


def _rates(plan: LoadPlan, watch: Sequence[int]) -> Sequence[float]:
    concurrency = max(64, 16 * plan.connections)
    found = run_load(msgspec.structs.replace(plan, load=ClosedLoop(concurrency=concurrency)), watch=watch)
    if found.partial or not found.throughput:
        raise LoadError("the server's capacity cannot be found: " + ("; ".join(found.warnings) or "no answers"))
    return [max(1.0, float(f"{part * found.throughput:.3g}")) for part in _PARTS]


# ── the processes ─────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Worker:
    process: "subprocess.Popen[bytes]"
    number: int
    ready: bool = False
    answered: Answered = Answered(0, 0)  # noqa: RUF009 - frozen
    done: Measured | None = None
    rest: bytes = b""

    def say(self, words: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(words)
            self.process.stdin.flush()
        except OSError:  # it has ended; reading its output tells
            pass

    def hear(self) -> None:
        """Take what it says. Raises LoadError if it gives up."""
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), 1 << 20)
        if not data:
            if self.done is None:
                raise LoadError(f"a process of the generator ended with status {self.process.wait()}")
            return
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            word: Word = msgspec.json.decode(line, type=Word)
            match word:
                case Ready():
                    self.ready = True
                case Answered() as answered:
                    self.answered = answered
                case Done(measured):
                    self.done = measured
                case Failed(sentence):
                    raise LoadError(sentence)


class _Crew:
    """The worker processes of a run."""

    def __init__(self, workers: Sequence[_Worker]) -> None:
        self.workers = workers
        self._selector = selectors.DefaultSelector()
        for worker in workers:
            assert worker.process.stdout is not None
            self._selector.register(worker.process.stdout, selectors.EVENT_READ, worker)

    def tell(self, words: str) -> None:
        for worker in self.workers:
            worker.say(words.encode())

    def listen(self, until: float) -> None:
        """Take what they say until this moment, or until something has been said."""
        for key, _ in self._selector.select(max(0.0, until - time.monotonic())):
            worker: _Worker = key.data
            worker.hear()
            if worker.done is not None:
                self._selector.unregister(key.fileobj)

    @property
    def ready(self) -> bool:
        return all(worker.ready for worker in self.workers)

    @property
    def done(self) -> bool:
        return all(worker.done is not None for worker in self.workers)

    def end(self) -> None:
        """No process is left behind."""
        self._selector.close()
        for worker in self.workers:
            worker.process.kill()
            worker.process.wait()
            for pipe in (worker.process.stdin, worker.process.stdout):
                try:
                    if pipe is not None:
                        pipe.close()
                except OSError:
                    pass


@contextmanager
def _crew(orders: Sequence[Order]) -> Generator[_Crew]:
    """The processes, each with its order."""
    # The same packages as here, however they were found.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    workers: list[_Worker] = []
    try:
        for order in orders:
            process = subprocess.Popen(
                [sys.executable, "-c", "from penstock_bench.load.worker import main; main()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
            workers.append(_Worker(process, order.number))
        crew = _Crew(workers)
        for worker, order in zip(workers, orders, strict=True):
            text = msgspec.msgpack.encode(order)
            worker.say(b"%d\n" % len(text) + text)
        until = time.monotonic() + _PREPARE_SECONDS
        while not crew.ready:
            if time.monotonic() > until:
                raise LoadError("the generator could not prepare its requests in two minutes: plan fewer variants")
            crew.listen(until)
        yield crew
    finally:
        _Crew(workers).end()


@dataclass(frozen=True, slots=True)
class _Raw:
    """What a run has found, before it is a Point."""

    parts: Sequence[Measured]
    counts: Counts | None
    server_cpu: float | None
    """CPU seconds a second."""
    hit_rates: dict[str, float]


def _perform(
    plan: LoadPlan,
    crew: _Crew,
    target: Target | None,
    watch: Sequence[int],
    on_progress: OnProgress | None,
    metrics: str,
) -> _Raw:
    start = time.monotonic() + _LEAD
    begin, end = start + plan.warmup, start + plan.warmup + plan.seconds
    crew.tell(f"go {start!r}\n")
    counts: list[Counts | None] = []
    cpus: list[tuple[float, float]] = []
    told: list[Metrics | None] = []

    def look() -> None:
        cpus.append((time.monotonic(), cpu_of(watch)))
        counts.append(None if target is None else target.counts())
        told.append(read_metrics(metrics) if metrics else None)

    stopping = False
    while not crew.done:
        try:
            now = time.monotonic()
            if (now >= begin and not cpus) or (now >= end and len(cpus) == 1):
                look()
            if on_progress is not None:
                good = sum(worker.answered.good for worker in crew.workers)
                failed = sum(worker.answered.failed for worker in crew.workers)
                on_progress(Progress(max(0.0, now - start), plan.warmup + plan.seconds, good, failed))
            # Nobody else may use the time just before the measurement begins or ends.
            crew.listen(min(moment for moment in (begin, end, now + 0.25) if moment > now))
        except KeyboardInterrupt:
            if stopping:
                raise
            stopping = True
            crew.tell("stop\n")
    if len(cpus) == 1:  # it ended early
        look()
    cpu = (cpus[1][1] - cpus[0][1]) / (cpus[1][0] - cpus[0][0]) if len(cpus) == 2 else 0.0
    before, after = counts if len(counts) == 2 else (None, None)
    first, last = told if len(told) == 2 else (None, None)
    return _Raw(
        [worker.done for worker in crew.workers if worker.done is not None],
        after.since(before) if before is not None and after is not None else None,
        cpu if watch and cpu > 0 else None,
        hit_rates(first, last) if first is not None and last is not None else {},
    )


def cpu_of(pids: Sequence[int]) -> float:
    """CPU seconds that these processes and their children have used. What has ended counts as nothing."""
    total = 0.0
    for pid in pids:
        try:
            parent = psutil.Process(pid)
            for process in (parent, *parent.children(recursive=True)):
                times = process.cpu_times()
                total += times.user + times.system
        except psutil.Error:
            pass
    return total


# ── the result ────────────────────────────────────────────────────────────────────────────────────


def _point(plan: LoadPlan, raw: _Raw, remarks: Sequence[str]) -> Point:
    parts = raw.parts
    windows = [sum(each) for each in zip(*(part.windows for part in parts), strict=True)]
    duration = max(part.duration for part in parts)
    throughput = sum(windows) / duration
    failed: dict[str, int] = {}
    for part in parts:
        for status, count in part.failed.items():
            failed[status] = failed.get(status, 0) + count
    classes = dict.fromkeys(name for part in parts for name in part.by_class)
    latency = merged(part.latency for part in parts)
    by_class = {name: merged(part.by_class.get(name) for part in parts) for name in classes}
    trouble = next((part.trouble for part in parts if part.trouble), "")
    closed = isinstance(plan.load, ClosedLoop)
    per_answer = raw.server_cpu / throughput if raw.server_cpu is not None and throughput else None
    return Point(
        offered=None if closed else sum(part.sent for part in parts) / duration,
        connections=plan.sockets,
        concurrency=plan.most_in_flight,
        duration=duration,
        sent=sum(part.sent for part in parts),
        ok=latency.count if latency is not None else 0,
        failed=failed,
        wrong=sum(part.wrong for part in parts),
        checked=sum(part.checked for part in parts),
        unanswered=sum(part.unanswered for part in parts),
        in_time=sum(part.in_time for part in parts) if plan.slo is not None else None,
        latency=latency,
        by_class={name: each for name, each in by_class.items() if each is not None},
        throughput=throughput,
        generator_cpu=max(part.cpu for part in parts),
        server_cpu=per_answer,
        batch_rows=raw.counts.batch_rows if raw.counts is not None else None,
        queue_time=raw.counts.queue_time if raw.counts is not None else None,
        hit_rates=raw.hit_rates,
        warnings=[*([trouble] if trouble else []), *remarks, *_warnings(plan, parts, windows, failed)],
        partial=bool(trouble),
    )


def _warnings(
    plan: LoadPlan, parts: Sequence[Measured], windows: Sequence[int], failed: dict[str, int]
) -> Iterator[str]:
    """What a reader must know to believe these numbers, or not to."""
    examples = {status: words for part in reversed(parts) for status, words in part.examples.items()}
    for status, count in sorted(failed.items(), key=lambda each: -each[1]):
        words = examples.get(status, "")
        yield f"{count} requests failed with {status}{f', such as: {words}' if words else ''}"
    if wrong := sum(part.wrong for part in parts):
        yield f"{wrong} answers were wrong, such as: {examples.get('wrong', '')}"
    if unanswered := sum(part.unanswered for part in parts):
        yield f"{unanswered} requests had no answer when the run ended, and are not in the latencies"
    yield from dict.fromkeys(part.remark for part in parts if part.remark)
    busiest = max(part.cpu for part in parts)
    if busiest > _LIMIT_CPU:
        yield f"the generator was the limit: a process of it used {busiest:.0%} of a core; give it more processes"
    late = max(part.late for part in parts)
    if late > 1e-3:
        yield f"the generator sent {late * 1e3:.1f} ms late on average, which is in the latencies"
    if isinstance(plan.load, ClosedLoop) and not any(part.trouble for part in parts):
        spread = unevenness(windows)
        if spread > _NOISE:
            yield f"noisy: throughput differs by {spread:.0%} between parts of the run"


def unevenness(windows: Sequence[int]) -> float:
    """How much the parts of a run differ, besides what chance alone makes of so few answers.

    (largest - smallest) / median, less the range of ten Poisson numbers, which is 3.1 standard deviations.
    """
    centre = median(windows)
    if centre <= 0:
        return 0.0
    return max(0.0, (max(windows) - min(windows)) / centre - float(3.1 / centre**0.5))
