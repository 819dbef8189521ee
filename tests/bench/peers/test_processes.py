"""Servers' processes are ended with all they have started, and environments are whole or not there."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from penstock_bench.peers.base import PeerFailed
from penstock_bench.peers.process import ServerProcess
from penstock_bench.peers.workshop import Workshop, WorkshopBusy, size_of

# A parent and a child that left the group, both deaf to SIGTERM.
_FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(300)"
child = subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
open("child", "w").write(str(child.pid))
time.sleep(300)
"""


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    monkeypatch.setattr("penstock_bench.peers.process._GRACE_SECONDS", 0.1)
    made = ServerProcess("test")
    yield made
    made.stop()


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(tmp_path / "work")
    yield made
    made.close()


def _until_it_ends(process: ServerProcess) -> str:
    """What is said of a process that has ended by itself."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        try:
            process.check_alive()
        except PeerFailed as error:
            return str(error)
    raise AssertionError("it did not end")


@pytest.mark.slow
def test_nothing_is_left_of_a_server(process: ServerProcess) -> None:
    """Neither a child that left the group and hears no SIGTERM, nor the folder."""
    process.start([sys.executable, "-c", _FAMILY], {})
    note = process.scratch / "child"
    deadline = time.monotonic() + 100
    while not (note.exists() and note.read_text()):
        process.check_alive()
        assert time.monotonic() < deadline
    child = psutil.Process(int(note.read_text()))
    process.stop()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert not process.scratch.exists()


def test_a_server_that_ends_by_itself_has_last_words(process: ServerProcess) -> None:
    """The end of its log is the reason."""
    process.start([sys.executable, "-S", "-c", "import sys; print('one\\n\\ntwo'); sys.exit('three')"], {})
    assert _until_it_ends(process) == "ended by itself with status 1: one / two / three"


def test_a_server_sees_no_python_path(process: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer's environment is its own, and it writes into its scratch folder."""
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    code = "import os, sys; sys.exit(f\"{os.environ.get('PYTHONPATH')} {os.environ['HOME'] == os.getcwd()}\")"
    process.start([sys.executable, "-S", "-c", code], {})
    assert _until_it_ends(process).endswith(": None True")


def test_a_program_that_is_not_there(process: ServerProcess) -> None:
    """A sentence, and nothing to end."""
    with pytest.raises(PeerFailed, match="cannot start: No such file"):
        process.start(["/no/such/program"], {})


def test_a_workshop_has_one_user(workshop: Workshop) -> None:
    """Two comparisons at once would measure each other."""
    with pytest.raises(WorkshopBusy, match="another run"):
        Workshop(workshop.folder)


def test_an_environment_that_failed_is_not_there(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an environment would be taken for a whole one the next time."""
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(PeerFailed, match="cannot make its environment: No such file"):
        workshop.environment("a", ["b==1"], 1)
    assert not (workshop.folder / "a").exists()


def test_an_environment_is_used_again(workshop: Workshop) -> None:
    """If it was made of the same requirements by the same Python."""
    python = workshop.folder / "a" / "bin" / "python3"
    python.parent.mkdir(parents=True)
    python.touch()
    (workshop.folder / "a" / ".made").write_text("\n".join([sys.version, "b==1"]))
    assert workshop.environment("a", ["b==1"], 1) == python


def test_the_disk_has_a_bound(tmp_path: Path) -> None:
    """What would go over it is refused with the numbers."""
    workshop = Workshop(tmp_path / "work", most=64 << 20)
    try:
        (workshop.folder / "big").write_bytes(bytes(1 << 20))
        assert size_of(workshop.folder) >= 1 << 20
        workshop.check_room(60)
        with pytest.raises(PeerFailed, match="needs 64 MiB of disk, and 1 MiB are used of the 64 MiB"):
            workshop.check_room(64)
        with pytest.raises(PeerFailed, match="are free"):
            workshop.check_room(1 << 40)
    finally:
        workshop.close()
