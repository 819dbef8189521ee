"""The transports behind one interface, so that one suite holds for all: see test_behaviour.py."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, cast

import grpc
import pytest
from grpc import aio

from penstock_server.service.seam import Methods
from penstock_server.transports.base import Transport, TransportSettings
from penstock_server.transports.grpcio import GrpcioTransport
from penstock_server.transports.wire import WireTransport

MakeTransport: TypeAlias = Callable[[Methods, TransportSettings], Transport]
UnaryCall: TypeAlias = "aio.UnaryUnaryMultiCallable[bytes, bytes]"
StreamCall: TypeAlias = "aio.StreamStreamMultiCallable[bytes, bytes]"

TRANSPORTS: Mapping[str, MakeTransport] = {"grpcio": GrpcioTransport, "wire": WireTransport}


@dataclass(frozen=True, slots=True)
class Served:
    """A transport that listens, and a client that is connected to it."""

    transport: Transport
    port: int
    channel: aio.Channel

    def unary(self, path: str) -> UnaryCall:
        return self.channel.unary_unary(path)

    def stream(self, path: str) -> StreamCall:
        return cast("StreamCall", self.channel.stream_stream(path))


class Serve(Protocol):
    """Serves methods until the test ends."""

    async def __call__(self, methods: Methods, **settings: Any) -> Served: ...


def channel_to(port: int, credentials: grpc.ChannelCredentials | None = None) -> aio.Channel:
    """A connection of its own, and no bounds of the client's."""
    options = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    target = f"localhost:{port}"
    if credentials is None:
        return aio.insecure_channel(target, options=options)
    return aio.secure_channel(target, credentials, options=options)


@pytest.fixture(params=list(TRANSPORTS))
def make_transport(request: pytest.FixtureRequest) -> MakeTransport:
    return TRANSPORTS[request.param]


@pytest.fixture
async def serve(make_transport: MakeTransport) -> AsyncIterator[Serve]:
    served: list[Served] = []

    async def serve(methods: Methods, **settings: Any) -> Served:
        transport = make_transport(methods, TransportSettings(port=0, **settings))
        port = await transport.start()
        served.append(Served(transport, port, channel_to(port)))
        return served[-1]

    yield serve
    for each in served:
        await each.channel.close()
        await each.transport.stop(0.0)
        assert each.transport.statistics().calls_in_flight == 0
