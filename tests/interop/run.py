"""Run gRPC's interop cases with clients of other languages against both transports: what `make interop` does.

Each client is a program that is given an address and prints `case<TAB>ok`, or what went wrong, a line a case. It is
built in build/interop; where its tools are missing a sentence says so and the others run. The exit status is 1 if a
case failed or said nothing.
"""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from penstock_server.transports.base import Transport, TransportSettings
from penstock_server.transports.grpcio import GrpcioTransport
from penstock_server.transports.wire import WireTransport
from tests.interop.service import InteropService

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / "build" / "interop"
PROTO = HERE / "interop.proto"
CLIENT_SECONDS = 120.0

CASES = (
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
    "client_compressed_unary",
    "client_compressed_streaming",
)

Outcomes = Mapping[str, str]
"""By case: `ok`, or what went wrong."""
Command = Sequence[str | Path]


class NotBuilt(Exception):
    """A client cannot be built here; the text is a sentence for the reader."""


@dataclass(frozen=True, slots=True)
class Client:
    """A client of another language. `build` gives the command that runs it, to which the address is added."""

    language: str
    build: Callable[[Path], Command]


def build_node(folder: Path) -> Command:
    """Node's own gRPC, which is no wrapper of the C one."""
    need("Node", "node", "npm")
    for name in ("package.json", "interop.js"):
        shutil.copy(HERE / "clients" / "node" / name, folder)
    step("Node", folder, "npm", "install", "--no-audit", "--no-fund", "--loglevel=error")
    shutil.copy(PROTO, folder)
    return ("node", folder / "interop.js")


def build_cpp(folder: Path) -> Command:
    """gRPC's C++ client of the system's packages, years older than grpcio's core."""
    need("C++", "g++", "protoc", "grpc_cpp_plugin", "pkg-config")
    plugin = f"--plugin=protoc-gen-grpc={shutil.which('grpc_cpp_plugin')}"
    step("C++", folder, "protoc", f"-I{HERE}", "--cpp_out=.", "--grpc_out=.", plugin, PROTO)
    flags = step("C++", folder, "pkg-config", "--cflags", "--libs", "grpc++", "protobuf").split()
    sources = (HERE / "clients" / "cpp" / "interop.cc", "interop.pb.cc", "interop.grpc.pb.cc")
    step("C++", folder, "g++", "-std=c++17", "-I.", *sources, "-o", "interop", *flags)
    return (folder / "interop",)


CLIENTS = (Client("Node", build_node), Client("C++", build_cpp))
TRANSPORTS: Mapping[str, Callable[[InteropService], Transport]] = {
    "wire": lambda service: WireTransport(service.methods, TransportSettings(port=0)),
    "grpcio": lambda service: GrpcioTransport(service.methods, TransportSettings(port=0)),
}


def need(language: str, *tools: str) -> None:
    """Raise NotBuilt, which names the tools, if some are not installed."""
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        raise NotBuilt(f"{language}'s client is left out: there is no {', no '.join(missing)} here.")


def step(language: str, folder: Path, *command: str | Path) -> str:
    """One command of a build, in its folder. Returns what it prints; raises NotBuilt with what it complains of."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise NotBuilt(f"{language}'s client is left out: {command[0]} says '{said[0]}'.")
    return done.stdout


async def outcomes(command: Command, port: int) -> Outcomes:
    """What a client prints. Cases of which it says nothing are not in it."""
    address = f"localhost:{port}"
    process = await asyncio.create_subprocess_exec(*command, address, stdout=subprocess.PIPE)
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), CLIENT_SECONDS)
    except TimeoutError:
        process.kill()
        printed, _ = await process.communicate()
    lines = (line.partition("\t") for line in printed.decode().splitlines())
    return {case: outcome for case, tab, outcome in lines if tab}


async def run(commands: Mapping[str, Command]) -> Mapping[str, Outcomes]:
    """Every client against every transport, one after the other."""
    results: dict[str, Outcomes] = {}
    for name, make in TRANSPORTS.items():
        transport = make(InteropService())
        port = await transport.start()
        for language, command in commands.items():
            results[f"{language}, {name}"] = await outcomes(command, port)
        await transport.stop(0.0)
    return results


def main() -> int:
    console = Console()
    commands: dict[str, Command] = {}
    for client in CLIENTS:
        folder = BUILD / client.language.lower().replace("+", "p")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            commands[client.language] = client.build(folder)
        except NotBuilt as error:
            console.print(str(error), markup=False)
    results = asyncio.run(run(commands))
    if not results:
        return 0

    table = Table()
    table.add_column("case", no_wrap=True)
    for name in results:
        table.add_column(name)
    for case in CASES:
        table.add_row(case, *(outcome.get(case, "no answer") for outcome in results.values()))
    console.print(table)
    return int(any(outcome.get(case) != "ok" for outcome in results.values() for case in CASES))


if __name__ == "__main__":
    sys.exit(main())
