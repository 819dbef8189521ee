"""What the scheduler costs: microseconds of CPU for each request, by how many wait, with everything on.

    python scripts/bench_scheduler.py            table over depths, and what a grpc.aio echo costs here
    python scripts/bench_scheduler.py --quick    fewer requests, no echo
    python scripts/bench_scheduler.py --results bench/results/scheduler
                                                 write scheduler.json and scheduler.md there, too

*Everything on*: policy `deadline` with random deadlines, two classes, two levels, four tenants with weights, padding
to allowed sizes, bounds in rows and bytes, a cost model that learns. *Plain*: the same policy, nothing used.
A depth is kept: for each batch that starts, as many requests come in as left; what a batch takes varies. The cost is
CPU time of the process, the least of several runs, since others may use the machine.

The bar is 2 µs where a grpc.aio echo (client and server in one process) costs 150 µs.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path

import grpc
from grpc import aio

from penstock_scheduler import PolicyName, Scheduler, Settings, Start, Ticket, TrafficClass

DEPTHS = (8, 10, 64, 100, 1000, 10_000, 100_000)
RUNS = 3
POOL = 1024
"""Requests between two looks at the clock: to look twice for each batch of 8 costs 0.1 to 0.2 µs a request."""
ECHO = 150.0
"""Microseconds of an echo on the machine that the bars are for."""

MakeTicket = Callable[[float], Ticket]


def full_settings(policy: PolicyName, depth: int) -> Settings:
    """Everything that the policy knows."""
    batch = min(64, max(8, depth // 2))
    fixed = policy is PolicyName.FIXED
    return Settings(
        policy=policy,
        max_batch_rows=batch,
        allowed_rows=sorted({1, 2, 4, 8, 16, 32, batch} & set(range(batch + 1))),
        max_queued_rows=10 * depth + 1000,
        levels=2,
        default_level=1,
        tenants={} if fixed else {f"tenant {n}": 1.0 + n % 3 for n in range(4)},
        ageing=60.0,
        class_patience=60.0,
        patience=60.0,
    )


def plain_settings(policy: PolicyName, depth: int) -> Settings:
    return Settings(policy=policy, max_batch_rows=min(64, max(8, depth // 2)), max_queued_rows=10 * depth + 1000)


def full_ticket(rng: random.Random) -> MakeTicket:
    def make(now: float) -> Ticket:
        return Ticket(
            rows=1,
            nbytes=64,
            deadline=now + rng.uniform(1000.0, 1001.0),
            traffic=rng.choice((TrafficClass.INTERACTIVE, TrafficClass.INTERACTIVE, TrafficClass.STREAM)),
            level=rng.randint(0, 2),
            tenant=f"tenant {rng.randrange(4)}",
        )

    return make


def plain_ticket(now: float) -> Ticket:
    return Ticket(1, 64)


def timed_ticket(rng: random.Random) -> MakeTicket:
    return lambda now: Ticket(1, 64, deadline=now + rng.uniform(1000.0, 1001.0))


def microseconds(settings: Settings, make: MakeTicket, depth: int, requests: int) -> float:
    """CPU time for one request: its part of submit_many, poll and finish."""
    scheduler: Scheduler[Ticket] = Scheduler(settings)
    now = 0.0
    took = [0.001 + 0.0001 * rows for rows in range(settings.max_batch_rows + 1)]
    for rows in range(1, settings.max_batch_rows + 1):
        scheduler.cost.seed(rows, took[rows])
    rng = random.Random(2)
    jitter = cycle([rng.uniform(0.95, 1.05) for _ in range(997)])
    scheduler.submit_many([make(now) for _ in range(depth)], now)
    spent, done = 0.0, 0
    (effect,) = scheduler.poll(now)
    gc.collect()
    while done < requests:
        pool, used = [make(now) for _ in range(POOL)], 0
        began = time.process_time()
        # One instance: whenever a batch is over the next one starts, and nothing else happens (or unpacking fails).
        while isinstance(effect, Start) and (count := len(effect.batch.tickets)) <= POOL - used:
            now += 0.001
            scheduler.submit_many(pool[used : used + count], now)
            used += count
            scheduler.finish(effect.batch, now, took[count] * next(jitter))
            (effect,) = scheduler.poll(now)
        spent += time.process_time() - began
        if not used:
            raise SystemExit("nothing starts: the benchmark measures nothing")
        done += used
    return spent / done * 1e6


class _Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        return grpc.unary_unary_rpc_method_handler(_echo)


async def _echo(request: bytes, context: object) -> bytes:
    return request


async def echo_microseconds(calls: int) -> float:
    """CPU time of a grpc.aio echo, client and server in this process."""
    server = aio.server()
    server.add_generic_rpc_handlers((_Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/echo/Echo")

        async def many(count: int) -> None:
            for _ in range(count):
                await call(b"x" * 64)

        await many(100)
        began = time.process_time()
        await asyncio.gather(*(many(calls // 32) for _ in range(32)))
        spent = time.process_time() - began
    await server.stop(None)
    return spent / (calls // 32 * 32) * 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What a benchmark has measured: microseconds of CPU for each request, by row and depth."""

    title: str
    bar_of: str
    """What the bar is for."""
    bar: float
    """Microseconds, where an echo costs 150."""
    echo: float | None
    """Microseconds of a grpc.aio echo here."""
    depths: Sequence[int]
    rows: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    notes: Sequence[str] = ()

    @property
    def bar_here(self) -> float | None:
        return None if self.echo is None else self.bar * self.echo / ECHO

    def heading(self) -> str:
        """The line above the numbers."""
        if self.echo is None:
            return "\n".join(self.notes)
        echo, bar = f"grpc.aio echo here: {self.echo:.0f} µs", f"the bar of {self.bar:g} µs {self.bar_of}"
        return "\n".join([f"{echo}; so {bar} is {self.bar_here:.2f} µs", *self.notes])

    def begin(self) -> None:
        """Print what stands above the rows."""
        print(self.heading() + "\n")
        print(f"{'µs per request':24}" + "".join(f"{depth:>9,}" for depth in self.depths))

    def add(self, name: str, costs: list[float]) -> None:
        """Keep a row, and print it."""
        self.rows[name] = costs
        print(f"{name:24}" + "".join(f"{cost:9.2f}" for cost in costs), flush=True)

    def write(self, folder: Path, name: str) -> None:
        """As `name`.json and `name`.md."""
        folder.mkdir(parents=True, exist_ok=True)
        machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
        numbers = {**asdict(self), "bar_here": self.bar_here, "machine": machine}
        (folder / f"{name}.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
        lines = [f"# {self.title}", "", f"{'. '.join([machine, *self.heading().splitlines()])}.", ""]
        lines.append("| µs per request, at depth | " + " | ".join(f"{depth:,}" for depth in self.depths) + " |")
        lines.append("|---|" + "---:|" * len(self.depths))
        lines += [
            f"| {row} | " + " | ".join(f"{cost:.2f}" for cost in costs) + " |" for row, costs in self.rows.items()
        ]
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n")


def results_option(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark be told where to write."""
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="write the numbers there, as JSON and Markdown")


def main() -> None:
    parser = argparse.ArgumentParser(description="What the scheduler costs per request.")
    parser.add_argument("--quick", action="store_true", help="fewer requests, and no echo")
    results_option(parser)
    options = parser.parse_args()
    requests = 5_000 if options.quick else 40_000
    echo = None if options.quick else min(asyncio.run(echo_microseconds(3200)) for _ in range(RUNS))
    table = Table(
        title="What the scheduler costs",
        bar_of="from depth 8 on",
        bar=2.0,
        echo=echo,
        depths=DEPTHS,
    )
    table.begin()
    loads: list[tuple[str, Callable[[PolicyName, int], Settings], MakeTicket]] = [
        ("plain", plain_settings, plain_ticket),
        ("deadlines", plain_settings, timed_ticket(random.Random(1))),
        ("everything", full_settings, full_ticket(random.Random(1))),
    ]
    for load, settings, make in loads:
        for policy in PolicyName:
            best = [
                min(microseconds(settings(policy, depth), make, depth, requests) for _ in range(RUNS))
                for depth in DEPTHS
            ]
            table.add(f"{policy.value}, {load}", best)
    if options.results:
        table.write(options.results, "scheduler")


if __name__ == "__main__":
    main()
