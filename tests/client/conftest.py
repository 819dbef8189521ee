"""The two clients behind one interface, so that one suite holds for both.

The suite is written against `AsyncClient`. A blocking `Client` takes part through `Threaded`, each of
whose methods runs the client's method of that name in a thread.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, cast

import pytest

from penstock_client import AsyncClient, Client
from penstock_client.retry import RetryPolicy
from penstock_client.settings import Metadata, Tls
from tests.client.echo import Echo, serving


class Threaded:
    """A blocking client whose methods are coroutines."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: asyncio.to_thread(method, *args, **kwargs)


class Connect(Protocol):
    """Makes a client, which is closed when the test ends."""

    def __call__(
        self,
        target: str,
        *,
        tls: Tls | None = None,
        timeout: float | None = 60.0,
        retries: RetryPolicy = ...,
        metadata: Metadata | None = None,
    ) -> AsyncClient: ...


@pytest.fixture(params=["sync", "async"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    clients: list[AsyncClient] = []

    def connect(target: str, *, timeout: float | None = 60.0, **settings: Any) -> AsyncClient:
        if request.param == "sync":
            client = cast(AsyncClient, Threaded(Client(target, timeout=timeout, **settings)))
        else:
            client = AsyncClient(target, timeout=timeout, **settings)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        await client.close()


@pytest.fixture
async def echo() -> Echo:
    return Echo()


@pytest.fixture
async def target(echo: Echo) -> AsyncIterator[str]:
    async with serving(echo) as address:
        yield address


@pytest.fixture
async def client(connect: Connect, target: str) -> AsyncClient:
    return connect(target)
