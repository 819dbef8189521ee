"""Write the Python stubs that lie next to their `.proto` files, or check that they are up to date.

    python scripts/gen_proto.py            # rewrite what changed, remove what has no .proto any more
    python scripts/gen_proto.py --check    # change nothing; exit 1 and name the files that would change

The stubs are committed, so that installing Penstock needs no compiler. Each `x.proto` has four of them:
messages (`x_pb2.py`), services (`x_pb2_grpc.py`), and the types of both (`.pyi`, by mypy-protobuf).

They live in a descriptor pool of their own: the V2 protocol's messages are called `inference.*`, as are
tritonclient's, and one pool cannot hold both. protoc knows only the default pool, so the pool is replaced in
what it wrote. That is the only change, and a stub in which there is nothing to replace is an error.
"""

import argparse
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "proto"
PACKAGE = "penstock_proto"

# Other versions write other stubs; newer ones also need a newer protobuf than Penstock asks for.
GENERATORS = {"grpcio-tools": "1.81.1", "mypy-protobuf": "5.1.0"}

POOL_REPLACEMENTS = {
    "from google.protobuf import descriptor_pool as _descriptor_pool\n": f"from {PACKAGE}.pool import POOL as _POOL\n",
    "_descriptor_pool.Default()": "_POOL",
}


def generate(root: Path = ROOT) -> dict[Path, str]:
    """Every stub that the `.proto` files below `root` ask for, by its path relative to `root`."""
    protos = sorted(path.relative_to(root).as_posix() for path in root.glob(f"{PACKAGE}/*.proto"))
    scripts = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}"]
        command += [f"--plugin={scripts / plugin}" for plugin in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
        command += [f"--{kind}_out={directory}" for kind in ("python", "grpc_python")]
        command += [f"--{kind}_out=quiet:{directory}" for kind in ("mypy", "mypy_grpc")]
        subprocess.run([*command, *protos], check=True)
        stubs = {path.relative_to(directory): path.read_text("utf-8") for path in Path(directory).rglob("*_pb2*.py*")}
    return {path: use_own_pool(text) if path.name.endswith("_pb2.py") else text for path, text in stubs.items()}


def use_own_pool(text: str) -> str:
    """A messages stub, registering in Penstock's pool. ValueError if protoc no longer writes what is replaced."""
    for old, new in POOL_REPLACEMENTS.items():
        if old not in text:
            raise ValueError(f"protoc's output has no {old!r}: adapt POOL_REPLACEMENTS")
        text = text.replace(old, new)
    return text


def stale_stubs(fresh: dict[Path, str], root: Path = ROOT) -> list[Path]:
    """The stubs, relative to `root`, that are missing, differ, or have no `.proto` any more."""
    kept = {path.relative_to(root): path.read_text("utf-8") for path in root.glob(f"{PACKAGE}/*_pb2*.py*")}
    return sorted(path for path in kept.keys() | fresh.keys() if kept.get(path) != fresh.get(path))


def write(stale: list[Path], fresh: dict[Path, str], root: Path = ROOT) -> None:
    """Bring the stale stubs up to date."""
    for path in stale:
        if path in fresh:
            (root / path).write_text(fresh[path], "utf-8")
        else:
            (root / path).unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description="Regenerate the committed protobuf stubs.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a stub is stale")
    check: bool = parser.parse_args().check

    for package, wanted in GENERATORS.items():
        if (found := version(package)) != wanted:
            print(f"needs {package} {wanted}, found {found}", file=sys.stderr)
            return 2

    fresh = generate()
    stale = stale_stubs(fresh)
    if not check:
        write(stale, fresh)
    for path in stale:
        print(f"{'stale' if check else 'written' if path in fresh else 'removed'}: {path}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
