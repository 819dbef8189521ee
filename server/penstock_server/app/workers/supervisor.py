"""The process that starts workers, replaces them, speaks for all of them, and ends them.

    operator ──SIGTERM──▶ ┌────────────┐ ──Spawn, Drain, Kill──▶ workers
    SIGCHLD ────────────▶ │ supervisor │ ◀──Started, Refused──── over their links
    Prometheus, probes ─▶ └────────────┘ ──Ask────▶ ◀──Report───

What to do is decided by `Supervision`; here it is done. That a worker has ended is known by SIGCHLD, and is acted upon
when all that it had sent was read, so that its last words and numbers count.

Reports are asked for at each scrape and probe, and every few seconds besides: a worker that is killed takes with it
what it had counted since its last one.
"""

import asyncio
import logging
import signal
import subprocess
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from socket import socketpair

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock_server.app.announce import announce
from penstock_server.app.workers.crew import Worker
from penstock_server.app.workers.link import FromWorker, Refused, Started
from penstock_server.app.workers.plans import STOP_SIGNALS, Plan, Post, command
from penstock_server.app.workers.port import hold_port, port_of
from penstock_server.app.workers.supervision import (
    AllServing,
    Drain,
    Effect,
    Finish,
    Kill,
    Patience,
    Replace,
    Spawn,
    Supervision,
)
from penstock_server.metrics.http import MetricsServer
from penstock_server.metrics.merge import Family, Totals, dump

_log = logging.getLogger(__name__)

WORKER = "penstock_server.app.workers.worker"

_ANSWER_SECONDS = 1.5
"""For a worker's report. One that takes longer does not respond."""
_REPORT_SECONDS = 5.0
"""Between reports that nobody but the supervisor wants."""
_LAST_WORDS_SECONDS = 0.5
"""For what an ended worker has sent to be read. It lies in the socket, unless a child of the worker holds that open."""
_OVERTIME_SECONDS = 12.0
"""After the drain's own bound: a worker ends itself the hard way 10 s after it."""


class Supervisor:
    """All workers of a server, from `run` to its exit status."""

    def __init__(self, plan: Plan, module: str = WORKER, patience: Patience | None = None) -> None:
        self._plan = plan
        self._module = module
        self._core = Supervision(plan.workers, plan.drain_seconds + _OVERTIME_SECONDS, patience)
        self._crew: dict[int, Worker] = {}
        self._burials: dict[int, asyncio.Task[None]] = {}  # of workers whose processes are gone
        self._totals = Totals()
        self._metrics: MetricsServer | None = None
        self._port = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._finish: asyncio.Future[Finish] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<Supervisor on port {self._port}: {self._core!r}>"

    async def run(self) -> Finish:
        """Serve until a signal or a reason to end comes. Raises BindError."""
        loop = asyncio.get_running_loop()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Merged(self))
        if self._plan.metrics_port is not None:
            # First of all: probes see a server that is live and not ready while workers start.
            self._metrics = MetricsServer(registry, self, self._plan.host, self._plan.metrics_port, self._refresh)
        try:
            with hold_port(self._plan.host, self._plan.port) as held:
                self._port = port_of(held)
                loop.add_signal_handler(signal.SIGCHLD, self._reap)
                for number in STOP_SIGNALS:
                    loop.add_signal_handler(number, self._on_signal, number)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
                self._perform(self._core.start())
                reports = asyncio.create_task(self._ask_for_ever())
                try:
                    return await self._finish
                finally:
                    reports.cancel()
        finally:
            if self._metrics is not None:
                await self._metrics.close()

    @property
    def metrics_port(self) -> int:
        """0: none, or not yet."""
        return 0 if self._metrics is None else self._metrics.port

    # ── health and metrics of all ─────────────────────────────────────────────────────────────────

    @property
    def live(self) -> bool:
        """Whether every worker that serves responds."""
        return not self._core.stopping and not any(worker.silent for worker in self._crew.values())

    @property
    def ready(self) -> bool:
        """Whether there are as many workers as there should be, and each serves all that it should."""
        return self._core.all_serving and all(
            worker.report is not None and worker.report.ready and not worker.silent for worker in self._crew.values()
        )

    def collect(self) -> Iterable[Metric]:
        """The metrics of all workers, by their last reports, and the supervisor's own."""
        reports = [worker.report.families for worker in self._crew.values() if worker.report is not None]
        return self._totals.merged([self._own_families(), *reports])

    def _own_families(self) -> tuple[Family, ...]:
        return dump(
            (
                GaugeMetricFamily("penstock_server_ready", "1 if the server is ready", value=self.ready),
                GaugeMetricFamily("penstock_workers", "Workers that serve now", value=self._core.serving),
                CounterMetricFamily(
                    "penstock_workers_replaced", "Workers that ended and were replaced", value=self._core.replaced
                ),
            )
        )

    async def _refresh(self) -> None:
        """Ask all workers that serve how they are. Those that do not respond in time are `silent` then."""
        answers = [worker.ask() for worker in self._crew.values() if worker.served is not None]
        if answers:
            await asyncio.wait(answers, timeout=_ANSWER_SECONDS)

    async def _ask_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_SECONDS)
            await self._refresh()

    # ── what happens ──────────────────────────────────────────────────────────────────────────────

    def _on_signal(self, number: int) -> None:
        if self._core.stopping and number in STOP_SIGNALS:
            _log.warning("second signal: ending at once")
            self._perform(self._core.cut())
        else:
            _log.info("%s: draining", signal.Signals(number).name)
            self._perform(self._core.stop(time.monotonic()))

    def _heard(self, worker: Worker, message: FromWorker) -> None:
        match message:
            case Started(served):
                worker.served = served
                fields = {"worker": worker.slot, "pid": worker.process.pid, "serves": True}
                again = " again" if self._core.announced else ""
                _log.info("worker %d serves%s", worker.slot, again, extra={"fields": fields})
                # Its numbers exist from now on, and so does its answer to whether it is ready.
                worker.ask()
                self._perform(self._core.started(worker.slot, time.monotonic()))
            case Refused(status, text):
                self._core.refused(worker.slot, status, text)
            case _:
                pass  # reports, which the worker has kept

    def _reap(self) -> None:
        for worker in self._crew.values():
            if worker.slot not in self._burials and worker.process.poll() is not None:
                self._burials[worker.slot] = asyncio.create_task(self._bury(worker))

    async def _bury(self, worker: Worker) -> None:
        await asyncio.wait((worker.listening,), timeout=_LAST_WORDS_SECONDS)
        worker.listening.cancel()
        del self._crew[worker.slot], self._burials[worker.slot]
        if worker.report is not None:
            self._totals.retire(worker.report.families)
        self._perform(self._core.ended(worker.slot, worker.process.returncode, time.monotonic()))

    # ── what is done ──────────────────────────────────────────────────────────────────────────────

    def _perform(self, effects: Iterable[Effect]) -> None:
        todo = deque(effects)
        while todo:
            match todo.popleft():
                case Spawn(slot):
                    todo.extend(self._spawn(slot))
                case Drain(slot):
                    self._crew[slot].stop()
                case Kill(slot):
                    self._crew[slot].process.kill()
                case AllServing():
                    self._announce()
                case Replace(slot, ending, seconds):
                    when = f"in {seconds:g} s" if seconds else "at once"
                    fields = {"worker": slot}
                    _log.warning("worker %d %s: replaced %s", slot, ending, when, extra={"fields": fields})
                case Finish() as finish:
                    if not self._finish.done():
                        self._finish.set_result(finish)
        self._set_alarm()

    def _spawn(self, slot: int) -> Sequence[Effect]:
        plan = self._plan
        ours, theirs = socketpair()
        post = Post(
            worker=slot,
            port=self._port,
            log_level=plan.log_level,
            log_format=plan.log_format,
            settings_file=plan.settings_file,
            link=theirs.fileno(),
        )
        with theirs, _blocked_stop_signals():
            try:
                process = subprocess.Popen(
                    command(self._module, post), pass_fds=(theirs.fileno(), plan.settings_file), restore_signals=False
                )
            except OSError as error:  # no memory, no more processes: a failure like any other
                ours.close()
                _log.error("worker %d cannot be started: %s", slot, error.strerror, extra={"fields": {"worker": slot}})
                return self._core.ended(slot, 1, time.monotonic())
        self._crew[slot] = Worker(slot, process, ours, self._heard)
        return ()

    def _announce(self) -> None:
        all_served = [worker.served for worker in self._crew.values() if worker.served is not None]
        announce(
            msgspec.structs.replace(
                all_served[0],
                metrics_port=self.metrics_port,
                unready=tuple(sorted({model for served in all_served for model in served.unready})),
                ready=all(served.ready for served in all_served),
            )
        )

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        due = self._core.next_wakeup()
        if due is None:
            self._alarm = None
        else:
            delay = max(0.0, due - time.monotonic())
            self._alarm = asyncio.get_running_loop().call_later(delay, self._on_alarm)

    def _on_alarm(self) -> None:
        self._perform(self._core.poll(time.monotonic()))


class _Merged(Collector):
    """The supervisor's view of all metrics, as the library wants it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterable[Metric]:
        return self._supervisor.collect()


@contextmanager
def _blocked_stop_signals() -> Generator[None]:
    """What is started in here begins its life with them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
