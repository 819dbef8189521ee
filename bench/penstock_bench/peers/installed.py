"""What the peers from PyPI have in common: an environment, a program in it, a process for each turn."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from penstock_bench.peers.asking import wait_until_ready
from penstock_bench.peers.base import PeerFailed, ProtocolName, RunningPeer
from penstock_bench.peers.bodies import Bodies
from penstock_bench.peers.models import BenchModel, ModelSet
from penstock_bench.peers.process import HOST, ServerProcess, free_port
from penstock_bench.peers.workshop import ONNXRUNTIME, Workshop

PROGRAMS = Path(__file__).parent / "programs"


class InstalledPeer(ABC):
    """A peer whose server is started by a command. Subclasses say which, and what it needs."""

    name: str
    title: str
    protocol: ProtocolName = "HTTP/1.1"
    remark: str = ""
    default: bool = False
    requirements: Sequence[str]
    """Pinned; ONNX Runtime is added."""
    megabytes: int
    """About what its environment needs on the disk."""
    ready_seconds: float = 60.0
    bodies: Bodies | None = None
    several: bool = False
    """Whether it is measured with several models at once."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self._process: ServerProcess | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._process or 'not running'}>"

    @abstractmethod
    def command(self, python: Path, models: ModelSet, scratch: Path, port: int) -> Sequence[str]:
        """What starts it. May write into the scratch folder, which is also where it runs."""

    def variables(self, scratch: Path, port: int) -> Mapping[str, str]:
        """More of the environment."""
        return {}

    def prepare(self) -> None:
        self._python()

    def start(self, models: ModelSet) -> RunningPeer:
        self.stop()
        if len(models.models) > 1 and not self.several:
            raise PeerFailed("is measured with one model at a time")
        python = self._python()
        self._process = process = ServerProcess(self.name)
        try:
            port = free_port()
            for program in PROGRAMS.glob("*.py"):
                shutil.copy(program, process.scratch)
            first = next(iter(models.models))
            told = {"BENCH_MODEL": str(first.path), "BENCH_PORT": str(port), "BENCH_NAME": first.name}
            command = self.command(python, models, process.scratch, port)
            path = {"PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin"}
            process.start(command, {**path, **told, **self.variables(process.scratch, port)})
            running = RunningPeer(HOST, port, process.pids, self.remark, self.bodies)
            for model in models.models:
                self._wait(running, model, process)
        except BaseException:
            self.stop()
            raise
        return running

    def _wait(self, running: RunningPeer, model: BenchModel, process: ServerProcess) -> None:
        """Until it answers. Raises PeerFailed."""
        wait_until_ready(running, model, self.ready_seconds, process.check_alive)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def remove(self) -> None:
        self.workshop.remove(self.name)

    def _python(self) -> Path:
        return self.workshop.environment(self.name, [*self.requirements, ONNXRUNTIME], self.megabytes)
