"""A server in the test's own process and loop, and the clients that other people use."""

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import grpc
import pytest
from google.protobuf.message import Message
from grpc import aio

from penstock_server.app.server import PenstockServer
from penstock_server.app.settings import ServerSettings, TransportName
from penstock_server.transports.base import TransportSettings


class Start(Protocol):
    """Starts a server on free ports, to be stopped when the test ends."""

    async def __call__(self, source: Path, **settings: Any) -> PenstockServer: ...


def settings_for(source: Path, **settings: Any) -> ServerSettings:
    return ServerSettings(
        source=source, transport=TransportSettings(port=0), metrics_port=settings.pop("metrics_port", None), **settings
    )


@pytest.fixture(params=TransportName, ids=lambda name: name.value)
def transport(request: pytest.FixtureRequest) -> TransportName:
    """Each transport in turn: a server is the same behind all."""
    name = request.param
    assert isinstance(name, TransportName)
    return name


@pytest.fixture
async def start(transport: TransportName) -> AsyncIterator[Start]:
    started: list[PenstockServer] = []

    async def start(source: Path, **settings: Any) -> PenstockServer:
        server = PenstockServer(settings_for(source, transport_name=transport, **settings))
        started.append(server)
        await server.start()
        return server

    yield start
    for server in started:
        await server.stop(0.0)


@pytest.fixture
def shared() -> Iterator[ModuleType]:
    """A module that models import as `shared`, to meet the test in."""
    module = ModuleType("shared")
    sys.modules["shared"] = module
    yield module
    del sys.modules["shared"]


class Caller:
    """A client that knows the messages and nothing else."""

    def __init__(self, port: int) -> None:
        options = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
        self.channel = aio.insecure_channel(f"127.0.0.1:{port}", options=options)

    async def __aenter__(self) -> "Caller":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def __call__(self, path: str, request: Message, response: type[Message], timeout: float = 60) -> Any:
        """The response; raises AioRpcError."""
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(path)
        return response.FromString(await call(request.SerializeToString(), timeout=timeout))

    async def end(self, path: str, request: Message, timeout: float = 60) -> tuple[grpc.StatusCode, str]:
        """How a call ends."""
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(path)
        try:
            await call(request.SerializeToString(), timeout=timeout)
        except aio.AioRpcError as error:
            return error.code(), error.details() or ""
        return grpc.StatusCode.OK, ""
