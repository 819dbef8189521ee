"""The test service behind each transport, and gRPC's own client of it: the transports' fixtures, with a service."""

from collections.abc import Iterator

import grpc
import pytest

from tests.interop import interop_pb2_grpc as services
from tests.interop.service import InteropService
from tests.server.transports.conftest import Serve, Served, make_transport, serve
from tests.server.transports.methods import News

__all__ = ["make_transport", "serve"]


@pytest.fixture
def news() -> News:
    """Hears "over" for every stream whose client has said its last or has given it up."""
    return News()


@pytest.fixture
async def served(serve: Serve, news: News) -> Served:
    return await serve(InteropService(on_over=lambda: news.add("over")).methods)


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    """Of the client that blocks: not for the event loop's thread."""
    with grpc.insecure_channel(f"localhost:{served.port}", options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> "services.TestServiceStub":
    return services.TestServiceStub(channel)
