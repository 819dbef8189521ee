"""The runner: whose turn it is, what is kept of it, and what happens when a peer fails or a person interrupts."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from penstock_bench.load.plan import Progress
from penstock_bench.peers.base import Peer
from penstock_bench.peers.loads import Effort, Load
from penstock_bench.peers.models import ModelSet
from penstock_bench.peers.runner import Comparison, Runner, order
from penstock_bench.peers.store import Measured, PeerResult, Store, Turn
from tests.bench.peers.fakes import FakePeer, iris, wrong


class Silent:
    """Counts the turns, and which of them were known before."""

    def __init__(self) -> None:
        self.known: list[bool] = []

    def preparing(self, peer: Peer) -> None: ...
    def prepared(self, peer: Peer, failure: str) -> None: ...
    def turn(self, peer: Peer, model: str, round: int) -> None: ...
    def loading(self, load: Load, client: str) -> None: ...
    def progress(self, progress: Progress) -> None: ...

    def ended(self, peer: Peer, turn: Turn, known: bool) -> None:
        self.known.append(known)


def comparison(folder: Path, rounds: int = 2, seconds: float = 0.1) -> Comparison:
    return Comparison(
        models=[ModelSet("iris", (iris(folder),))],
        loads=[Load(1, 1)],
        rounds=rounds,
        effort=Effort(seconds=seconds, warmup=0.0),
    )


def run(
    folder: Path, peers: Sequence[FakePeer], *, resume: bool = False, seconds: float = 0.1
) -> tuple[Runner, Silent]:
    watcher = Silent()
    runner = Runner(comparison(folder, seconds=seconds), peers, Store(folder), watcher)
    runner.run(resume, keep=False)
    return runner, watcher


def test_peers_take_turns_forwards_and_backwards() -> None:
    """A-B-B-A."""
    a, b, c = FakePeer("a"), FakePeer("b"), FakePeer("c")
    names = [f"{peer.name}{round}" for round, peer in order([a, b, c], 3)]
    assert names == ["a0", "b0", "c0", "c1", "b1", "a1", "a2", "b2", "c2"]


@pytest.mark.slow
def test_one_server_runs_at_a_time_and_heavy_peers_are_removed(tmp_path: Path) -> None:
    """Each start is followed by its stop; an environment goes after the peer's last turn."""
    diary: list[str] = []
    peers = [FakePeer("a", diary), FakePeer("b", diary, default=False)]
    runner, _ = run(tmp_path, peers)
    turns = [word for name in "abba" for word in (f"start {name}", f"stop {name}")]
    turns.insert(turns.index("stop b", 4) + 1, "remove b")
    assert diary == ["prepare a", "prepare b", *turns]
    points = [each.point for name in "ab" for turn in runner.results[name].turns for each in turn.measured]
    assert len(points) == 4
    assert sum(point.ok for point in points if point is not None) > 0


@pytest.mark.slow
def test_a_peer_that_fails_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    """Whether it cannot be installed, started or believed, there is a reason; it is tried once."""
    peers = [
        FakePeer("a"),
        FakePeer("b", cannot_prepare="cannot be installed: no"),
        FakePeer("c", cannot_start="ended by itself with status 1: no"),
        FakePeer("d", answer=wrong),
    ]
    runner, _ = run(tmp_path, peers)
    assert not any(turn.failure for turn in runner.results["a"].turns)
    assert runner.results["b"].failure == "cannot be installed: no"
    assert {turn.failure for turn in runner.results["c"].turns} == {"ended by itself with status 1: no"}
    assert "answers wrongly" in runner.results["d"].turns[0].failure
    assert [peer.starts for peer in peers] == [2, 0, 1, 1]


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Turns that are done are kept, and no server is left running."""
    peers = [FakePeer("a"), FakePeer("b", interrupt_at=2)]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, peers)
    assert peers[0].server is None
    assert peers[1].server is None
    again = [FakePeer("a"), FakePeer("b")]
    runner, watcher = run(tmp_path, again, resume=True)
    assert watcher.known == [True, True, False, False]
    assert [peer.starts for peer in again] == [1, 1]
    assert all(len(runner.results[name].turns) == 2 for name in "ab")


@pytest.mark.slow
def test_other_settings_are_another_comparison(tmp_path: Path) -> None:
    """What was measured for another time is not mixed with this."""
    run(tmp_path, [FakePeer("a")])
    _, watcher = run(tmp_path, [FakePeer("a")], resume=True, seconds=0.15)
    assert watcher.known == [False, False]


def _result(**fields: object) -> PeerResult:
    known = {"name": "a", "title": "A", "protocol": "gRPC", "remark": "", "settings": {"seconds": "1"}}
    return PeerResult(**{**known, **fields})  # type: ignore[arg-type]


def test_failures_are_tried_again(tmp_path: Path) -> None:
    """A reason may be mended by the time of a resumption, so a turn that failed is not kept."""
    store = Store(tmp_path)
    failed = Turn(model="iris", round=0, failure="no")
    lost = Turn(model="iris", round=1, measured=[Measured(load="1x1", words="", client="", failure="gone")])
    store.write(_result(turns=[failed, lost]))
    found = store.read("a", {"seconds": "1"}, "A")
    assert found is not None
    assert found.turns == []


@pytest.mark.parametrize("text", ["", "{", '{"format": 99}', "[]"])
def test_a_damaged_file_counts_as_none(tmp_path: Path, text: str) -> None:
    """It is measured anew."""
    store = Store(tmp_path)
    (tmp_path / "peers" / "a.json").write_text(text)
    assert store.read("a", {}, "A") is None
