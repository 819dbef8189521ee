"""Watches a server: py-spy for where it is, the kernel for how much it runs.

py-spy reads the server's memory without stopping it; stopping changes what is measured (a thread that waits in the
kernel wakes up from it and looks busy). The price is a sample now and then that makes no sense and is thrown away.
Only for C's own frames it has to stop the server, and then looks less often.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from penstock_bench.load.plan import LoadError
from penstock_bench.profiling.shares import Thread

_RATE, _NATIVE_RATE = 250, 100
"""Samples a second."""
_SLACK_SECONDS = 30.0


class Unwatchable(Exception):
    """Nobody may look, or there is nothing to look with. One sentence."""


@dataclass(frozen=True, slots=True)
class ThreadTimes:
    """CPU seconds since a thread began."""

    name: str
    user: float
    system: float


def find_py_spy() -> str:
    """Its path: beside this Python, or anywhere. Raises Unwatchable."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("py-spy", path=beside)
    if found is None:
        raise Unwatchable("penstock bench profile needs py-spy: pip install 'penstock[bench]'")
    return found


def thread_times(pid: int) -> dict[int, ThreadTimes]:
    """Of a process and its children, by the kernel's number. What has ended meanwhile is left out."""
    found: dict[int, ThreadTimes] = {}
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return found
    for process in family:
        try:
            for each in process.threads():
                found[each.id] = ThreadTimes(_name(process.pid, each.id), each.user_time, each.system_time)
        except psutil.Error:
            pass
    return found


def between(before: Mapping[int, ThreadTimes], after: Mapping[int, ThreadTimes]) -> tuple[dict[int, Thread], float]:
    """What each thread has used in between, and the part of all of it that was spent in the kernel."""
    threads: dict[int, Thread] = {}
    kernel = total = 0.0
    for number, end in after.items():
        start = before.get(number, ThreadTimes(end.name, 0.0, 0.0))
        used = end.user - start.user + end.system - start.system
        threads[number] = Thread(end.name, used)
        kernel += end.system - start.system
        total += used
    return threads, kernel / total if total > 0 else 0.0


class Recording:
    """py-spy at work on one process."""

    def __init__(self, pid: int, seconds: float, output: Path, native: bool = False) -> None:
        """Begins at once. Raises Unwatchable."""
        self._output = output
        self._seconds = seconds
        self._log = output.with_suffix(".log")
        command = [find_py_spy(), "record", "--pid", str(pid), "--output", str(output), "--format", "raw"]
        command += ["--duration", f"{max(1, round(seconds))}", "--threads", "--full-filenames", "--subprocesses"]
        command += ["--native", "--rate", str(_NATIVE_RATE)] if native else ["--nonblocking", "--rate", str(_RATE)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __repr__(self) -> str:
        return f"<Recording for {self._seconds:g} s: py-spy has pid {self._process.pid}>"

    def finish(self) -> str:
        """Wait for its end. The collapsed stacks. Raises Unwatchable, and LoadError if there are none."""
        try:
            self._process.wait(self._seconds + _SLACK_SECONDS)
        except subprocess.TimeoutExpired:
            raise LoadError("py-spy does not come to an end") from None
        finally:
            self.cancel()
        words = self._log.read_text(encoding="utf-8", errors="replace")
        text = self._output.read_text(encoding="utf-8", errors="replace") if self._output.exists() else ""
        if text:
            return text
        if complaint := permission_complaint(words):
            raise Unwatchable(complaint)
        raise LoadError(f"py-spy found nothing: {_last_line(words)}")

    def cancel(self) -> None:
        """End it, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def permission_complaint(words: str) -> str:
    """What to do if py-spy's words are that it may not look; empty if they are not."""
    lowered = words.lower()
    if "permission denied" not in lowered and "operation not permitted" not in lowered and "eperm" not in lowered:
        return ""
    return (
        "py-spy may not look into the server's process: run this as root, allow it with "
        "`sysctl kernel.yama.ptrace_scope=0`, or give a container the capability SYS_PTRACE"
    )


def _last_line(words: str) -> str:
    lines: Sequence[str] = [line.strip() for line in words.splitlines() if line.strip()]
    return lines[-1].removeprefix("Error: ") if lines else "it said nothing"


def _name(pid: int, thread: int) -> str:
    try:
        return Path(f"/proc/{pid}/task/{thread}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
