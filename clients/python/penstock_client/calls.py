"""The calls of the V2 protocol and of `grpc.health.v1` as values: the table both clients work from.

A `Call` is bytes out and a reading of the bytes that come back. The clients carry bytes; gRPC never
sees a message, so no error of a (de)serialiser can surface as something else, and a retry sends what
was serialised once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Generic, TypeVar

import grpc
from google.protobuf.message import Message

from penstock_client import codec
from penstock_client.codec import InferResult, OutputRequest, Parameter, Signature
from penstock_client.errors import InferenceError
from penstock_client.tensors import TensorLike
from penstock_proto import health_pb2
from penstock_proto import model_config_pb2 as model_config_pb
from penstock_proto import open_inference_pb2 as pb

T = TypeVar("T")
M = TypeVar("M", bound=Message)

_V2 = "/inference.GRPCInferenceService/"
_HEALTH = "/grpc.health.v1.Health/"


class Health(Enum):
    """What a health check answers."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One unary call, not yet made."""

    path: str
    message: bytes
    read: Callable[[bytes], T]
    """The answer's meaning. InferenceError if it has none."""
    once: bool = False
    """Whether it must not be retried."""
    instead: Mapping[grpc.StatusCode, T] = field(default_factory=dict[grpc.StatusCode, T])
    """The answers that some statuses amount to."""

    def failed(self, error: InferenceError) -> T:
        """The answer that this failure amounts to, else raise it."""
        if error.status in self.instead:
            return self.instead[error.status]
        raise error


def _call(path: str, request: Message, response: type[M], pick: Callable[[M], T]) -> Call[T]:
    return Call(path, request.SerializeToString(), lambda answer: pick(codec.parsed(response, answer)))


def _probe(path: str, request: Message, response: type[M], pick: Callable[[M], bool]) -> Call[bool]:
    """A question about now: not retried, and "nobody there" and "no such model" mean no."""
    no = {grpc.StatusCode.UNAVAILABLE: False, grpc.StatusCode.NOT_FOUND: False}
    return replace(_call(path, request, response, pick), once=True, instead=no)


def _whole(response: M) -> M:
    return response


def server_live() -> Call[bool]:
    return _probe(_V2 + "ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse, lambda response: response.live)


def server_ready() -> Call[bool]:
    return _probe(_V2 + "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse, lambda response: response.ready)


def model_ready(name: str, version: str) -> Call[bool]:
    request = pb.ModelReadyRequest(name=name, version=version)
    return _probe(_V2 + "ModelReady", request, pb.ModelReadyResponse, lambda response: response.ready)


def server_metadata() -> Call[pb.ServerMetadataResponse]:
    return _call(_V2 + "ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse, _whole)


def model_metadata(name: str, version: str) -> Call[pb.ModelMetadataResponse]:
    request = pb.ModelMetadataRequest(name=name, version=version)
    return _call(_V2 + "ModelMetadata", request, pb.ModelMetadataResponse, _whole)


def signature(name: str, version: str) -> Call[Signature]:
    request = pb.ModelMetadataRequest(name=name, version=version)
    return _call(_V2 + "ModelMetadata", request, pb.ModelMetadataResponse, codec.signature)


def model_config(name: str, version: str) -> Call[model_config_pb.ModelConfig]:
    request = pb.ModelConfigRequest(name=name, version=version)
    return _call(_V2 + "ModelConfig", request, pb.ModelConfigResponse, lambda response: response.config)


def statistics(name: str, version: str) -> Call[Sequence[pb.ModelStatistics]]:
    request = pb.ModelStatisticsRequest(name=name, version=version)
    return _call(_V2 + "ModelStatistics", request, pb.ModelStatisticsResponse, lambda response: response.model_stats)


def repository_index(ready: bool) -> Call[Sequence[pb.RepositoryIndexResponse.ModelIndex]]:
    request = pb.RepositoryIndexRequest(ready=ready)
    return _call(_V2 + "RepositoryIndex", request, pb.RepositoryIndexResponse, lambda response: response.models)


def health(service: str) -> Call[Health]:
    request = health_pb2.HealthCheckRequest(service=service)
    return _call(_HEALTH + "Check", request, health_pb2.HealthCheckResponse, _health)


def _health(response: health_pb2.HealthCheckResponse) -> Health:
    try:
        return Health(response.status)
    except ValueError:  # proto3 enums are open: a later protocol may know more
        return Health.UNKNOWN


def model_infer(
    model: str,
    inputs: Mapping[str, TensorLike],
    signature: Signature | None,
    *,
    version: str,
    outputs: Iterable[str | OutputRequest] | None,
    parameters: Mapping[str, Parameter] | None,
    request_id: str,
) -> Call[InferResult]:
    message = codec.infer_request(
        model,
        inputs,
        signature,
        version=version,
        outputs=outputs,
        parameters=parameters,
        request_id=request_id,
    )
    # A sequence has state: the same step done twice is another sequence.
    once = parameters is not None and "sequence_id" in parameters
    return Call(_V2 + "ModelInfer", message, codec.infer_result, once=once)
