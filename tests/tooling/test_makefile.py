"""The Makefile's answers to a newcomer: which targets there are, and a sentence where their Python will not do.

Each test runs make on a copy of the Makefile in an empty folder. PYTHON is a small shell script that behaves like the
Python in question, so nothing is installed and no such Python is needed.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
MAKE = shutil.which("make")

pytestmark = pytest.mark.skipif(MAKE is None, reason="make is not installed")

TOO_OLD = """case "$*" in
  -V) echo Python 3.9.2 ;;
  *version_info*) exit 1 ;;
  *) echo "too old for $*"; exit 3 ;;
esac
"""
WITHOUT_ENSUREPIP = """case "$*" in
  *version_info*) exit 0 ;;
  *ensurepip*) echo ModuleNotFoundError >&2; exit 1 ;;
  *) echo "no module for $*"; exit 3 ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make there, as from a shell: not as a part of the make that may be running these tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = [str(MAKE), "--directory", str(folder), "--no-print-directory", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def script(folder: Path, text: str) -> str:
    """The path of an executable shell script."""
    path = folder / "a-python"
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return str(path)


def test_make_alone_lists_every_target(folder: Path) -> None:
    """`make` installs nothing: it says what there is, a line for each target."""
    done = make(folder)
    assert done.returncode == 0
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    described = {target: text for command, target, text in lines if command == "make"}
    assert {"demo", "test", "lint", "types", "proto", "format", "bench", "wheel-check", "clean"} <= set(described)
    phony = next(line for line in (folder / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    assert set(described) == set(phony.removeprefix(".PHONY:").split())


@pytest.mark.parametrize(
    ("target", "command"),
    [("bench", "penstock bench peers --only penstock"), ("bench-peers", "penstock bench peers --results")],
)
def test_the_benches_pass_arguments_on(folder: Path, target: str, command: str) -> None:
    """What would be run is `penstock bench peers`, with what is given in BENCH_ARGS."""
    done = make(folder, "--dry-run", target, "BENCH_ARGS=--model iris")
    assert done.returncode == 0
    assert command in done.stdout
    assert "--model iris" in done.stdout


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (TOO_OLD, "Penstock needs Python 3.11 or newer, and '{python}' is Python 3.9.2"),
        (WITHOUT_ENSUREPIP, "'{python}' cannot make a virtual environment: apt install python3-venv"),
    ],
)
@pytest.mark.parametrize("target", ["demo", "test"])
def test_a_python_that_will_not_do_is_told_in_one_sentence(folder: Path, target: str, text: str, sentence: str) -> None:
    """What is wrong and what to do, instead of a traceback; and no half-made environment stays behind."""
    python = script(folder, text)
    done = make(folder, target, f"PYTHON={python}")
    assert done.returncode == 2
    said, *rest = done.stderr.splitlines()
    assert said.startswith(sentence.format(python=python))
    assert all(line.startswith("make:") for line in rest)
    assert done.stdout == ""
    assert not (folder / ".venv").exists()


def test_a_python_that_is_not_there_is_told_in_one_sentence(folder: Path) -> None:
    """A machine without any python3 is told so."""
    done = make(folder, "demo", "PYTHON=no-such-python")
    assert done.returncode == 2
    assert done.stderr.startswith("Penstock needs Python 3.11 or newer, and there is no 'no-such-python'")


def test_an_environment_is_not_set_up_twice(folder: Path) -> None:
    """The set-up runs again only when a pin or a dependency changes, and the tools include the runtime."""
    venv = folder / ".venv"
    (venv / "bin").mkdir(parents=True)
    for name in ("bin/python", "bin/penstock", ".runtime-installed", ".tools-installed"):
        (venv / name).touch()
    os.utime(folder / "pyproject.toml", (0, 0))
    os.utime(folder / "constraints.txt", (0, 0))
    assert "pip install" not in make(folder, "--dry-run", "demo", "test", "lint").stdout
    os.utime(folder / "constraints.txt", (2**31, 2**31))
    again = make(folder, "--dry-run", "demo", "test")
    assert "--group dev" in again.stdout
    assert again.stdout.count("--editable") == 2


def test_clean_keeps_the_environment(folder: Path) -> None:
    """Caches and build output go; what took minutes to install stays, byte code included."""
    for name in ("dist", "build", ".mypy_cache", "server/__pycache__", ".venv/lib/__pycache__"):
        (folder / name).mkdir(parents=True)
    assert make(folder, "clean").returncode == 0
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_dir())
    assert left == [".venv", ".venv/lib", ".venv/lib/__pycache__", "server"]
