"""A load as data: where to, what of, how much, for how long.

A plan is complete: two runs of equal plans send the same requests, at the same times in an open loop. It travels to
the processes that perform it as JSON, so arrays are given as files, or as what to draw at random.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

Parameter: TypeAlias = bool | int | float | str
Arrivals: TypeAlias = Literal["poisson", "constant", "bursts", "trace"]


class LoadError(Exception):
    """A load cannot be performed: the plan makes no sense, nobody answers, the model is unknown. One sentence."""


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """How to trust the server, and how to be known to it; paths of PEM files."""

    ca: str | None = None
    """None: the public authorities."""
    cert: str | None = None
    key: str | None = None


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Each call has a timeout of its own, drawn evenly from this range, in seconds."""

    low: float
    high: float
    indexed: bool = True
    """True: sent as grpcio does, as a literal with incremental indexing, so that every call changes the connection's
    header table. False: without indexing, which leaves the table alone."""


class MixItem(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of request."""

    model: str
    version: str = ""
    """Empty: the server's choice."""
    weight: float = 1.0
    """Its part of the requests, relative to the other items' weights."""
    rows: int = 1
    """Of a request, if the model has a batch axis."""
    traffic: str = ""
    """The class that its latencies are reported under; empty: no class of its own."""
    metadata: Mapping[str, str] = {}
    """gRPC metadata (or HTTP headers), such as a tenant's."""
    parameters: Mapping[str, Parameter] = {}
    outputs: Sequence[str] = ()
    """The outputs that are asked for; empty: all."""
    inputs: Mapping[str, str] = {}
    """By input: a `.npy` file. Its first axis is cut into requests of `rows` rows, used in turn. Inputs that are not
    named are random, of the datatype and shape that the model's metadata tells."""
    shapes: Mapping[str, Sequence[int]] = {}
    """By input: the shape of random tensors, with the batch axis; for axes that the metadata leaves open (else 16)."""


class ClosedLoop(msgspec.Struct, frozen=True, kw_only=True, tag="closed"):
    """So many requests are in flight at any time, over all connections: the server sets the pace."""

    concurrency: int


class OpenLoop(msgspec.Struct, frozen=True, kw_only=True, tag="open"):
    """Requests are sent when they are due, answered or not; latency counts from when they were due."""

    rate: float = 0.0
    """Requests a second, on average. Of a trace: 0 is as recorded, else it is replayed at that mean rate."""
    arrivals: Arrivals = "poisson"
    """`bursts`: ten at once, at Poisson times."""
    trace: str | None = None
    """A file: one number of seconds a line, or what `penstock serve --record-trace` writes."""


class HttpTarget(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP/1.1 server: requests that somebody else has built. One is in flight on a connection."""

    path: str
    bodies: Sequence[bytes]
    """Requests are these in random order; they should vary as those of real clients do."""
    headers: Mapping[str, str] = {}
    """Besides host and content-length."""
    expected: Sequence[bytes] = ()
    """The right answer to each body, if known; empty: an answer of status 200 with any body is right."""
    tolerance: float | None = None
    """None: a checked answer must have the expected bytes. Else both are JSON, equal but for numbers, which may differ
    by this part."""


class SequencePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Each stream is a sequence of steps: the variants of the mix's one item, in order, over and over."""

    named: bool = True
    """Whether requests carry a `sequence_id`. False: a stream is a sequence to the server, too."""
    expected: str | None = None
    """A `.npy` file, float32 [streams, steps]: what the first streams are to be answered, as `first_step` of
    `penstock_bench.load.sequences` says where each begins."""


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One load on one server."""

    host: str
    port: int
    tls: TlsFiles | None = None
    mix: Sequence[MixItem] = ()
    """At least one, but for an `http` target."""
    load: ClosedLoop | OpenLoop
    connections: int = 4
    """Over all processes. HTTP/1.1 has one request on each: there, as many as the closed loop's concurrency."""
    seconds: float = 10.0
    """Measured."""
    warmup: float = 1.0
    """Seconds of the same load before, which are not counted."""
    processes: int = 1
    seed: int = 0
    timeouts: Timeouts | None = None
    """None: calls have no deadline."""
    stream: bool = False
    """True: over ModelStreamInfer, `streams_per_connection` of them on each connection."""
    streams_per_connection: int = 1
    sequences: SequencePlan | None = None
    """Of streams: each is a sequence. In a closed loop, each has its share of what is in flight."""
    slo: float | None = None
    """Seconds within which an answer is worth something."""
    check_every: int = 100
    """One in so many answers is parsed and compared; 0: none."""
    variants: int = 2048
    """Different requests that are prepared for each item of the mix; fewer where they are large (128 MiB in all)."""
    in_flight: int = 4096
    """Of an open loop: requests over all connections that may be without an answer; more of them wait here, which
    counts as their latency."""
    grace: float = 5.0
    """Seconds after the end in which answers that are still out are waited for."""
    http: HttpTarget | None = None

    @property
    def target(self) -> str:
        """As gRPC takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def sockets(self) -> int:
        """Connections that are made. HTTP/1.1 needs one for each request in flight."""
        if self.http is not None and isinstance(self.load, ClosedLoop):
            return self.load.concurrency
        return self.connections

    @property
    def most_in_flight(self) -> int:
        """Requests that may be without an answer at once."""
        if isinstance(self.load, ClosedLoop):
            return self.load.concurrency
        return self.in_flight if self.http is None else self.connections


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; told a few times a second."""

    elapsed: float
    """Seconds since the load began, warm-up included."""
    total: float
    answered: int
    failed: int


def describe(plan: LoadPlan) -> str:
    """The load in few words: `results.Series.load`, by which series are compared."""
    unit = "streams" if plan.stream else "connections"
    ways = plan.connections * (plan.streams_per_connection if plan.stream else 1)
    timeouts = "" if plan.timeouts is None or plan.http is not None else ", timeouts"
    match plan.load:
        case ClosedLoop(concurrency=concurrency) if plan.http is not None:
            return f"closed loop, {concurrency} connections x 1"
        case ClosedLoop(concurrency=concurrency):
            each = f"{concurrency / ways:g}" if concurrency % ways else f"{concurrency // ways}"
            return f"closed loop, {ways} {unit} x {each}{timeouts}"
        case OpenLoop(arrivals=arrivals, rate=rate):
            return f"open loop, {arrivals}{f', {rate:g}/s' if rate else ''}, {ways} {unit}{timeouts}"


def check_plan(plan: LoadPlan) -> None:
    """Raise LoadError for a plan that makes no sense, and say all that is wrong with it."""
    wrong = "; ".join(_contradictions(plan))
    if wrong:
        raise LoadError(wrong)


def _contradictions(plan: LoadPlan) -> list[str]:
    found: list[str] = []

    def unless(good: bool, text: str) -> None:
        if not good:
            found.append(text)

    unless(bool(plan.mix) or plan.http is not None, "the mix names no model")
    unless(plan.http is None or not plan.stream, "there are no streams over HTTP/1.1")
    unless(plan.sequences is None or plan.stream, "sequences need streams")
    unless(plan.sequences is None or len(plan.mix) == 1, "all sequences are of one model")
    unless(plan.sequences is None or isinstance(plan.load, ClosedLoop), "sequences are driven in a closed loop")
    unless(plan.http is None or bool(plan.http.bodies), "an HTTP target needs at least one body")
    unless(0 < plan.seconds < 1e6, "the seconds of a run are more than 0")
    unless(0 <= plan.warmup < 1e6, "the warm-up is 0 or more seconds")
    unless(plan.processes >= 1, "there is at least one process")
    unless(plan.sockets >= plan.processes, "each process needs a connection: give more connections")
    unless(plan.variants >= 1, "there is at least one variant of a request")
    unless(plan.in_flight >= plan.connections, "each connection must be allowed a request in flight")
    for item in plan.mix:
        unless(item.weight > 0, f"the weight of model '{item.model}' must be more than 0")
        unless(item.rows >= 1, f"a request for model '{item.model}' has at least one row")
    if plan.timeouts is not None:
        low, high = plan.timeouts.low, plan.timeouts.high
        unless(1e-3 <= low <= high <= 99_999, "timeouts are from 1 ms to a day, the shorter first")
    match plan.load:
        case ClosedLoop(concurrency=concurrency):
            ways = plan.connections if plan.http is None else plan.processes
            ways *= 1 if plan.sequences is None else plan.streams_per_connection
            unless(concurrency >= ways, f"a concurrency of {concurrency} leaves connections idle: give fewer of them")
        case OpenLoop(rate=rate, arrivals=arrivals, trace=trace):
            unless(rate > 0 or (arrivals == "trace" and rate == 0), "the rate is more than 0 requests a second")
            unless(rate <= 1e7, "the rate is at most 10 million requests a second")
            unless((arrivals == "trace") == (trace is not None), "arrivals from a trace need the trace's file")
    return found
