"""Requests and answers on a stream (`ModelStreamInfer`), as values. Pure; both clients share it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc

from penstock_client import codec
from penstock_client.codec import InferResult, OutputRequest, Parameter
from penstock_client.errors import InferenceError
from penstock_client.tensors import TensorLike
from penstock_proto import open_inference_pb2 as pb

PATH = "/inference.GRPCInferenceService/ModelStreamInfer"
_FINAL = "triton_final_response"
_STATUS = "grpc_status"
_STATUSES = {status.value[0]: status for status in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """One request of a stream. The arguments are those of `Client.infer`."""

    model: str
    inputs: Mapping[str, TensorLike]
    version: str = ""
    outputs: Iterable[str | OutputRequest] | None = None
    parameters: Mapping[str, Parameter] | None = None
    """Of a sequence: `sequence_id`, `sequence_start`, `sequence_end`."""
    request_id: str = ""
    """Comes back with the answers. Answers come in the order of the requests, except those of decoupled models."""

    @classmethod
    def cancel(cls, request_id: str) -> "StreamRequest":
        """No request, but the wish that those of this id be cancelled (Penstock's own; other servers know no such)."""
        return cls("", {}, parameters={"cancel": request_id})


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """One message that a stream brought: a response, or why a request failed. The stream goes on either way."""

    id: str
    """Of the request."""
    final: bool
    """Whether it is the last to its request."""
    outcome: InferResult | InferenceError

    def result(self) -> InferResult:
        """The response. Raises InferenceError if the request failed."""
        if isinstance(self.outcome, InferenceError):
            raise self.outcome
        return self.outcome


def needs_signature(request: StreamRequest) -> bool:
    """Whether only the model can say what these inputs are to be sent as."""
    return codec.needs_signature(request.inputs)


def message(request: StreamRequest, signature: codec.Signature | None) -> bytes:
    """The request as it travels. InputError for what cannot be sent."""
    return codec.infer_request(
        request.model,
        request.inputs,
        signature,
        version=request.version,
        outputs=request.outputs,
        parameters=request.parameters,
        request_id=request.request_id,
    )


def answer(data: bytes) -> StreamAnswer:
    """What a serialised `ModelStreamInferResponse` says. InferenceError if it contradicts itself."""
    response = codec.parsed(pb.ModelStreamInferResponse, data)
    inner = response.infer_response
    if response.error_message:
        # A server that does not tell the status: Triton. It fails requests for what they are, mostly.
        number = inner.parameters[_STATUS].int64_param if _STATUS in inner.parameters else 3
        status = _STATUSES.get(number, grpc.StatusCode.UNKNOWN)
        return StreamAnswer(inner.id, True, InferenceError(status, response.error_message))
    result = codec.read_response(inner)
    return StreamAnswer(inner.id, bool(result.parameters.get(_FINAL, True)), result)
