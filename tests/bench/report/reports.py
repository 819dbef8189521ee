"""Reports as a run might have made them, without a run: latencies of a queue that fills up."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock_bench.load.histograms import latency_of
from penstock_bench.results import Machine, Point, Report, Series

MACHINE = Machine(
    processor="Imagined CPU @ 3 GHz",
    cores=2,
    memory=8 << 30,
    system="Linux 6.1",
    python="3.11.9",
    versions={"penstock": "0.2.0", "grpcio": "1.80.0"},
)


def point(*, mean: float = 0.004, throughput: float = 1000.0, count: int = 2000, seed: int = 0, **other: Any) -> Point:
    """A load whose latencies are spread as a queue's are."""
    latency = latency_of(mean * (0.3 + np.random.default_rng(seed).gamma(2.0, 0.35, count)))
    known: dict[str, Any] = {
        "connections": 4,
        "concurrency": 256,
        "duration": 10.0,
        "sent": count,
        "ok": count,
        "latency": latency,
        "throughput": throughput,
        "generator_cpu": 0.3,
    }
    return Point(**{**known, **other})


def sweep(server: str, capacity: float, *, base: float = 0.002, slo: float = 0.02, **other: Any) -> Series:
    """An open loop up to saturation and a bit beyond."""
    points: list[Point] = []
    for number, part in enumerate((0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.1)):
        rate = part * capacity
        mean = base / max(0.03, 1 - part)
        found = point(mean=mean, throughput=min(rate, 0.99 * capacity), seed=number, offered=rate)
        assert found.latency is not None
        late = max(0.0, min(1.0, (mean - slo / 2) / slo))
        points.append(
            point(
                mean=mean,
                throughput=min(rate, 0.99 * capacity),
                seed=number,
                offered=rate,
                in_time=int(10 * rate * (1 - late)),
                sent=int(10 * rate),
                server_cpu=1.6 / capacity * (1.5 - 0.5 * min(1.0, part)),
                batch_rows=1 + 12 * part**3,
                queue_time=mean / 3,
            )
        )
    known: dict[str, Any] = {"protocol": "gRPC", "model": "iris", "load": "open loop, poisson, swept, 4 connections"}
    return Series(server=server, points=points, **{**known, **other})


def single(server: str, throughput: float, *, spread: float | None = 0.04, **other: Any) -> Series:
    """A closed loop."""
    one = point(
        mean=256 / throughput,
        throughput=throughput,
        spread=spread,
        repetitions=2,
        server_cpu=1.9 / throughput,
        seed=int(throughput),
    )
    known: dict[str, Any] = {
        "protocol": "gRPC",
        "model": "iris",
        "load": "closed loop, 4 connections x 64",
        "points": [one],
    }
    return Series(server=server, **{**known, **other})


def report(series: Sequence[Series], **other: Any) -> Report:
    """Around these series."""
    known: dict[str, Any] = {
        "title": "A bench",
        "command": "penstock bench load 127.0.0.1:8001 -m iris",
        "started": "2026-01-02T03:04:05+00:00",
        "machine": MACHINE,
        "seed": 7,
        "settings": {"connections": "4", "seconds": "10"},
        "series": series,
    }
    return Report(**{**known, **other})
