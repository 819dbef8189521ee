"""The asyncio client: `sync_client`'s twin, line by line where nothing waits.

Two things are particular to `grpc.aio`:

* A call that its caller abandons stays open at the server until its deadline, since the object that
  represents it is kept alive (grpc issue 43462). So each call is cancelled when control leaves it,
  however it does; for one that has ended this means nothing.
* A channel belongs to the event loop that was running when it was made. It is made with the first
  call, so that a client may be made anywhere; from then on it belongs to that loop.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc
import grpc.aio

from penstock_client import calls, codec, streams
from penstock_client.calls import Call, Health
from penstock_client.codec import InferResult, OutputRequest, Parameter, Signature
from penstock_client.errors import InferenceError, of_rpc_error
from penstock_client.retry import NO_RETRIES, Deadline, Retries, RetryPolicy
from penstock_client.settings import Metadata, Options, Settings, Timeout, Tls
from penstock_client.streams import StreamAnswer, StreamRequest
from penstock_client.tensors import TensorLike
from penstock_proto import model_config_pb2 as model_config_pb
from penstock_proto import open_inference_pb2 as pb

T = TypeVar("T")


class AsyncClient:
    """A connection to an inference server that speaks the V2 protocol, for asyncio.

    Arguments, methods and errors are those of `Client`. The tasks of one event loop may share a client.

    >>> async with AsyncClient("127.0.0.1:8001", timeout=2.0) as client:
    ...     results = await asyncio.gather(*(client.infer("iris", {"X": x}) for x in batches))

    A task that is cancelled while it waits cancels its call at the server.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: Tls | None = None,
        timeout: float | None = None,
        retries: RetryPolicy = RetryPolicy(),  # noqa: B008 - immutable
        metadata: Metadata | None = None,
        options: Options | None = None,
    ) -> None:
        self._settings = Settings.of(target, tls, timeout, retries, metadata, options)
        self._credentials = None if tls is None else tls.credentials()
        self._channel: grpc.aio.Channel | None = None
        self._rpcs: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}
        self._signatures: dict[tuple[str, str], Signature] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<AsyncClient of {self._settings.target}{', closed' if self._closed else ''}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection. Calls of other tasks that are under way fail with CANCELLED."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def is_live(self, *, timeout: Timeout = None) -> bool:
        """As `Client.is_live`."""
        return await self._make(calls.server_live(), timeout)

    async def is_ready(self, *, timeout: Timeout = None) -> bool:
        """As `Client.is_ready`."""
        return await self._make(calls.server_ready(), timeout)

    async def is_model_ready(self, name: str, version: str = "", *, timeout: Timeout = None) -> bool:
        """As `Client.is_model_ready`."""
        return await self._make(calls.model_ready(name, version), timeout)

    async def server_metadata(self, *, timeout: Timeout = None) -> pb.ServerMetadataResponse:
        """As `Client.server_metadata`."""
        return await self._make(calls.server_metadata(), timeout)

    async def model_metadata(
        self, name: str, version: str = "", *, timeout: Timeout = None
    ) -> pb.ModelMetadataResponse:
        """As `Client.model_metadata`."""
        return await self._make(calls.model_metadata(name, version), timeout)

    async def model_config(
        self, name: str, version: str = "", *, timeout: Timeout = None
    ) -> model_config_pb.ModelConfig:
        """As `Client.model_config`."""
        return await self._make(calls.model_config(name, version), timeout)

    async def statistics(
        self, name: str = "", version: str = "", *, timeout: Timeout = None
    ) -> Sequence[pb.ModelStatistics]:
        """As `Client.statistics`."""
        return await self._make(calls.statistics(name, version), timeout)

    async def repository_index(
        self, *, ready: bool = False, timeout: Timeout = None
    ) -> Sequence[pb.RepositoryIndexResponse.ModelIndex]:
        """As `Client.repository_index`."""
        return await self._make(calls.repository_index(ready), timeout)

    async def health(self, service: str = "", *, timeout: Timeout = None) -> Health:
        """As `Client.health`."""
        return await self._make(calls.health(service), timeout)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, TensorLike],
        *,
        version: str = "",
        outputs: Iterable[str | OutputRequest] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        request_id: str = "",
        timeout: Timeout = None,
        metadata: Metadata | None = None,
    ) -> InferResult:
        """As `Client.infer`.

        >>> result = await client.infer("iris", {"X": [[5.1, 3.5, 1.4, 0.2]]}, outputs=["label"])
        """
        deadline = self._settings.deadline(timeout)
        known = await self._signature(model, version, deadline, metadata) if codec.needs_signature(inputs) else None
        call = calls.model_infer(
            model,
            inputs,
            known,
            version=version,
            outputs=outputs,
            parameters=parameters,
            request_id=request_id,
        )
        try:
            return await self._make(call, deadline, metadata)
        except InferenceError as error:
            if error.status is grpc.StatusCode.INVALID_ARGUMENT:
                # Perhaps another model was loaded under this name: ask anew the next time.
                self._signatures.pop((model, version), None)
            raise

    async def stream(
        self,
        requests: Iterable[StreamRequest] | AsyncIterable[StreamRequest],
        *,
        timeout: Timeout = None,
        metadata: Metadata | None = None,
    ) -> AsyncGenerator[StreamAnswer, None]:
        """As `Client.stream`; the requests may come from an async generator, which is asked for one at a time.

        >>> async for answer in client.stream(StreamRequest("counter", {"N": [3]}) for _ in range(2)):
        ...     print(answer.id, answer.result()["I"])
        """
        deadline, pairs = self._settings.deadline(timeout), self._settings.pairs(metadata)
        failures: list[Exception] = []

        async def messages() -> AsyncGenerator[bytes, None]:
            try:
                async for request in _awaited(requests):
                    known = None
                    if streams.needs_signature(request):
                        known = await self._signature(request.model, request.version, deadline, metadata)
                    yield streams.message(request, known)
            except Exception as error:  # gRPC would log it, and tell the caller of something else
                failures.append(error)
                rpc.cancel()

        if self._closed:
            raise RuntimeError("the client is closed")
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._connected().stream_stream(streams.PATH)
        rpc = method(messages(), timeout=deadline.timeout(time.monotonic()), metadata=pairs)
        try:
            async for answer in rpc:
                yield streams.answer(answer)
        except grpc.RpcError as error:
            raise of_rpc_error(error) from error
        except asyncio.CancelledError:
            if failures:
                raise failures[0] from None
            self._raise_if_closed_by_another_task()
            raise
        finally:
            rpc.cancel()

    async def _signature(self, model: str, version: str, deadline: Deadline, metadata: Metadata | None) -> Signature:
        known = self._signatures.get((model, version))
        if known is None:
            known = await self._make(calls.signature(model, version), deadline, metadata)
            self._signatures[model, version] = known
        return known

    async def _make(self, call: Call[T], timeout: Timeout, metadata: Metadata | None = None) -> T:
        deadline, pairs = self._settings.deadline(timeout), self._settings.pairs(metadata)
        retries = Retries(NO_RETRIES if call.once else self._settings.retries, deadline)
        while True:
            rpc = self._rpc(call.path)(call.message, timeout=deadline.timeout(time.monotonic()), metadata=pairs)
            try:
                return call.read(await rpc)
            except grpc.RpcError as error:
                failure = of_rpc_error(error)
            except asyncio.CancelledError:
                self._raise_if_closed_by_another_task()
                raise
            finally:
                rpc.cancel()
            wait = retries.next_wait(failure, time.monotonic(), random.random())
            if wait is None:
                return call.failed(failure)
            await asyncio.sleep(wait)

    def _raise_if_closed_by_another_task(self) -> None:
        """To grpc.aio, closing a channel cancels those who wait on it; to them, their call failed."""
        task = asyncio.current_task()
        if self._closed and not (task and task.cancelling()):
            raise InferenceError(grpc.StatusCode.CANCELLED, "the client was closed") from None

    def _rpc(self, path: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        if self._closed:
            raise RuntimeError("the client is closed")
        rpc = self._rpcs.get(path)
        if rpc is None:
            rpc = self._rpcs[path] = self._connected().unary_unary(path)
        return rpc

    def _connected(self) -> grpc.aio.Channel:
        if self._channel is None:
            target, options = self._settings.target, self._settings.options
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(target, options)
            else:
                self._channel = grpc.aio.secure_channel(target, self._credentials, options)
        return self._channel


async def _awaited(requests: Iterable[StreamRequest] | AsyncIterable[StreamRequest]) -> AsyncIterator[StreamRequest]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
        return
    for request in requests:
        yield request
