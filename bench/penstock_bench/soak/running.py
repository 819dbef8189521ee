"""A soak from its start to its end: visits in this process, a steady load beside them, and looks at the server."""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import psutil

from penstock_bench.load.plan import LoadError, LoadPlan, MixItem, OpenLoop, Timeouts
from penstock_bench.load.run import run_load
from penstock_bench.load.worker import INTERRUPTED
from penstock_bench.memory import memory_of
from penstock_bench.metrics import Metrics, read_metrics
from penstock_bench.server import Served, serving
from penstock_bench.soak.memory import Sample
from penstock_bench.soak.models import DOUBLED, write_repository
from penstock_bench.soak.tally import Lost, Tally, Wrong
from penstock_bench.soak.visits import VISITS, World, client_of

VISITORS = 8
"""Visits at the same time."""
_LOAD = "steady load"
_PART_SECONDS = 30.0
"""The steady load comes in parts, each on connections of its own."""
_LOOK_SECONDS = 1.0
_REST_SECONDS = 3.0
"""After the end, in which the server lets go of what it held."""
_NOTHING_LEFT = (
    "penstock_calls_in_flight",
    "penstock_transport_held_bytes",
    "penstock_inflight_bytes",
    "penstock_streams_open",
    "penstock_stream_requests",
    "penstock_sequences_active",
)
"""Metrics that are 0 once nobody asks for anything."""


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What the server holds before and after."""

    memory: int
    files: int
    threads: int


@dataclass(slots=True)
class Soaked:
    """What has come of it so far."""

    tally: Tally = field(default_factory=Tally)
    samples: list[Sample] = field(default_factory=list[Sample])
    before: Left | None = None
    after: Left | None = None
    residues: dict[str, float] = field(default_factory=dict[str, float])
    """What should be 0 at the end, and is not."""
    ended: bool = False
    """The server has died."""


OnLook = Callable[[Soaked, float], None]


def soak(soaked: Soaked, seconds: float, rate: float, seed: int, on_look: OnLook) -> None:
    """Fill `soaked`, which is right at any time, also when Ctrl-C ends this early. Raises LoadError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="penstock-soak-")))
        examples = write_repository(folder / "models")
        server = stack.enter_context(serving(folder / "models", metrics=True))

        async def all_of_it() -> None:
            async with client_of(server.host, server.port) as client:
                zipped = client_of(server.host, server.port, gzip=True)
                world = World(server.host, server.port, client, zipped, examples)
                async with zipped:
                    await _visit_all_once(world, soaked.tally, seed)
                    soaked.before = _left(server)
                    await _everything(server, world, soaked, seconds, rate, seed, on_look)
            await asyncio.sleep(_REST_SECONDS)

        asyncio.run(all_of_it())
        soaked.after = _left(server)
        told = read_metrics(server.metrics)
        soaked.ended = told is None
        if told is not None:
            soaked.residues = {name: told.total(name) for name in _NOTHING_LEFT if told.total(name)}


async def _visit_all_once(world: World, tally: Tally, seed: int) -> None:
    """Every kind, one after the other: a soak whose kinds do not work at all is not worth its time."""
    random = np.random.default_rng(seed)
    for name in VISITS:
        await _visit(name, world, tally, random)


async def _everything(
    server: Served, world: World, soaked: Soaked, seconds: float, rate: float, seed: int, on_look: OnLook
) -> None:
    end = time.monotonic() + seconds
    visitors = [
        asyncio.create_task(_visitor(world, soaked, np.random.default_rng((seed, number)), end))
        for number in range(VISITORS)
    ]
    load = asyncio.create_task(_steady_load(server, soaked, rate, seed, end)) if rate else None
    looks = asyncio.create_task(_look(server, soaked, seconds, on_look))
    try:
        await asyncio.gather(*visitors, *([load] if load is not None else []))
    finally:
        looks.cancel()
        await asyncio.gather(looks, return_exceptions=True)


async def _visitor(world: World, soaked: Soaked, random: np.random.Generator, end: float) -> None:
    names = list(VISITS)
    weights = np.array([weight for weight, _ in VISITS.values()], np.float64)
    weights /= weights.sum()
    while time.monotonic() < end and not soaked.ended:
        await _visit(names[random.choice(len(names), p=weights)], world, soaked.tally, random)


async def _visit(name: str, world: World, tally: Tally, random: np.random.Generator) -> None:
    _, visit = VISITS[name]
    try:
        tally.good(name, await visit(world, random))
    except (Wrong, Lost) as failure:
        tally.bad(name, failure)


async def _steady_load(server: Served, soaked: Soaked, rate: float, seed: int, end: float) -> None:
    number = 0
    while (left := end - time.monotonic()) > 1.0 and not soaked.ended:
        number += 1
        plan = load_plan(server.host, server.port, rate, min(left, _PART_SECONDS), seed + number)
        try:
            point = await asyncio.to_thread(run_load, plan)
        except LoadError as error:
            soaked.tally.load(_LOAD, requests=0, wrong=0, lost=1, example=str(error))
            return
        failed = sum(point.failed.values())
        example = next((warning for warning in point.warnings if "failed" in warning or "wrong" in warning), "")
        soaked.tally.load(
            _LOAD,
            requests=point.ok - point.wrong,
            wrong=point.wrong,
            lost=failed + point.unanswered,
            example=example if point.wrong or failed or point.unanswered else "",
        )
        if INTERRUPTED in point.warnings:
            return


def load_plan(host: str, port: int, rate: float, seconds: float, seed: int) -> LoadPlan:
    """A part of the steady load: small and larger requests, a timeout on each, every answer looked at."""
    return LoadPlan(
        host=host,
        port=port,
        mix=[
            MixItem(model="iris", weight=6),
            MixItem(model="iris", rows=4, weight=2),
            MixItem(model="digits", rows=2, weight=2),
            MixItem(model=DOUBLED, shapes={"X": [1, 4096]}),
        ],
        load=OpenLoop(rate=rate),
        connections=4,
        seconds=seconds,
        warmup=0.0,
        seed=seed,
        timeouts=Timeouts(low=20.0, high=30.0),
        check_every=1,
        variants=64,
        grace=30.0,
    )


async def _look(server: Served, soaked: Soaked, seconds: float, on_look: OnLook) -> None:
    """Now and then, until cancelled."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        elapsed = time.monotonic() - began
        told = await asyncio.to_thread(read_metrics, server.metrics)
        memory = memory_of(server.pid)
        if told is not None:
            soaked.samples.append(Sample(seconds=elapsed, requests=_served(told), memory=memory))
        soaked.ended = not memory
        on_look(soaked, elapsed)


def _served(told: Metrics) -> int:
    """Calls, and requests on streams."""
    return int(told.total("penstock_calls_total") + told.total("penstock_stream_messages_total"))


def _left(server: Served) -> Left | None:
    try:
        process = psutil.Process(server.pid)
        return Left(memory=int(process.memory_info().rss), files=process.num_fds(), threads=process.num_threads())
    except psutil.Error:
        return None
