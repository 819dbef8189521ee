"""A small real server for the client's tests: gRPC's own, our messages, and no model but an echo.

It answers `ModelInfer` with the inputs as outputs, after failing as often as `failures` says. The
model `hang` never answers; `hanging` and `abandoned` tell when a call arrived and when it was cancelled.
`requests` and `tries` keep what it was asked, when and how.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message

from penstock_proto import health_pb2
from penstock_proto import model_config_pb2 as model_config_pb
from penstock_proto import open_inference_pb2 as pb

Context: TypeAlias = grpc.aio.ServicerContext[Message, Message]

SERVICES: dict[str, dict[str, type[Message]]] = {
    "inference.GRPCInferenceService": {
        "ServerLive": pb.ServerLiveRequest,
        "ServerReady": pb.ServerReadyRequest,
        "ModelReady": pb.ModelReadyRequest,
        "ServerMetadata": pb.ServerMetadataRequest,
        "ModelMetadata": pb.ModelMetadataRequest,
        "ModelConfig": pb.ModelConfigRequest,
        "ModelStatistics": pb.ModelStatisticsRequest,
        "RepositoryIndex": pb.RepositoryIndexRequest,
        "ModelInfer": pb.ModelInferRequest,
    },
    "grpc.health.v1.Health": {"Check": health_pb2.HealthCheckRequest},
}


@dataclass(frozen=True, slots=True)
class Failure:
    """How a try is to end."""

    status: grpc.StatusCode
    message: str = "as told"
    trailers: tuple[tuple[str, str | bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Try:
    """A call of `ModelInfer` as the server saw it."""

    at: float
    remaining: float | None
    """Seconds left until its deadline."""
    metadata: dict[str, str | bytes]


class Echo:
    """The behaviour: one coroutine for each method of `SERVICES`."""

    def __init__(self) -> None:
        self.failures: deque[Failure] = deque()
        self.requests: list[pb.ModelInferRequest] = []
        self.tries: list[Try] = []
        self.metadata_calls = 0
        self.datatype = "FP32"
        self.hanging = asyncio.Event()
        self.abandoned = asyncio.Event()

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        metadata = dict(context.invocation_metadata() or ())
        self.requests.append(request)
        self.tries.append(Try(time.monotonic(), context.time_remaining(), metadata))
        if self.failures:
            failure = self.failures.popleft()
            await context.abort(failure.status, failure.message, failure.trailers)
        if request.model_name == "hang":
            await self._hang()
        return pb.ModelInferResponse(
            model_name=request.model_name,
            model_version=request.model_version or "1",
            id=request.id,
            parameters=request.parameters,
            outputs=[
                pb.ModelInferResponse.InferOutputTensor(name=one.name, datatype=one.datatype, shape=one.shape)
                for one in request.inputs
            ],
            raw_output_contents=request.raw_input_contents,
        )

    async def _hang(self) -> None:
        self.hanging.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.abandoned.set()

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        if self.failures:
            failure = self.failures.popleft()
            await context.abort(failure.status, failure.message)
        return pb.ServerReadyResponse(ready=True)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        if request.name == "unknown":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return pb.ModelReadyResponse(ready=request.version in ("", "1"))

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="echo", version="9", extensions=["statistics"])

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        self.metadata_calls += 1
        tensor = pb.ModelMetadataResponse.TensorMetadata(name="x", datatype=self.datatype, shape=[-1])
        return pb.ModelMetadataResponse(name=request.name, versions=["1"], platform="echo", inputs=[tensor])

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=model_config_pb.ModelConfig(name=request.name, max_batch_size=8))

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:
        one = pb.ModelStatistics(name=request.name or "all", version="1", inference_count=len(self.requests))
        return pb.ModelStatisticsResponse(model_stats=[one])

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        index = pb.RepositoryIndexResponse.ModelIndex
        models = [index(name="echo", version="1", state="READY"), index(name="old", state="UNAVAILABLE")]
        return pb.RepositoryIndexResponse(models=models[:1] if request.ready else models)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        if request.service == "unheard-of":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        serving = health_pb2.HealthCheckResponse.SERVING
        return health_pb2.HealthCheckResponse(status=serving)


def _handlers(echo: Echo) -> list[grpc.GenericRpcHandler]:
    def handler(method: str, request: type[Message]) -> "grpc.RpcMethodHandler[Message, Message]":
        behaviour: Callable[[Message, Context], Awaitable[Message]] = getattr(echo, method)
        return grpc.unary_unary_rpc_method_handler(
            behaviour,
            request_deserializer=request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    return [
        grpc.method_handlers_generic_handler(
            service, {method: handler(method, request) for method, request in methods.items()}
        )
        for service, methods in SERVICES.items()
    ]


@asynccontextmanager
async def serving(
    echo: Echo, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[str]:
    """Serve at this address; yields `host:port` as it came out. Ends what is under way on leaving."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.aio.server(options=unlimited)
    for handler in _handlers(echo):
        server.add_generic_rpc_handlers([handler])
    host = address.rpartition(":")[0]
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield f"{host}:{port}"
    finally:
        await server.stop(None)
