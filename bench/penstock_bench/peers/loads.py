"""The loads, as they are typed and as they are performed: `4x64` is 4 connections with 64 requests in flight on each.

`4x64+timeout` is the same with a `grpc-timeout` that differs on every call, sent as grpcio's clients send it.

HTTP/1.1 has one request on a connection. There, a load that is deeper becomes 64 connections x 1, once, and timeouts
are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from penstock_bench.load.plan import ClosedLoop, HttpTarget, LoadPlan, MixItem, Timeouts
from penstock_bench.peers.base import RunningPeer
from penstock_bench.peers.models import BenchModel, ModelSet

_POOL_BYTES = 64 << 20
_MOST_BODIES = 2048
_VARIANTS, _ALL_VARIANTS = 2048, 8192
"""Different requests of one form, and of all forms together."""
_MOST = 4096
_TIMEOUT = "timeout"
_TIMEOUTS = Timeouts(low=20.0, high=30.0)
"""None of them passes."""


@dataclass(frozen=True, slots=True, order=True)
class Load:
    """A closed loop."""

    connections: int
    depth: int
    """Requests in flight on each connection."""
    timeouts: bool = False
    """Whether each call has a timeout of its own."""

    def __str__(self) -> str:
        return f"{self.connections}x{self.depth}" + (f"+{_TIMEOUT}" if self.timeouts else "")

    @property
    def plain(self) -> "Load":
        """The same without timeouts."""
        return replace(self, timeouts=False)


DEFAULT = (Load(1, 1), Load(64, 1), Load(4, 64))
_INSTEAD = Load(64, 1)


def parse(text: str) -> Load:
    """Raises ValueError with a sentence."""
    shape, plus, extra = text.strip().partition("+")
    connections, _, depth = shape.partition("x")
    numbers = connections.isdecimal() and depth.isdecimal() and 1 <= int(connections) * int(depth) <= _MOST
    if not numbers or (plus and extra != _TIMEOUT):
        raise ValueError(
            f"a load is CONNECTIONSxDEPTH, such as 4x64, with at most {_MOST} in flight, or that and +{_TIMEOUT}, not"
            f" '{text}'"
        )
    return Load(int(connections), int(depth), bool(plus))


def for_protocol(loads: Sequence[Load], multiplexed: bool) -> list[Load]:
    """The loads that a peer is driven with."""
    fitting = [load if multiplexed else load.plain if load.depth == 1 else _INSTEAD for load in loads]
    return list(dict.fromkeys(fitting))


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how each load is measured."""

    seconds: float = 5.0
    warmup: float = 1.0
    processes: int = 1
    seed: int = 0


def plan_of(load: Load, effort: Effort, peer: RunningPeer, models: ModelSet, round: int) -> LoadPlan:
    """The plan of one load on one server. Each round has other requests."""
    seed = effort.seed + round
    mix = [MixItem(model=model.name, rows=rows) for model in models.models for rows in models.rows]
    return LoadPlan(
        host=peer.host,
        port=peer.port,
        mix=[] if peer.bodies is not None else mix,
        load=ClosedLoop(concurrency=load.connections * load.depth),
        connections=load.connections,
        seconds=effort.seconds,
        warmup=effort.warmup,
        processes=min(effort.processes, load.connections),
        seed=seed,
        timeouts=_TIMEOUTS if load.timeouts or models.timeouts else None,
        variants=min(_VARIANTS, _ALL_VARIANTS // len(mix)),
        http=None if peer.bodies is None else _http(peer, models.only, seed),
    )


def _http(peer: RunningPeer, model: BenchModel, seed: int) -> HttpTarget:
    """Bodies of many different rows. Answers were checked before; under load any of status 200 is taken."""
    bodies = peer.bodies
    assert bodies is not None
    row_bytes = model.draw(1, seed).nbytes
    rows = model.draw(max(2, min(_MOST_BODIES, _POOL_BYTES // row_bytes)), seed)
    return HttpTarget(path=bodies.path, headers=bodies.headers, bodies=[bodies.request(row.tobytes()) for row in rows])
