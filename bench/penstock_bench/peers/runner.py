"""The turns: which peer when, and what happens in each. It knows no peer by name, and prints nothing.

Peers go forwards and backwards (A-B-B-A), and so do the loads of each turn.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from penstock_bench.h2load import run_h2load
from penstock_bench.load.plan import LoadError, LoadPlan, Progress, describe
from penstock_bench.load.run import run_load
from penstock_bench.load.worker import INTERRUPTED
from penstock_bench.peers.asking import check
from penstock_bench.peers.base import Peer, PeerFailed, RunningPeer
from penstock_bench.peers.loads import Effort, Load, for_protocol, plan_of
from penstock_bench.peers.models import ModelSet
from penstock_bench.peers.store import Measured, PeerResult, Store, Turn
from penstock_bench.results import Point

T = TypeVar("T")

OWN, H2LOAD = "penstock bench", "h2load"


class Watcher(Protocol):
    """Who is told how it goes on."""

    def preparing(self, peer: Peer) -> None: ...
    def prepared(self, peer: Peer, failure: str) -> None: ...
    def turn(self, peer: Peer, model: str, round: int) -> None: ...
    def loading(self, load: Load, client: str) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def ended(self, peer: Peer, turn: Turn, known: bool) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is to be compared."""

    models: Sequence[ModelSet]
    loads: Sequence[Load]
    rounds: int
    effort: Effort
    h2load: bool = False

    def settings(self) -> dict[str, str]:
        """What two runs must have in common to be one."""
        return {
            "loads": ", ".join(str(load) for load in self.loads),
            "seconds": f"{self.effort.seconds:g}",
            "warm-up": f"{self.effort.warmup:g}",
            "processes": f"{self.effort.processes}",
            "seed": f"{self.effort.seed}",
            "h2load": "yes" if self.h2load else "no",
        }


def order(what: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """A-B-B-A: forwards and backwards in turns."""
    for round in range(rounds):
        for each in what if round % 2 == 0 else reversed(what):
            yield round, each


class Runner:
    """Measures peers. `results` is filled as it goes on, also when it is interrupted."""

    def __init__(self, comparison: Comparison, peers: Sequence[Peer], store: Store, watcher: Watcher) -> None:
        self._comparison = comparison
        self._peers = peers
        self._store = store
        self._watcher = watcher
        self.results: dict[str, PeerResult] = {}

    def __repr__(self) -> str:
        turns = sum(len(result.turns) for result in self.results.values())
        return f"<Runner: {len(self._peers)} peers, {turns} turns of {self.turns}>"

    @property
    def turns(self) -> int:
        """How many there are in all."""
        return len(self._peers) * len(self._comparison.models) * self._comparison.rounds

    def run(self, resume: bool, keep: bool) -> None:
        """Measure all of them. KeyboardInterrupt goes through once nothing runs any more."""
        settings = self._comparison.settings()
        for peer in self._peers:
            before = self._store.read(peer.name, settings, peer.title) if resume else None
            self.results[peer.name] = before or _nothing(peer, settings)
        last = {peer.name: place for place, (_, _, peer) in enumerate(self._all())}
        for peer in self._peers:
            if any(self._missing(peer, models, round) for models, round, each in self._all() if each is peer):
                self._prepare(peer)
        for place, (models, round, peer) in enumerate(self._all()):
            known = self.results[peer.name].turn(models.name, round)
            turn = known or self._turn(peer, models, round)
            if known is None:
                self._keep(peer, turn)
            self._watcher.ended(peer, turn, known is not None)
            if place == last[peer.name] and not keep and not peer.default:
                peer.remove()

    def _all(self) -> Iterator[tuple[ModelSet, int, Peer]]:
        for models in self._comparison.models:
            for round, peer in order(self._peers, self._comparison.rounds):
                yield models, round, peer

    def _missing(self, peer: Peer, models: ModelSet, round: int) -> bool:
        return self.results[peer.name].turn(models.name, round) is None

    def _prepare(self, peer: Peer) -> None:
        self._watcher.preparing(peer)
        failure = ""
        try:
            peer.prepare()
        except PeerFailed as error:
            failure = str(error)
            self.results[peer.name] = msgspec.structs.replace(self.results[peer.name], failure=failure)
            self._store.write(self.results[peer.name])
        self._watcher.prepared(peer, failure)

    def _turn(self, peer: Peer, models: ModelSet, round: int) -> Turn:
        result = self.results[peer.name]
        failure = result.failure or result.failed_with(models.name)
        if failure:  # it is not tried again: it would fail again
            return Turn(model=models.name, round=round, failure=failure)
        self._watcher.turn(peer, models.name, round)
        try:
            running = peer.start(models)
            for model in models.models:
                check(running, model)
            return Turn(model=models.name, round=round, measured=self._measure(peer, running, models, round))
        except PeerFailed as error:
            return Turn(model=models.name, round=round, failure=str(error))
        finally:
            peer.stop()

    def _measure(self, peer: Peer, running: RunningPeer, models: ModelSet, round: int) -> list[Measured]:
        multiplexed = peer.protocol == "gRPC"
        found: list[Measured] = []
        loads = for_protocol(self._comparison.loads, multiplexed)
        for load in loads if round % 2 == 0 else reversed(loads):  # they are compared with each other, too
            plan = plan_of(load, self._comparison.effort, running, models, round)
            found.append(self._one(load, plan, running, OWN))
            if self._comparison.h2load and multiplexed and not load.timeouts and models.forms == 1:
                found.append(self._one(load, plan, running, H2LOAD))
        return found

    def _one(self, load: Load, plan: LoadPlan, running: RunningPeer, client: str) -> Measured:
        self._watcher.loading(load, client)
        point: Point | None = None
        failure = ""
        try:
            if client == H2LOAD:
                point = run_h2load(plan, watch=running.pids)
            else:
                point = run_load(plan, watch=running.pids, on_progress=self._watcher.progress, metrics=running.metrics)
        except LoadError as error:
            failure = str(error)
        if point is not None and INTERRUPTED in point.warnings:
            raise KeyboardInterrupt
        return Measured(load=str(load), words=describe(plan), client=client, point=point, failure=failure)

    def _keep(self, peer: Peer, turn: Turn) -> None:
        result = self.results[peer.name]
        self.results[peer.name] = result = msgspec.structs.replace(result, turns=[*result.turns, turn])
        self._store.write(result)


def _nothing(peer: Peer, settings: Mapping[str, str]) -> PeerResult:
    return PeerResult(name=peer.name, title=peer.title, protocol=peer.protocol, remark=peer.remark, settings=settings)
