"""Where the peers' environments are: one folder, with a bound on its size.

    WORK/NAME/            an environment, made from pinned versions; `.made` in it says of which
    WORK/models/          the ONNX files

An environment is used again if it was made of the same requirements by the same Python. Half an environment is never
left behind.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from penstock_bench.peers.base import PeerFailed

MOST_BYTES = 8 << 30
"""Of everything in the folder."""
ONNXRUNTIME = "onnxruntime==1.32.0"
"""The same for all peers that run Python; Penstock runs what it was installed with."""

_INSTALL_SECONDS = 1200.0
_SPARE_BYTES = 1 << 30
"""That is left free on the disk."""


class WorkshopBusy(Exception):
    """Another run uses the folder."""


class Workshop:
    """The folder. Only one run at a time may hold it."""

    def __init__(self, folder: Path, most: int = MOST_BYTES) -> None:
        """Raises OSError, and WorkshopBusy."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self._most = most
        self._lock: IO[str] = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise WorkshopBusy(f"another run of penstock bench peers uses {self.folder}") from None

    def __repr__(self) -> str:
        return f"<Workshop {self.folder}: {size_of(self.folder) >> 20} of {self._most >> 20} MiB>"

    def close(self) -> None:
        """Others may have it."""
        self._lock.close()

    def environment(self, name: str, requirements: Sequence[str], megabytes: int) -> Path:
        """The Python of an environment with these packages. Raises PeerFailed."""
        place = self.folder / name
        python = place / "bin" / "python3"
        stamp = "\n".join([sys.version, *requirements])
        if _read(place / ".made") == stamp and python.exists():
            return python
        self.remove(name)
        self.check_room(megabytes)
        try:
            _run([sys.executable, "-m", "venv", str(place)], "cannot make its environment")
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
            _run([*pip, *requirements], "cannot be installed")
            (place / ".made").write_text(stamp)
        except BaseException:
            self.remove(name)
            raise
        return python

    def wheel(self, name: str, requirement: str, megabytes: int) -> Path:
        """The content of one package's wheel, unpacked and not installed. Raises PeerFailed."""
        place = self.folder / name
        if _read(place / ".made") == requirement:
            return place
        self.remove(name)
        self.check_room(megabytes)
        try:
            place.mkdir()
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
            _run([*pip, "--no-deps", "--dest", str(place), requirement], "cannot be downloaded")
            for wheel in place.glob("*.whl"):
                with zipfile.ZipFile(wheel) as archive:
                    archive.extractall(place)
                wheel.unlink()
            (place / ".made").write_text(requirement)
        except BaseException:
            self.remove(name)
            raise
        return place

    def check_room(self, megabytes: int) -> None:
        """Raises PeerFailed if so much more is not to be had."""
        wanted = megabytes << 20
        free = shutil.disk_usage(self.folder).free
        if free < wanted + _SPARE_BYTES:
            raise PeerFailed(f"needs {megabytes} MiB of disk, and {free >> 20} MiB are free, of which 1024 are spared")
        used = size_of(self.folder)
        if used + wanted > self._most:
            bound = f"{self._most >> 20} MiB that the peers may use together"
            raise PeerFailed(f"needs {megabytes} MiB of disk, and {used >> 20} MiB are used of the {bound}")

    def remove(self, name: str) -> None:
        """Delete an environment or a wheel, if there is one."""
        shutil.rmtree(self.folder / name, ignore_errors=True)


def size_of(folder: Path) -> int:
    """The bytes on the disk of a folder; links are not followed."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.lstat(os.path.join(place, file)).st_blocks * 512
            except OSError:
                pass
    return total


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _run(command: Sequence[str], failing: str) -> None:
    """Run a command in silence. Raises PeerFailed with its last line."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"{failing} within {_INSTALL_SECONDS / 60:.0f} minutes") from None
    except OSError as error:
        raise PeerFailed(f"{failing}: {error.strerror or error}") from None
    if done.returncode:
        lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        raise PeerFailed(f"{failing}: {lines[-1][:300] if lines else f'status {done.returncode}'}")
