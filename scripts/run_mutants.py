"""Do the tests notice mistakes? Makes small ones, each in a copy of the code, and runs the tests on it.

    python scripts/run_mutants.py              every list in tests/mutants
    python scripts/run_mutants.py scheduler    the mutants of tests/mutants/scheduler.toml

A list names the folder that is copied, the tests that must notice, and the mutants: for each one what is
wrong with it, a file, and a text in it with its replacement. A mutant that the tests fail on is killed; one
that they pass has survived, and shows what nobody checks. Exits with 1 if any has survived.

First the tests run on an unchanged copy: were they to fail there, every mutant would seem to be killed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LISTS = ROOT / "tests/mutants"
TEST_SECONDS = 30
"""For one test. A mutant may hang or loop for ever; that is a way to be noticed too."""
RUN_SECONDS = 180
"""For all of them, where a loop does not even let the test's own bound through."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake: `old` occurs once in `file`."""

    mistake: str
    file: str
    old: str
    new: str
    tests: Sequence[str] = ()
    """Those that must notice, if not all of its list."""


@dataclass(frozen=True, slots=True)
class MutantList:
    """Mutants of the packages in one folder of the repository, and the tests that must notice them."""

    folder: str
    tests: Sequence[str]
    mutants: Sequence[Mutant]


def load(path: Path) -> MutantList:
    """Read a list. ValueError if a mutant changes nothing, or its text is not there exactly once."""
    table = tomllib.loads(path.read_text())
    mutants = [Mutant(**mutant) for mutant in table["mutant"]]
    for mutant in mutants:
        found = (ROOT / table["folder"] / mutant.file).read_text().count(mutant.old)
        if found != 1:
            raise ValueError(f"{path.name}: {mutant.mistake}: its text occurs {found} times in {mutant.file}, not once")
        if mutant.old == mutant.new:
            raise ValueError(f"{path.name}: {mutant.mistake}: it changes nothing")
    return MutantList(table["folder"], table["tests"], mutants)


def survivors(mutants: MutantList) -> list[Mutant]:
    """Run the tests on each mutant, and print how it went."""
    complaint = _complaint(mutants, None)
    if complaint is not None:
        raise SystemExit(f"the tests fail without any mutant:\n{complaint}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        survived = pool.map(lambda mutant: _survives(mutant, mutants), mutants.mutants)
        return [mutant for mutant, alive in zip(mutants.mutants, survived, strict=True) if alive]


def _survives(mutant: Mutant, mutants: MutantList) -> bool:
    began = time.monotonic()
    survived = _complaint(mutants, mutant) is None
    verdict = "SURVIVED" if survived else "killed"
    print(f"{verdict:8}  {time.monotonic() - began:5.1f} s  {mutant.mistake}", flush=True)
    return survived


def _complaint(mutants: MutantList, mutant: Mutant | None) -> str | None:
    """What the tests say against a copy with this mistake in it; None if they pass."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT / mutants.folder, copy, ignore=shutil.ignore_patterns("__pycache__", "*.onnx", "*.wav"))
        if mutant is None:
            return _run_tests(copy, mutants.tests)
        file = copy / mutant.file
        file.write_text(file.read_text().replace(mutant.old, mutant.new))
        return _run_tests(copy, mutant.tests or mutants.tests)


def _run_tests(copy: Path, tests: Sequence[str]) -> str | None:
    flags = ["-x", "-q", "--hypothesis-profile=mutants", "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}"]
    # Before everything that is installed, so that the copy is what the tests import; and always read from
    # its source, since two mutants made within a second might be taken for each other's bytecode.
    path = os.pathsep.join(filter(None, [str(copy), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *flags, *tests],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"they did not end within {RUN_SECONDS} s"
    if run.returncode not in (0, 1):  # neither passed nor failed: they did not run
        raise SystemExit(f"pytest ended with {run.returncode}:\n{run.stdout}{run.stderr}")
    return run.stdout if run.returncode else None


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the tests on code with mistakes made on purpose.")
    names = sorted(path.stem for path in LISTS.glob("*.toml"))
    parser.add_argument("lists", nargs="*", metavar="LIST", help=f"which lists to run (default: {', '.join(names)})")
    chosen = parser.parse_args().lists or names
    survived = [mutant for name in chosen for mutant in survivors(load(LISTS / f"{name}.toml"))]
    print(f"{len(survived)} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
