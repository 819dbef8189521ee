"""What a run of the bench has found, as data: one schema for every command that measures, and for every report.

A report holds one or more series (a server with a model, as one client drove it), a series its points (one load each).
All times are seconds, all sizes bytes, all rates requests a second unless a field says otherwise. JSON is the only
form in which results are kept; pages and tables are made from it, at any time later.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

FORMAT = 1
"""Of the file. Raised when an old reader would misread a new file."""

QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What it was measured on."""

    processor: str
    cores: int
    memory: int
    system: str
    python: str
    versions: dict[str, str]
    """Of what took part: penstock, its commit, grpcio, numpy..."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution of latencies, counted from the intended time of sending."""

    count: int
    mean: float
    minimum: float
    maximum: float
    quantiles: dict[str, float]
    """By the quantile as text: "0.999"."""
    histogram: str = ""
    """HdrHistogram's own compressed form (base64), from which any other quantile can be had; values in microseconds."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One load, and what came of it."""

    offered: float | None = None
    """Requests a second by the plan; None in a closed loop, where the server sets the pace."""
    connections: int
    concurrency: int
    """Requests in flight at once: exactly so many in a closed loop, at most in an open one."""
    duration: float
    """Of the measured time, without the warm-up."""
    sent: int
    ok: int
    failed: dict[str, int] = {}
    """By the status's name."""
    wrong: int = 0
    """Answers that were looked at and were not what they should be."""
    checked: int = 0
    unanswered: int = 0
    """Sent, and without an answer when the run ended."""
    in_time: int | None = None
    """Answers well within the SLO, if there was one."""
    latency: Latency | None = None
    by_class: dict[str, Latency] = {}
    """The same by the mix's classes."""
    throughput: float
    """Good answers a second."""
    generator_cpu: float
    """CPU seconds a second of the generator's busiest process: near 1.0, it was the limit."""
    server_cpu: float | None = None
    """CPU seconds of the server's processes for each good answer, if they could be watched."""
    batch_rows: float | None = None
    """Mean rows of an execution, by the server's statistics."""
    queue_time: float | None = None
    """Mean, by the server's statistics."""
    hit_rates: dict[str, float] = {}
    """By cache of the server: the part of its look-ups that were hits, by its metrics."""
    spread: float | None = None
    """(largest - smallest) / median throughput of the repetitions that this point is the median of."""
    repetitions: int = 1
    warnings: Sequence[str] = ()
    partial: bool = False
    """True: it was cut off (a signal, a server that died)."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One server with one model or mix, over some loads."""

    server: str
    """Its name in tables, e.g. "Penstock 0.2 (wire)"."""
    protocol: str
    """"gRPC" or "HTTP/1.1"."""
    model: str
    load: str
    """How it was driven, in few words: "closed loop, 4 connections x 64"; equal texts are compared with each other."""
    client: str = "penstock bench"
    """Or "h2load"."""
    remark: str = ""
    """What a reader must know of this row, e.g. whose CPU is counted."""
    points: Sequence[Point] = ()
    failure: str = ""
    """Why there are no points: the server did not start, the model is unknown..."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a command."""

    format: int = FORMAT
    title: str
    command: str
    """As it can be typed again."""
    started: str
    """ISO 8601, UTC."""
    machine: Machine
    seed: int
    settings: dict[str, str] = {}
    slo: float | None = None
    series: Sequence[Series] = ()
    warnings: Sequence[str] = ()
    partial: bool = False


def read_report(path: Path) -> Report:
    """Raises OSError, and ValueError with a sentence for what is no report."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except msgspec.DecodeError as error:  # ValidationError is one
        raise ValueError(f"{path} is no report of penstock bench: {error}") from None
    if report.format != FORMAT:
        raise ValueError(f"{path} has format {report.format}, and this version of penstock bench reads {FORMAT}")
    return report


def write_report(report: Report, path: Path) -> None:
    """Write it whole or not at all: a reader never sees half a file. Raises OSError."""
    text = msgspec.json.format(msgspec.json.encode(report), indent=1)
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(text + b"\n")
    beside.replace(path)
