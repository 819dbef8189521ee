"""The server that is measured: `penstock serve` in a process of its own, from this Python.

It logs JSON into a file, and is ready when its log says so.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from penstock_bench.load.plan import LoadError

HOST = "127.0.0.1"
_COMMAND = (sys.executable, "-c", "from penstock_server.cli.main import main; main()")
_READY_SECONDS = 120.0
_END_SECONDS = 10.0
_POLL_SECONDS = 0.05


class _Line(msgspec.Struct, frozen=True):
    """What is of interest in a line of the log."""

    message: str = ""
    level: str = ""
    model: str = ""
    version: int | None = None
    grpc_port: int = 0
    metrics_port: int = 0
    ready: bool | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers."""

    host: str
    port: int
    pid: int
    models: Sequence[str]
    metrics: str = ""
    """Where its metrics are; empty: nowhere."""


@contextmanager
def serving(source: Path, options: Sequence[str] = (), *, metrics: bool = False) -> Generator[Served]:
    """Serve a model or a repository, until the end of the block. Raises LoadError with what the server said."""
    command = [*_COMMAND, "serve", str(source), "--host", HOST, "--grpc-port", "0"]
    command += ["--metrics-port", "0"] if metrics else ["--no-metrics"]
    command += ["--log-format", "json", "--drain-seconds", "1", *options]
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:
            # In a session of its own, so that Ctrl-C ends the load first.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=_environment(), start_new_session=True
            )
        try:
            yield _wait(process, log)
        finally:
            _end(process)


def _environment() -> Mapping[str, str]:
    """The same packages as here, and none of an operator's settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return {**inherited, "PYTHONPATH": os.pathsep.join(str(Path(place).resolve()) for place in sys.path if place)}


def _wait(process: "subprocess.Popen[bytes]", log: Path) -> Served:
    until = time.monotonic() + _READY_SECONDS
    while time.monotonic() < until:
        ended = process.poll() is not None
        lines = _read(log)
        if ended:
            raise LoadError(f"the server did not start: {_last_words(log, lines)}")
        if any(line.ready is not None for line in lines):
            port = next((line.grpc_port for line in lines if line.grpc_port), 0)
            models = dict.fromkeys(line.model for line in lines if line.model and line.message.startswith("serving "))
            metrics = next((line.metrics_port for line in lines if line.metrics_port), 0)
            where = f"http://{HOST}:{metrics}/metrics" if metrics else ""
            return Served(HOST, port, process.pid, list(models), where)
        time.sleep(_POLL_SECONDS)
    raise LoadError(f"the server was not ready after {_READY_SECONDS:.0f} s: {_last_words(log, _read(log))}")


def _read(log: Path) -> list[_Line]:
    found: list[_Line] = []
    for line in log.read_bytes().splitlines():
        try:
            found.append(msgspec.json.decode(line, type=_Line))
        except msgspec.DecodeError:  # what is said to a shell, or half a line
            pass
    return found


def _last_words(log: Path, lines: Sequence[_Line]) -> str:
    said = [text for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if text.strip()]
    plain = [text.removeprefix("penstock: ") for text in said if not text.startswith("{")]
    complaints = [line.message for line in lines if line.level in ("error", "critical")]
    return (plain or complaints or ["it said nothing"])[-1]


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
