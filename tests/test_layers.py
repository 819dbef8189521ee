"""The architecture as a test: who may import whom.

Every module of the five packages is read by `ast` and never imported, so a cycle or a missing extra hides nothing. Two
tables hold the rules: `MAY_IMPORT` between packages, `ROWS` inside the server. A module may import its own layer and
those in the rows above it; what stands side by side in one row does not know its neighbours. Imports count wherever
they stand, in functions and for types alike: a lazy dependency is a dependency.

What it cannot see is an import by a computed name (`importlib`).
"""

import ast
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent

FOLDERS = {
    "penstock_proto": "proto",
    "penstock_scheduler": "scheduler",
    "penstock_server": "server",
    "penstock_client": "clients/python",
    "penstock_bench": "bench",
}
MAY_IMPORT: dict[str, set[str]] = {
    "penstock_proto": set(),
    "penstock_scheduler": set(),
    "penstock_server": {"penstock_proto", "penstock_scheduler"},
    "penstock_client": {"penstock_proto"},
    "penstock_bench": {"penstock_client", "penstock_proto"},
}
# What these two may import beside the standard library and themselves; the others are free to.
THIRD_PARTY: dict[str, set[str]] = {"penstock_proto": {"google"}, "penstock_scheduler": set()}

ROWS: tuple[tuple[str, ...], ...] = (
    ("status",),
    ("errors",),
    ("tensors",),
    ("models",),
    ("backends",),
    ("cuda",),
    ("engine",),
    ("service",),
    ("http2",),
    ("grpc_wire",),
    ("transports", "kafka", "metrics"),
    ("app",),
    ("cli",),
)
ROW_OF = {layer: number for number, row in enumerate(ROWS) for layer in row}
# These import no layer but themselves: the protocol machines, and the demo's data, which `cli` alone may use.
ALONE = {"http2", "grpc_wire", "examples"}
# Names that the server's own __init__ gives, so that `from penstock_server import ...` names no layer.
PACKAGE_NAMES = {"__version__"}
# `cli` runs the client and the load generator, and nothing else of the server knows them.
FOR_CLI = {"penstock_client", "penstock_bench"}


def _banned_in_scheduler() -> dict[str, str]:
    """What scheduler/ruff.toml bans, and why: one list serves the editor and this test."""
    settings = tomllib.loads((REPOSITORY / "scheduler/ruff.toml").read_text())
    return {name: ban["msg"] for name, ban in settings["lint"]["flake8-tidy-imports"]["banned-api"].items()}


BANNED_IN_SCHEDULER = _banned_in_scheduler()


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name, e.g. `penstock_server.errors.NotFound` for `from penstock_server.errors import NotFound`."""

    name: str
    line: int
    deferred: bool
    """True inside a function or under `if TYPE_CHECKING:`, so that loading the module does not run it."""


def imports(source: str) -> Iterator[Import]:
    return _imports(ast.parse(source).body, deferred=False)


def _imports(nodes: Iterable[ast.AST], deferred: bool) -> Iterator[Import]:
    for node in nodes:
        match node:
            case ast.Import(names=names):
                yield from (Import(alias.name, node.lineno, deferred) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                prefix = "." * level + (f"{module}." if module else "")
                yield from (Import(prefix + alias.name, node.lineno, deferred) for alias in names)
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body, orelse=orelse):
                yield from _imports(body, deferred=True)
                yield from _imports(orelse, deferred)
            case ast.FunctionDef(body=body) | ast.AsyncFunctionDef(body=body):
                yield from _imports(body, deferred=True)
            case _:
                yield from _imports(ast.iter_child_nodes(node), deferred)


def violations(module: str, source: str) -> list[str]:
    """Each import that `module` may not have, as a sentence; empty when it keeps to the order."""
    found = ((each, _objection(module, each)) for each in imports(source))
    return [f"{module}, line {each.line}: {each.name}: {objection}" for each, objection in found if objection]


def _objection(module: str, found: Import) -> str | None:
    if found.name.startswith("."):
        return "imports are absolute"
    package, target = module.partition(".")[0], found.name.partition(".")[0]
    if target != package and target in FOLDERS:
        if package == "penstock_server" and target in FOR_CLI:
            return _objection_to_tools(module, found)
        if target not in MAY_IMPORT[package]:
            return f"{package} does not know {target}"
    elif target != package and target not in sys.stdlib_module_names:
        is_stub = package == "penstock_proto" and module.endswith("_pb2_grpc")
        if not is_stub and target not in THIRD_PARTY.get(package, {target}):
            return f"{package} does without it"
    if package == "penstock_scheduler":
        return next((why for name, why in BANNED_IN_SCHEDULER.items() if _is_in(found.name, name)), None)
    if package == "penstock_server":
        return _objection_in_server(module, found)
    return None


def _objection_to_tools(module: str, found: Import) -> str | None:
    if _layer(module) != "cli":
        return "only cli runs it"
    return None if found.deferred else "cli imports it inside the command that runs it"


def _objection_in_server(module: str, found: Import) -> str | None:
    top = found.name.partition(".")[0]
    has_grpc = top == "grpc" or top.startswith("grpc_") or "_pb2_grpc" in found.name
    if has_grpc and not _is_in(module, "penstock_server.transports.grpcio"):
        return "only transports/grpcio imports grpc"
    own, used = _layer(module), _layer(found.name)
    if top != "penstock_server" or used in PACKAGE_NAMES:
        return None
    if used not in ROW_OF and used != "examples":
        return "names no layer"
    if own == used:
        return None
    if used == "examples":
        return None if own == "cli" else "only cli uses the examples"
    if own in ALONE:
        return f"{own} imports no other layer"
    if own not in ROW_OF:
        return "the importing module is in no layer" if own else "the package itself imports nothing of its own"
    if ROW_OF[own] == ROW_OF[used]:
        return f"{own} and {used} stand side by side"
    return None if ROW_OF[used] < ROW_OF[own] else f"{own} comes before {used}"


def _layer(name: str) -> str:
    """`penstock_server.engine.queue` -> `engine`; empty for the package itself."""
    return f"{name}.".split(".")[1]


def _is_in(name: str, parent: str) -> bool:
    return name == parent or name.startswith(f"{parent}.")


def _modules() -> dict[str, Path]:
    """Every module of the packages by its dotted name. A served model's program, `.../1/model.py`, is none of them."""
    found: dict[str, Path] = {}
    for package, folder in FOLDERS.items():
        for path in sorted((REPOSITORY / folder / package).rglob("*.py")):
            parts = path.relative_to(REPOSITORY / folder).with_suffix("").parts
            if not all(part.isidentifier() for part in parts):
                continue
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def test_every_import_keeps_to_the_order() -> None:
    """No module of Penstock imports what the architecture does not let it."""
    found = [each for module, path in MODULES.items() for each in violations(module, path.read_text())]
    assert not found, "\n".join(found)


def test_every_module_of_the_server_is_in_a_layer() -> None:
    """A new folder of the server takes its place in the order before anything is written in it."""
    layers = {_layer(module) for module in MODULES if module.startswith("penstock_server.")}
    assert layers <= set(ROW_OF) | ALONE


def test_the_order_reads_all_packages() -> None:
    """The two tests above mean nothing if they look into an empty folder."""
    assert {module.partition(".")[0] for module in MODULES} == set(FOLDERS)
    assert {"penstock_server", "penstock_server.status", "penstock_proto.pool"} <= set(MODULES)


def test_the_scheduler_is_banned_from_clock_loop_and_threads() -> None:
    """The shared list may grow, but not lose what the scheduler's purity rests on."""
    assert {"time", "asyncio", "threading"} <= set(BANNED_IN_SCHEDULER)


@pytest.mark.parametrize(
    ("module", "source", "objection"),
    [
        # Between packages.
        ("penstock_proto.pool", "import penstock_client", "penstock_proto does not know penstock_client"),
        ("penstock_client.tensors", "from penstock_server.status import Status", "does not know penstock_server"),
        ("penstock_bench.load", "import penstock_server.app", "does not know penstock_server"),
        ("penstock_bench.load", "import penstock_scheduler", "does not know penstock_scheduler"),
        ("penstock_scheduler.lanes", "from penstock_proto import pool", "does not know penstock_proto"),
        # The two that do without others' code.
        ("penstock_proto.pool", "import numpy as np", "penstock_proto does without it"),
        ("penstock_proto.pool", "import grpc", "penstock_proto does without it"),
        ("penstock_scheduler.lanes", "from sortedcontainers import SortedList", "penstock_scheduler does without it"),
        ("penstock_scheduler.lanes", "import time", "the time is passed in"),
        ("penstock_scheduler.lanes", "from asyncio.events import AbstractEventLoop", "owns the loop"),
        ("penstock_scheduler.lanes", "def f():\n    from threading import Lock", "no locks"),
        # The order inside the server.
        ("penstock_server.status", "import penstock_server.errors", "status comes before errors"),
        ("penstock_server.tensors.spec", "from penstock_server.models import Model", "tensors comes before models"),
        ("penstock_server.backends.onnx", "from penstock_server import engine", "backends comes before engine"),
        ("penstock_server.engine.core", "def f():\n    import penstock_server.service.unary", "engine comes before"),
        ("penstock_server.service", "from penstock_server.http2.frames import Frame", "service comes before http2"),
        ("penstock_server.app.run", "from penstock_server.cli import main", "app comes before cli"),
        ("penstock_server", "from penstock_server.status import Status", "the package itself imports nothing"),
        ("penstock_server.metrics", "from penstock_server.transports import grpcio", "side by side"),
        ("penstock_server.transports.wire", "from penstock_server.kafka import loop", "side by side"),
        ("penstock_server.http2.frames", "from penstock_server.status import Status", "imports no other layer"),
        ("penstock_server.grpc_wire.framing", "import penstock_server.http2.frames", "imports no other layer"),
        ("penstock_server.examples.iris", "import penstock_server.tensors", "imports no other layer"),
        ("penstock_server.app", "from penstock_server import examples", "only cli uses the examples"),
        ("penstock_server.app", "from penstock_server.utils import clamp", "names no layer"),
        ("penstock_server.app", "import penstock_server", "names no layer"),
        ("penstock_server.app", "from penstock_server import *", "names no layer"),
        ("penstock_server.utils", "from penstock_server.status import Status", "in no layer"),
        ("penstock_server.app", "from . import cli", "absolute"),
        ("penstock_server.app", "from ..errors import NotFound", "absolute"),
        # gRPC's own library, and the stubs that import it.
        ("penstock_server.service.unary", "import grpc", "only transports/grpcio"),
        ("penstock_server.transports.wire", "from grpc.aio import server", "only transports/grpcio"),
        ("penstock_server.transports.grpcio_tools", "import grpc", "only transports/grpcio"),
        ("penstock_server.app", "from grpc_health.v1 import health", "only transports/grpcio"),
        ("penstock_server.app", "from penstock_proto import health_pb2_grpc", "only transports/grpcio"),
        ("penstock_server.app", "import penstock_proto.health_pb2_grpc", "only transports/grpcio"),
        # The client and the load generator.
        ("penstock_server.service.unary", "def f():\n    import penstock_client", "only cli runs it"),
        ("penstock_server.cli.infer", "import penstock_client", "inside the command"),
        ("penstock_server.cli.infer", "class C:\n    from penstock_bench import load", "inside the command"),
        ("penstock_server.cli.infer", "if True:\n    from penstock_bench import load", "inside the command"),
        (
            "penstock_server.cli.infer",
            "if TYPE_CHECKING:\n    pass\nelse:\n    import penstock_client",
            "inside the command",
        ),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str, objection: str) -> None:
    """The checker sees each breach of the rules, once, and says which rule it is."""
    found = violations(module, source)
    assert len(found) == 1
    assert objection in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("penstock_proto.pool", "from google.protobuf import descriptor_pool"),
        ("penstock_proto.health_pb2_grpc", "import grpc\nfrom penstock_proto import health_pb2"),
        ("penstock_scheduler.lanes", "import heapq\nfrom penstock_scheduler.values import Ticket"),
        ("penstock_client.sync", "import grpc\nimport numpy as np\nfrom penstock_proto import open_inference_pb2_grpc"),
        ("penstock_bench.load", "from penstock_client import Client\nfrom penstock_proto.pool import POOL"),
        ("penstock_server.errors", "import enum\nfrom penstock_server.status import Status"),
        ("penstock_server.tensors.codec", "from penstock_server.tensors.spec import TensorSpec"),
        ("penstock_server.engine.core", "from penstock_scheduler import Scheduler\nimport asyncio\nimport time"),
        ("penstock_server.transports.grpcio.server", "import grpc\nfrom penstock_proto import health_pb2_grpc"),
        ("penstock_server.transports.grpcio", "from penstock_server.service import Service"),
        ("penstock_server.transports.wire", "from penstock_server import grpc_wire, http2"),
        ("penstock_server.service.unary", "from penstock_server import __version__"),
        ("penstock_server.service.unary", "import penstock_proto\nfrom penstock_proto import open_inference_pb2"),
        ("penstock_server.cli.demo", "from penstock_server import app, examples"),
        ("penstock_server.cli.infer", "def f():\n    from penstock_client import Client"),
        ("penstock_server.cli.infer", "async def f():\n    if True:\n        import penstock_bench"),
        ("penstock_server.cli.infer", "if TYPE_CHECKING:\n    from penstock_client import Client"),
        ("penstock_server.examples", "from importlib import resources"),
    ],
)
def test_an_allowed_import_is_let_be(module: str, source: str) -> None:
    """The checker is quiet about what the architecture allows."""
    assert violations(module, source) == []
