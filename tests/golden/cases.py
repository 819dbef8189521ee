"""The golden cases as values: reading them, reading an answer as they show it, and holding one against the other.

    v2.jsonl ──▶ Case ─▶ Step ─▶ (call) ─▶ Reply ── shown ──▶ Observation ═ step.expected

Nothing here knows how a call is made: see serving.py. A comparison is of JSON texts, so that -0.0 differs from 0.0 and
true from 1, and pytest shows the lines that differ.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from penstock_proto import byte_tensors, health_pb2
from penstock_proto import open_inference_pb2 as pb
from penstock_proto.datatypes import DATATYPES

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

PATH = Path(__file__).parent / "v2.jsonl"
SERVICE = "inference.GRPCInferenceService"

_LONG = 64
"""Elements of a tensor beyond which a golden answer holds a hash of it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """All that a client sees of a call."""

    status: str
    """gRPC's name of it, `INVALID_ARGUMENT`."""
    details: str
    responses: tuple[bytes, ...]
    """Serialised messages."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A reply, or what is expected of one, in the form of the golden file."""

    status: str
    details: str | None
    """None: the texts are not compared."""
    answer: Json

    def text(self) -> str:
        """As JSON on many lines."""
        shown = {"status": self.status, "details": self.details, "answer": self.answer}
        return json.dumps(shown, indent=1, sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a case."""

    rpc: str
    """A method of the V2 service, or the whole path of another one."""
    messages: tuple[bytes | float, ...]
    """Serialised requests; a number is a pause in seconds."""
    metadata: tuple[tuple[str, str], ...]
    expected: Observation | None
    """None: the call only prepares for the next one."""

    @property
    def path(self) -> str:
        return self.rpc if self.rpc.startswith("/") else f"/{SERVICE}/{self.rpc}"

    def observe(self, reply: Reply) -> Observation:
        """The reply as `expected` shows it, with placeholders where it has them and they fit."""
        assert self.expected is not None
        shown = [show(self.path, response) for response in reply.responses]
        answer: Json = list(shown)
        if not isinstance(self.expected.answer, list) and len(shown) < 2:
            answer = shown[0] if shown else None
        details = None if self.expected.details is None else _adopt(self.expected.details, reply.details)
        return Observation(reply.status, cast("str | None", details), _adopt(self.expected.answer, answer))


@dataclass(frozen=True, slots=True)
class Case:
    """A few calls in a row and what the real Triton answered."""

    id: str
    steps: tuple[Step, ...]

    @property
    def group(self) -> str:
        return self.id.partition("/")[0]


def load_cases(path: Path = PATH) -> list[Case]:
    """All golden cases, in the order of the file."""
    return [_case(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _case(raw: dict[str, Json]) -> Case:
    name = cast("str", raw["id"])
    return Case(name, tuple(_step(step, name) for step in cast("list[dict[str, Json]]", raw["steps"])))


def _step(raw: dict[str, Json], case: str) -> Step:
    messages = cast("list[str | float]", raw["messages"])
    expected = None
    if not raw.get("prepare"):
        # The texts of the group `wire` are those of a library of gRPC, not of the protocol.
        details = None if case.startswith("wire/") else cast("str", raw["details"])
        expected = Observation(cast("str", raw["status"]), details, raw["answer"])
    return Step(
        cast("str", raw["rpc"]),
        tuple(base64.b64decode(each) if isinstance(each, str) else each for each in messages),
        tuple((key, value) for key, value in cast("list[tuple[str, str]]", raw.get("metadata") or [])),
        expected,
    )


# ── an answer as the golden file shows it ─────────────────────────────────────────────────────────

_V2_RESPONSES = (
    pb.ServerLiveResponse,
    pb.ServerReadyResponse,
    pb.ModelReadyResponse,
    pb.ServerMetadataResponse,
    pb.ModelMetadataResponse,
    pb.ModelConfigResponse,
    pb.ModelStatisticsResponse,
    pb.RepositoryIndexResponse,
    pb.RepositoryModelLoadResponse,
    pb.RepositoryModelUnloadResponse,
    pb.ModelInferResponse,
    pb.ModelStreamInferResponse,
)
_RESPONSES: dict[str, type[Message]] = {
    "/grpc.health.v1.Health/Check": health_pb2.HealthCheckResponse,
    **{f"/{SERVICE}/{each.DESCRIPTOR.name.removesuffix('Response')}": each for each in _V2_RESPONSES},
}


def show(path: str, response: bytes) -> Json:
    """A response of this method as JSON: tensors decoded, times left out."""
    message = _RESPONSES[path]()
    message.ParseFromString(response)
    if isinstance(message, pb.ModelInferResponse):
        return _inference(message)
    if isinstance(message, pb.ModelStreamInferResponse):
        return {"error_message": message.error_message, "infer_response": _inference(message.infer_response)}
    return _without_times(_as_json(message))


def _as_json(message: Message) -> dict[str, Json]:
    return cast("dict[str, Json]", MessageToDict(message, preserving_proto_field_name=True))


def _without_times(value: Json) -> Json:
    if isinstance(value, list):
        return [_without_times(each) for each in value]
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if key not in ("ns", "last_inference")}
    return value


def _inference(response: pb.ModelInferResponse) -> Json:
    head = pb.ModelInferResponse()
    head.CopyFrom(response)
    head.ClearField("raw_output_contents")
    shown = _as_json(head)
    raws = response.raw_output_contents
    outputs = cast("list[dict[str, Json]]", shown.get("outputs", []))
    for output, tensor, raw in zip(outputs, response.outputs, raws, strict=False):
        output["raw"] = _elements(tensor.datatype, raw)
    return {**shown, "raw_entries": len(raws)}


def _elements(datatype: str, raw: bytes) -> Json:
    if datatype == "BYTES":
        elements: list[Json] = [element.decode("latin-1") for element in byte_tensors.unpack(raw)]
    else:
        array = np.frombuffer(raw, DATATYPES[datatype].numpy)
        elements = [_number(value) for value in cast("list[float | bool]", array.tolist())]
    if len(elements) > _LONG:
        return f"{len(elements)} elements, sha256 {hashlib.sha256(raw).hexdigest()[:16]}"
    return elements


def _number(value: float | bool) -> Json:
    # JSON has no words for what is no finite number.
    return value if np.isfinite(value) else str(value)


# ── placeholders ──────────────────────────────────────────────────────────────────────────────────

_PLACEHOLDER = re.compile(r"<(?:any|path|stack|version|one)>")
_NAMES = re.compile(r"\['[^']*'(?:,'[^']*')*\]")


def _adopt(expected: Json, actual: Json) -> Json:
    """`actual`, with the text of `expected` wherever it fits the placeholders there."""
    if isinstance(expected, str) and isinstance(actual, str):
        ordered = _NAMES.sub(_sorted_names, actual)
        return expected if _pattern(expected).fullmatch(ordered) else ordered
    if isinstance(expected, dict) and isinstance(actual, dict):
        return {key: _adopt(expected.get(key), value) for key, value in actual.items()}
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        return [_adopt(*pair) for pair in zip(expected, actual, strict=True)]
    return actual


def _pattern(expected: str) -> re.Pattern[str]:
    return re.compile(".+".join(re.escape(part) for part in _PLACEHOLDER.split(expected)), re.DOTALL)


def _sorted_names(found: re.Match[str]) -> str:
    return f"[{','.join(sorted(found[0][1:-1].split(',')))}]"


# ── which model a case is about ───────────────────────────────────────────────────────────────────


def models_of(case: Case) -> set[str]:
    """The models that a case's inferences name; an empty set if one of its calls is no inference, or malformed."""
    names: set[str] = set()
    for step in case.steps:
        if step.rpc != "ModelInfer" or case.group == "wire":
            return set()
        names |= {pb.ModelInferRequest.FromString(each).model_name for each in step.messages if isinstance(each, bytes)}
    return names
