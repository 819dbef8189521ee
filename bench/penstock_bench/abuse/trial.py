"""One attack beside one neighbour: what either saw, and what the server held."""

import importlib.util
import shutil
import tempfile
import time
from collections.abc import Generator, Sequence
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from penstock_bench.abuse.attacker import Attacker
from penstock_bench.abuse.attacks import ECHO, HELD_BYTES, Attack
from penstock_bench.abuse.neighbour import Neighbour
from penstock_bench.memory import MemoryWatch, memory_of
from penstock_bench.metrics import NOTHING, read_metrics
from penstock_bench.server import Served, serving

_ACCOUNTS = (
    "penstock_transport_connections",
    "penstock_transport_held_bytes",
    "penstock_calls_in_flight",
    "penstock_streams_open",
    "penstock_inflight_bytes",
)
_LOOK_SECONDS = 0.1
"""Before the end of an attack the server is asked what it holds."""
_TOLD_SECONDS = 10.0
"""In which an attacker must have been told, however short its attack was and however busy the machine is."""
_ANSWER_SECONDS = 10.0
"""In which the neighbour must have got an answer at all, however short the attack was."""
_SLACK_SECONDS = 30.0
"""An attacker that is not done so long after its time hangs."""
ATTACKED = ("--max-held-bytes", str(HELD_BYTES))
"""Options of the server."""
_ECHO_CONFIG = """name: "{name}"
backend: "python"
input [ {{ name: "X" data_type: TYPE_FP32 dims: [ -1 ] }} ]
output [ {{ name: "Y" data_type: TYPE_FP32 dims: [ -1 ] }} ]
"""
_ECHO_CODE = """from penstock_server.backends.python import ModelBatch, PythonModel, Tensors


class Echo(PythonModel):
    def infer(self, inputs: Tensors, batch: ModelBatch) -> Tensors:
        return {"Y": inputs["X"]}
"""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one attack. Sizes are bytes, times seconds."""

    attack: str
    what: str
    seconds: float
    frames: int
    connections: int
    answers: dict[str, int]
    """What the attacker was told, and how often."""
    expected: str
    """How the answer begins that it had to get; empty: none."""
    due: bool
    """Whether it was waited for long enough for that answer."""
    healthy_before: int
    """Right answers to the neighbour in the time before, and during the attack."""
    healthy: int
    failures: dict[str, int]
    """The neighbour's, during the attack."""
    p99_before: float
    p99: float
    memory_before: int
    memory_peak: int
    memory_after: int
    """Once the attacker has gone."""
    growth_bound: int
    alive: bool
    """Whether the server still runs."""
    accounts: dict[str, float] = {}
    """What the server itself says it held, at the end of the attack, by its metrics' names."""

    def faults(self) -> list[str]:
        """What is wrong, in words; empty: all is as it should be."""
        found: list[str] = []
        if not self.alive:
            found.append("the server has ended")
        if self.failures:
            found.append(f"the healthy client saw {', '.join(self.failures)}")
        elif not self.healthy:
            found.append("the healthy client got no answer")
        if self.due and self.expected and not any(told.startswith(self.expected) for told in self.answers):
            found.append(f"the attacker was not told {self.expected}")
        if self.memory_peak - self.memory_before > self.growth_bound:
            grown = (self.memory_peak - self.memory_before) >> 20
            found.append(f"the server grew by {grown} MiB, and may by {self.growth_bound >> 20}")
        return found


def p99(latencies: Sequence[float]) -> float:
    """0 of none."""
    ordered = sorted(latencies)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] if ordered else 0.0


class Arena:
    """A server, a healthy client and an attacker."""

    def __init__(self, server: Served, neighbour: Neighbour, attacker: Attacker, memory: MemoryWatch) -> None:
        self.server = server
        self._neighbour = neighbour
        self._attacker = attacker
        self._memory = memory

    def __repr__(self) -> str:
        return f"<Arena: {self.server.host}:{self.server.port}, {self._neighbour!r}>"

    def trial(self, attack: Attack, seconds: float, *, before: float, after: float, patiently: bool) -> Trial:
        """Perform an attack for so long; the neighbour is alone for `before` seconds before, and `after` after it.

        `patiently`: wait for answers that the server gives only when a time is up.
        """
        pid = self.server.pid
        self._neighbour.take()
        time.sleep(before)
        quiet, _ = self._neighbour.take()
        held = memory_of(pid)
        self._memory.take_peak()
        due = patiently or not attack.patience
        patience = max(attack.patience, _TOLD_SECONDS) if due else 0.0
        begun = self._attacker.begin(attack, self.server.host, self.server.port, seconds, patience)
        wait([begun], max(0.0, seconds - _LOOK_SECONDS))
        told = read_metrics(self.server.metrics) or NOTHING
        wait([begun], _LOOK_SECONDS + patience + _SLACK_SECONDS)
        self._neighbour.wait(_ANSWER_SECONDS)
        latencies, failures = self._neighbour.take()
        peak = self._memory.take_peak()
        attacked = begun.result(0)
        time.sleep(after)
        left = memory_of(pid)
        return Trial(
            attack=attack.name,
            what=attack.what,
            seconds=attacked.seconds,
            frames=attacked.frames,
            connections=attacked.connections,
            answers=attacked.answers,
            expected=attack.answer,
            due=due,
            healthy_before=len(quiet),
            healthy=len(latencies),
            failures=failures,
            p99_before=p99(quiet),
            p99=p99(latencies),
            memory_before=held,
            memory_peak=peak,
            memory_after=left,
            growth_bound=attack.growth_bytes,
            alive=left > 0,
            accounts={name: told.total(name) for name in _ACCOUNTS},
        )


@contextmanager
def arena(options: Sequence[str] = ATTACKED) -> Generator[Arena]:
    """A Penstock with two models, and those who use it. Raises LoadError if it does not start."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-abuse-")))
        _write_models(folder)
        server = stack.enter_context(serving(folder, options, metrics=True))
        attacker = stack.enter_context(Attacker())
        neighbour = stack.enter_context(Neighbour(f"{server.host}:{server.port}"))
        memory = stack.enter_context(MemoryWatch(server.pid))
        yield Arena(server, neighbour, attacker, memory)


def _write_models(folder: Path) -> None:
    """The iris example, and a model that echoes."""
    package = importlib.util.find_spec("penstock_server")  # found, not imported: only the files are of interest
    assert package is not None
    assert package.submodule_search_locations is not None
    shutil.copytree(Path(package.submodule_search_locations[0], "examples", "models", "iris"), folder / "iris")
    version = folder / ECHO / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(_ECHO_CONFIG.format(name=ECHO))
    (version / "model.py").write_text(_ECHO_CODE)
