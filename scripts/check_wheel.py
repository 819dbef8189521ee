"""Builds the wheel, looks at what it holds, and uses it where nothing else of Penstock is installed.

An editable install hides what a wheel forgets: a data file, a marker, a dependency that only the tests need. So the
wheel is built from the source archive, as a packager would, and must hold what the five packages hold in the
repository, to the file, and nothing more. Then it is installed with its `onnx` extra into an empty environment outside
the repository, and the command line runs there.

    python scripts/check_wheel.py
"""

import os
import subprocess
import sys
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path
from zipfile import ZipFile

REPOSITORY = Path(__file__).resolve().parent.parent
CONSTRAINTS = REPOSITORY / "constraints.txt"

PACKAGES = (
    "proto/penstock_proto",
    "scheduler/penstock_scheduler",
    "server/penstock_server",
    "clients/python/penstock_client",
    "bench/penstock_bench",
)
# What must be there even if the repository itself has lost it. `*` stands for any text, slashes too.
NEEDED = (
    *(f"{Path(folder).name}/py.typed" for folder in PACKAGES),
    "penstock_proto/*.proto",
    "penstock_server/examples/*.onnx",
    "penstock_server/examples/*/config.pbtxt",
    "penstock-*.dist-info/METADATA",
    "penstock-*.dist-info/licenses/LICENSE",
)
CONSOLE_SCRIPT = "penstock = penstock_server.cli.main:main"
DEMO_SECONDS = 120


def package_files(repository: Path) -> set[str]:
    """The files of the five packages as a wheel names them, e.g. `penstock_proto/pool.py`."""
    roots = [repository / folder for folder in PACKAGES]
    files = [(root, path) for root in roots for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root.parent)) for root, path in files if "__pycache__" not in path.parts}


def problems(wheel: Path, expected: set[str]) -> list[str]:
    """What is wrong with the contents of `wheel`, each as a sentence; `expected` are the packages' files."""
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        scripts = [archive.read(name).decode() for name in names if name.endswith(".dist-info/entry_points.txt")]
    held = {name for name in names if not fnmatchcase(name, "penstock-*.dist-info/*")}
    found = [f"{name} is missing" for name in sorted(expected - held)]
    found += [f"{name} does not belong in it" for name in sorted(held - expected)]
    found += [
        f"nothing in it is {pattern}" for pattern in NEEDED if not any(fnmatchcase(name, pattern) for name in names)
    ]
    if not any(CONSOLE_SCRIPT in text.splitlines() for text in scripts):
        found.append(f"it has no console script '{CONSOLE_SCRIPT}'")
    return found


def build(place: Path) -> Path:
    """The wheel, made from a source archive, with the pinned hatchling of this environment."""
    python = sys.executable
    _run([python, "-m", "hatchling", "build", "--target", "sdist", "--directory", place], REPOSITORY)
    (archive,) = place.glob("penstock-*.tar.gz")
    _run([python, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "-w", place, archive], place)
    (wheel,) = place.glob("penstock-*.whl")
    return wheel


def use(wheel: Path, place: Path) -> None:
    """Install the wheel into an empty environment under `place`, and run it from there."""
    binaries = place / "venv" / "bin"
    pip: list[str | Path] = [binaries / "python", "-m", "pip"]
    install = [*pip, "install", "-qq", "--constraint", CONSTRAINTS]
    _run([sys.executable, "-m", "venv", place / "venv"], place)
    _run([*install, "pip"], place)
    _run([*install, f"{wheel}[onnx]"], place)
    _run([*pip, "check"], place)
    _run([binaries / "penstock", "version"], place)
    _run([binaries / "penstock", "demo"], place, timeout=DEMO_SECONDS)


def _run(command: list[str | Path], folder: Path, timeout: float | None = None) -> None:
    """Run it in `folder`, without the variables that may lead back into the repository; exits if it fails."""
    leading = ("PYTHON", "PENSTOCK_", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(leading)}
    words = [str(word) for word in command]
    try:
        subprocess.run(words, cwd=folder, env=environment, check=True, timeout=timeout)
    except subprocess.CalledProcessError as error:
        sys.exit(f"check_wheel: exit status {error.returncode}: {' '.join(words)}")
    except subprocess.TimeoutExpired:
        sys.exit(f"check_wheel: no end after {timeout} s: {' '.join(words)}")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="penstock-wheel-") as folder:
        place = Path(folder)
        print("-- building the source archive, and the wheel from it", flush=True)
        wheel = build(place)
        found = problems(wheel, package_files(REPOSITORY))
        if found:
            sys.exit("\n".join([f"{wheel.name}:", *found]))
        print(f"-- {wheel.name} holds what it should; using it in an empty environment", flush=True)
        use(wheel, place)
        print("-- the wheel works", flush=True)


if __name__ == "__main__":
    main()
