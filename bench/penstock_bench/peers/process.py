"""A server's process and everything it starts: one process group, one scratch folder, one log.

Some peers start a dozen processes, and a few of them leave the group they were born in. So both are ended: the group,
and all descendants that were seen.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from penstock_bench.peers.base import PeerFailed

HOST = "127.0.0.1"
_GRACE_SECONDS = 8.0
_DYING_SECONDS = 5.0
"""In which the kernel buries who was killed."""
_TAIL = 3
_LINE = 200

# Nobody tells anybody outside what runs here, and nobody fetches anything.
_QUIET = {
    "BENTOML_DO_NOT_TRACK": "True",
    "RAY_USAGE_STATS_ENABLED": "0",
    "ORT_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "LITSERVE_DISABLE_VERSION_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "OTEL_SDK_DISABLED": "true",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    "PYTHONDONTWRITEBYTECODE": "1",
}
# One thread each: a peer with two would be compared with peers of one.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


class ServerProcess:
    """One server, from its start to its end. Its HOME and its temporary files are a folder that goes with it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None
        self._family: dict[int, psutil.Process] = {}
        # Short, since some peers put sockets there, whose paths may have 107 bytes.
        self.scratch = Path(tempfile.mkdtemp(prefix="pb-"))
        self._log = self.scratch / "log"

    def __repr__(self) -> str:
        state = "not started" if self._process is None else f"pid {self._process.pid}"
        return f"<ServerProcess {self._name}: {state}, {len(self._family)} descendants seen>"

    def start(self, command: Sequence[str], variables: Mapping[str, str], cwd: Path | None = None) -> None:
        """Raises PeerFailed."""
        inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        own = {"HOME": str(self.scratch), "TMPDIR": str(self.scratch)}
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**inherited, **_QUIET, **_ONE_THREAD, **own, **variables},
                    cwd=cwd or self.scratch,
                    start_new_session=True,  # a group of its own, which Ctrl-C does not reach: it is ended here
                )
        except OSError as error:
            raise PeerFailed(f"cannot start: {error.strerror or error}") from None

    @property
    def pids(self) -> tuple[int, ...]:
        """The first process; the others are its children."""
        return () if self._process is None else (self._process.pid,)

    def check_alive(self) -> None:
        """Raises PeerFailed with the log's last lines once it has ended."""
        self._look()
        if self._process is not None and self._process.poll() is not None:
            raise PeerFailed(f"ended by itself with status {self._process.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log, short."""
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        wanted = [line.strip()[:_LINE] for line in lines if line.strip()][-_TAIL:]
        return " / ".join(wanted) or "it said nothing"

    def stop(self) -> None:
        """End it and all that it started, the hard way after some seconds; remove the scratch folder."""
        try:
            if self._process is not None:
                self._look()
                self._signal(signal.SIGTERM)
                until = time.monotonic() + _GRACE_SECONDS
                while self._living() and time.monotonic() < until:
                    time.sleep(0.05)
                self._signal(signal.SIGKILL)
                self._process.wait()
                psutil.wait_procs(list(self._family.values()), timeout=_DYING_SECONDS)  # they are not our children
        finally:
            if self._process is not None and self._process.poll() is None:  # Ctrl-C, while it was waited for
                self._signal(signal.SIGKILL)
                self._process.wait()
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _look(self) -> None:
        """Remember the descendants that there are now: a parent that has ended tells nothing any more."""
        assert self._process is not None
        try:
            children = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.Error:
            return
        self._family.update((child.pid, child) for child in children)

    def _living(self) -> bool:
        assert self._process is not None
        return self._process.poll() is None or any(_runs(child) for child in self._family.values())

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass
        for child in self._family.values():
            # A SIGTERM is passed on by a server that wants it to be; the hard end is for everybody.
            if number is signal.SIGKILL:
                try:
                    child.kill()  # looks at the start time, so that no stranger with the same pid is hit
                except psutil.Error:
                    pass


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
