"""Penstock itself, from the Python that runs the bench; one peer for each of its transports."""

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from penstock_bench.peers.asking import wait_until_ready
from penstock_bench.peers.base import PeerFailed, ProtocolName, RunningPeer
from penstock_bench.peers.models import BenchModel, ModelSet
from penstock_bench.peers.process import HOST, ServerProcess, free_port

PREFIX = "penstock-"
READY_SECONDS = 30.0
ONE_THREAD = 'parameters { key: "intra_op_thread_count" value { string_value: "1" } }'
"""Of a model's configuration."""
_HELP_SECONDS = 60.0
_MAIN = "from penstock_server.cli.main import main; main()"
_TRANSPORTS = re.compile(r"--transport\s+<([\w|]+)>")


def transports() -> list[str]:
    """Those that `penstock serve` offers, the default one first. Raises PeerFailed if there is no Penstock."""
    try:
        shown = subprocess.run(
            [*_command(), "serve", "--help"],
            capture_output=True,
            text=True,
            timeout=_HELP_SECONDS,
            env={**os.environ, **_path(), "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerFailed(f"cannot be started: {error}") from None
    found = _TRANSPORTS.search(shown.stdout)
    if found is None:
        lines = (shown.stderr or shown.stdout).strip().splitlines()
        raise PeerFailed(f"cannot be started: {lines[-1] if lines else 'it said nothing'}")
    return found[1].split("|")


class Penstock:
    """With one transport."""

    protocol: ProtocolName = "gRPC"
    default = True

    def __init__(self, transport: str) -> None:
        self._transport = transport
        self._process: ServerProcess | None = None
        self.name = PREFIX + transport
        self.remark = "the model runs in the server's process"
        try:
            self.title = f"Penstock {version('penstock')} ({transport})"
        except PackageNotFoundError:
            self.title = f"Penstock ({transport})"

    def __repr__(self) -> str:
        return f"<Penstock {self._transport}: {self._process or 'not running'}>"

    def prepare(self) -> None:
        offered = transports()
        if self._transport not in offered:
            raise PeerFailed(f"this Penstock has no transport '{self._transport}'; it has {', '.join(offered)}")

    def start(self, models: ModelSet) -> RunningPeer:
        self.stop()
        self._process = process = ServerProcess(self.name)
        try:
            port, metrics = free_port(), free_port()
            repository = process.scratch / "repository"
            for model in models.models:
                folder = repository / model.name
                (folder / "1").mkdir(parents=True)
                (folder / "config.pbtxt").write_text(self._config(model))
                # A copy, since a repository refuses links that lead out of it.
                (folder / "1" / "model.onnx").write_bytes(model.path.read_bytes())
            options = ["--host", HOST, "--grpc-port", str(port), "--metrics-port", str(metrics)]
            more = ["--transport", self._transport, "--drain-seconds", "1"]
            process.start([*_command(), "serve", str(repository), *options, *more], _path())
            running = RunningPeer(HOST, port, process.pids, self.remark, metrics=f"http://{HOST}:{metrics}/metrics")
            for model in models.models:
                self._wait(running, model, process)
        except BaseException:
            self.stop()
            raise
        return running

    def _config(self, model: BenchModel) -> str:
        return model.config("onnxruntime", ONE_THREAD)

    def _wait(self, running: RunningPeer, model: BenchModel, process: ServerProcess) -> None:
        """Until it answers. Raises PeerFailed."""
        wait_until_ready(running, model, READY_SECONDS, process.check_alive)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def remove(self) -> None:
        """It has none of its own."""


def _command() -> list[str]:
    return [sys.executable, "-c", _MAIN]


def _path() -> dict[str, str]:
    """The same packages as here, however they were found."""
    return {"PYTHONPATH": os.pathsep.join(str(Path(place).resolve()) for place in sys.path if place)}
