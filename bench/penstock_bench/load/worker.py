"""One process of a load: an order on standard input, what was measured on standard output.

    run                               worker
     │── length, order (msgpack) ──────▶│  makes the requests, connects
     │◀───────────────────── Ready ─────│
     │── "go MOMENT\\n" ────────────────▶│  the load
     │◀─────────────────── Answered ────│  now and then
     │── "stop\\n", or end of file ─────▶│  ends it early
     │◀─────────── Measured or Failed ──│

What comes out is JSON, an object a line. Moments are of CLOCK_MONOTONIC, which the processes of a machine share.
"""

import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle
from typing import TypeAlias

import msgspec
import numpy as np

from penstock_bench.load import headers, messages
from penstock_bench.load.answers import ModelJudge
from penstock_bench.load.arrivals import Schedule, schedule
from penstock_bench.load.channel import ID_DIGITS, Channel, Variant
from penstock_bench.load.engine import Engine
from penstock_bench.load.http1 import Http1Channel
from penstock_bench.load.ledger import Ledger, Measured
from penstock_bench.load.messages import Signature
from penstock_bench.load.pacing import ClosedPace, OpenPace, Pace
from penstock_bench.load.plan import ClosedLoop, LoadError, LoadPlan, OpenLoop, Timeouts
from penstock_bench.load.sequences import Script, SequenceChannel
from penstock_bench.load.streams import StreamChannel
from penstock_bench.load.unary import UnaryChannel

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
INTERRUPTED = "it was interrupted"
"""Why a load ended that Ctrl-C has cut off."""
_IDS_EACH = 100_000_000
_STREAMS_EACH = 100_000
_TIMEOUTS = 4096


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told."""

    plan: LoadPlan
    number: int
    """Of this process, from 0."""
    signatures: Sequence[Signature] = ()
    """Of each item of the mix."""
    answers: Sequence[Sequence[bytes]] = ()
    """Of each item, the right answers to its first variants."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    pass


class Answered(msgspec.Struct, frozen=True, tag="answered"):
    good: int
    failed: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    measured: Measured


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    sentence: str


Word: TypeAlias = Ready | Answered | Done | Failed
Tick: TypeAlias = Callable[[int, int], None]
"""Told of the good answers and the failures so far."""


class Job:
    """A worker's part of a load, prepared: everything is made and connected before the load begins."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._plan = plan = order.plan
        self._share = share(plan.sockets, plan.processes, order.number)
        self._script = self._steps()
        self._pools = self._variants()
        self._numbers = count(order.number * _STREAMS_EACH)
        self._schedule = self._arrivals()
        # The moments are set when the load begins.
        self._ledger = Ledger(0.0, 1.0, [item.traffic for item in plan.mix] or [""])
        self._ids = count(order.number * _IDS_EACH % 10**ID_DIGITS)
        self._places = iter(self._limits())
        self._limit = max(1, plan.most_in_flight // plan.sockets)
        self._requests = self._supply()
        self.engine = Engine(plan, self._share, self._channel, self._requests, self._ledger)

    def perform(self, start: float, tick: Tick) -> Measured:
        """The load, from this moment on."""
        plan, ledger = self._plan, self._ledger
        ledger.open(start + plan.warmup, start + plan.warmup + plan.seconds)
        moments = None if self._schedule is None else (self._schedule.moments + start).tolist()
        pace: Pace = ClosedPace() if moments is None else OpenPace(moments)
        meter = _Meter(ledger.begin)

        def on_tick(now: float) -> None:
            meter.look(now)
            tick(ledger.answers, ledger.failures)

        ended = self.engine.run(pace, start, on_tick)
        meter.end(ended)
        self.engine.drain(plan.grace)
        engine = self.engine
        trouble = (
            "it was interrupted" if engine.stopped else "" if engine.alive else f"the server was lost: {engine.lost}"
        )
        return ledger.measured(
            now=ended,
            slo=plan.slo,
            cpu=meter.share,
            late=engine.lateness / max(1, engine.in_turn),
            trouble=trouble,
            remark=f"a connection was lost: {engine.lost}" if engine.lost and not trouble else "",
        )

    def _steps(self) -> Script | None:
        """What sequences send, if it is sequences that are sent."""
        plan, order = self._plan, self._order
        if plan.sequences is None:
            return None
        return messages.script(plan.mix[0], order.signatures[0], plan, plan.sequences)

    def _variants(self) -> list[list[Variant]]:
        plan, order = self._plan, self._order
        if self._script is not None:
            return [[Variant(0, b"", b"", ModelJudge(plan.mix[0].model, {}))]]  # a stream knows its next step itself
        if plan.http is not None:
            return [messages.http_variants(plan.http, plan.target)]
        return [
            messages.variants(
                item,
                number,
                signature,
                seed=plan.seed,
                count=messages.affordable(plan, item, signature),
                answers=answers,
                stream=plan.stream,
            )
            for number, (item, signature, answers) in enumerate(
                zip(plan.mix, order.signatures, order.answers, strict=True)
            )
        ]

    def _arrivals(self) -> Schedule | None:
        plan = self._plan
        if not isinstance(plan.load, OpenLoop):
            return None
        return schedule(plan.load, plan.warmup + plan.seconds, plan.seed).part(self._order.number, plan.processes)

    def _supply(self) -> Iterator[tuple[Variant, bool]]:
        """Which request is next. A trace may name models and rows: then it is one that fits, where there is one."""
        plan = self._plan
        seed = plan.seed * 1009 + self._order.number
        weights = [item.weight for item in plan.mix] or [1.0]
        anything = messages.supply(self._pools, weights, plan.check_every, seed)
        if self._schedule is None or not self._schedule.requests or len(plan.mix) < 2:
            return anything
        own = [messages.supply([pool], [1.0], plan.check_every, seed) for pool in self._pools]
        by_kind = {(item.model, item.rows): each for item, each in zip(plan.mix, own, strict=True)}
        by_model = {item.model: each for item, each in zip(plan.mix, own, strict=True)}
        kinds = [
            by_kind.get((one.model, one.rows)) or by_model.get(one.model) or anything for one in self._schedule.requests
        ]
        return (next(each) for each in kinds)

    def _limits(self) -> list[int]:
        """Of a closed loop: how many requests each connection of this process has in flight."""
        plan = self._plan
        if not isinstance(plan.load, ClosedLoop) or plan.http is not None:
            return []
        mine = share(plan.load.concurrency, plan.processes, self._order.number)
        return [share(mine, self._share, number) for number in range(self._share)]

    def _channel(self) -> Channel:
        """A new connection. Those of a closed loop have their own share of what is in flight, also when one is lost."""
        plan = self._plan
        if plan.http is not None:
            return Http1Channel(self._ledger)
        limit = next(self._places, self._limit)
        self._limit = limit if isinstance(plan.load, ClosedLoop) else self._limit
        if self._script is not None:
            streams = plan.streams_per_connection
            return SequenceChannel(self._ledger, limit, self._blocks, self._ids, streams, self._script, self._numbers)
        if plan.stream:
            own = any(item.metadata for item in plan.mix)
            streams = plan.streams_per_connection
            return StreamChannel(self._ledger, limit, self._blocks, self._ids, streams, own)
        timeouts = None if plan.timeouts is None else _digits(plan.timeouts, plan.seed + self._order.number)
        return UnaryChannel(self._ledger, limit, self._blocks, self._ids, timeouts)

    def _blocks(self, table_size: int) -> list[headers.Blocks]:
        plan = self._plan
        scheme = "http" if plan.tls is None else "https"
        fields = headers.request_fields(_STREAM if plan.stream else _INFER, plan.target, scheme)
        timeouts = None if plan.stream else plan.timeouts
        return [
            headers.blocks(
                fields,
                item.metadata.items(),
                timeout_digits=0 if timeouts is None else len(_milliseconds(timeouts.high, timeouts.high)),
                indexed=timeouts is not None and timeouts.indexed,
                table_size=table_size,
            )
            for item in plan.mix
        ]


class _Meter:
    """The CPU of this process in the measured time."""

    def __init__(self, begin: float) -> None:
        self._begin = begin
        self._from: tuple[float, float] | None = None
        self.share = 0.0

    def look(self, now: float) -> None:
        if self._from is None and now >= self._begin:
            self._from = now, time.process_time()

    def end(self, now: float) -> None:
        if self._from is not None and now > self._from[0]:
            self.share = (time.process_time() - self._from[1]) / (now - self._from[0])


def share(whole: int, among: int, number: int) -> int:
    """The part of the one with this number, if each has as many as another, or one more."""
    return whole // among + (number < whole % among)


def _digits(timeouts: Timeouts, seed: int) -> Iterator[bytes]:
    """Values of grpc-timeout, drawn from the range, all of one length."""
    draws = np.random.default_rng(seed).uniform(timeouts.low, timeouts.high, _TIMEOUTS)
    return cycle([_milliseconds(each, timeouts.high) for each in draws.tolist()])


def _milliseconds(seconds: float, most: float) -> bytes:
    return b"%0*dm" % (len(str(round(most * 1e3))), round(seconds * 1e3))


def main() -> None:
    """The process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent says what is to be done
    # Without a buffer: a "stop" right behind the "go" must still be seen by the selector.
    source = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115 - it is the process's
    order = msgspec.msgpack.decode(_read(source, int(source.readline())), type=Order)
    try:
        job = Job(order)
        _say(Ready())
        word = source.readline().split()
        if word[:1] != [b"go"]:
            return
        job.engine.watch(source.fileno(), lambda: bool(os.read(source.fileno(), 64)) or True)
        _say(Done(job.perform(float(word[1]), lambda good, failed: _say(Answered(good, failed)))))
    except LoadError as error:
        _say(Failed(str(error)))
    except (MemoryError, OSError) as error:
        _say(Failed(f"the generator failed: {error}"))


def _read(source: io.FileIO, size: int) -> bytes:
    """So many bytes, or fewer at the end of the file."""
    parts: list[bytes] = []
    while size > 0 and (part := source.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _say(word: Word) -> None:
    try:
        sys.stdout.buffer.write(msgspec.json.encode(word) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # nobody listens any more
        os._exit(1)
