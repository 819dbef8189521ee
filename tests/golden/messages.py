"""Requests of the golden models, made by hand, and what comes back as values.

Each function makes a good request of one model; a test breaks what it is about.
"""

import json
from collections.abc import Sequence
from typing import cast

import numpy as np

from penstock_proto import byte_tensors
from penstock_proto import open_inference_pb2 as pb
from tests.golden.cases import SERVICE, Json, show
from tests.golden.serving import Call

OK = ("OK", "")
UNKNOWN_ID = "[request id: <id_unknown>] "
HEALTH = "/grpc.health.v1.Health/Check"

# ── requests ──────────────────────────────────────────────────────────────────────────────────────

Input = pb.ModelInferRequest.InferInputTensor
Output = pb.ModelInferRequest.InferRequestedOutputTensor
Parameter = pb.InferParameter
Contents = pb.InferTensorContents


def given(name: str, datatype: str, *shape: int, contents: Contents | None = None) -> Input:
    return Input(name=name, datatype=datatype, shape=shape, contents=contents)


def asked(name: str, classes: int | None = None) -> Output:
    """An output, or its best classes."""
    if classes is None:
        return Output(name=name)
    return Output(name=name, parameters={"classification": Parameter(int64_param=classes)})


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def ints(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


FOUR = floats(1, 2, 3, 4)
A, B = given("A", "FP32", 1, 4), given("B", "FP32", 1, 4)


def addsub(
    *inputs: Input, raw: Sequence[bytes] = (FOUR, FOUR), version: str = "", id: str = ""
) -> pb.ModelInferRequest:
    """A request of `addsub`, a good one if nothing is said."""
    return pb.ModelInferRequest(
        model_name="addsub", model_version=version, id=id, inputs=inputs or (A, B), raw_input_contents=raw
    )


def told(**parameters: Parameter) -> pb.ModelInferRequest:
    """A request of the model that answers what it is told."""
    inputs = [given("IN", "INT32", 1)]
    return pb.ModelInferRequest(
        model_name="parameters", inputs=inputs, raw_input_contents=[ints(0)], parameters=parameters
    )


def passed(
    datatype: str, *shape: int, raw: bytes | None = None, contents: Contents | None = None
) -> pb.ModelInferRequest:
    """A request of `pass_<T>`."""
    raws = [] if raw is None else [raw]
    inputs = [given("IN", datatype, *shape, contents=contents)]
    return pb.ModelInferRequest(model_name=f"pass_{datatype}", inputs=inputs, raw_input_contents=raws)


def classified(*outputs: Output, scores: Sequence[float] = (1, 4, 3, 2), rows: int = 1) -> pb.ModelInferRequest:
    """A request of `classifier`, by default one row."""
    inputs = [given("IN", "FP32", rows, len(scores) // rows)]
    return pb.ModelInferRequest(
        model_name="classifier", inputs=inputs, outputs=outputs, raw_input_contents=[floats(*scores)]
    )


def failing(code: int, text: str) -> pb.ModelInferRequest:
    """A request of `fail`."""
    inputs = [given("TEXT", "BYTES", 1), given("CODE", "INT32", 1)]
    raw = [byte_tensors.pack([text.encode()]), ints(code)]
    return pb.ModelInferRequest(model_name="fail", inputs=inputs, raw_input_contents=raw)


# ── answers ───────────────────────────────────────────────────────────────────────────────────────


def end(call: Call, request: pb.ModelInferRequest) -> tuple[str, str]:
    """How an inference ends: status and text."""
    reply = call(f"/{SERVICE}/ModelInfer", [request.SerializeToString()])
    return reply.status, reply.details


def answer(call: Call, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """The answer to an inference that goes well."""
    reply = call(f"/{SERVICE}/ModelInfer", [request.SerializeToString()])
    assert (reply.status, reply.details) == OK
    (response,) = reply.responses
    return pb.ModelInferResponse.FromString(response)


def seen(call: Call, request: pb.ModelInferRequest) -> dict[str, Json]:
    """What `parameters` says it was told."""
    (element,) = byte_tensors.unpack(answer(call, request).raw_output_contents[0])
    return cast("dict[str, Json]", json.loads(element))


def classes(call: Call, request: pb.ModelInferRequest) -> list[str]:
    """The classes of the first output."""
    return [element.decode() for element in byte_tensors.unpack(answer(call, request).raw_output_contents[0])]


def ask(call: Call, method: str, request: bytes = b"") -> Json:
    """The answer to a question that goes well, as JSON."""
    path = method if method.startswith("/") else f"/{SERVICE}/{method}"
    reply = call(path, [request])
    assert (reply.status, reply.details) == OK
    return show(path, reply.responses[0])
