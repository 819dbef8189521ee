"""From a request's outputs to the pieces of its ModelInferResponse.

The tensors' bytes are not handed to protobuf, which would copy them: the response is serialised
without them, and each is appended as a field of its own. A protobuf message is the run of its fields,
so the pieces joined are the message that protobuf would have written.

Requests with one plan have the same response but for id and data. So there is a `Template` for them, made once:

    model name and version │ id │ outputs: names, datatypes, shapes │ data │ …
    ────────── kept ──────── ask ────────────── kept ──────────────── batch ──

For each batch it is `cut` to what that has returned, and a response is then one join of slices. Where it is not so
simple (classes, strings, a response that is too large) `respond` makes the response from the arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from penstock_proto.datatypes import DATATYPES
from penstock_proto.open_inference_pb2 import ModelInferResponse
from penstock_server.engine.assembly import BatchOutputs
from penstock_server.engine.jobs import Outputs, Plan
from penstock_server.errors import InvalidRequest
from penstock_server.service.classification import classify
from penstock_server.tensors.codec import Array, Buffer, raw_of

_RAW_TAG = bytes([6 << 3 | 2])  # raw_output_contents, length-delimited
_BYTES = DATATYPES["BYTES"]
_ANY_SIZE = DATATYPES["UINT8"]  # the data of every datatype that has a size is its memory
_JOIN_BYTES = 16 << 10
"""Responses up to this size are one piece. Of larger ones the data is never copied here."""


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What a response is put into: it becomes a field of a message, of which it is all."""

    tag: bytes
    """Of that field, which is length-delimited."""
    last: bytes
    """A field that is appended to each response."""


def respond(plan: Plan, request_id: str, outputs: Outputs, max_bytes: int) -> list[Buffer]:
    """The response, in pieces. InvalidRequest if it is larger than a message may be."""
    response, raw = build_response(plan, request_id, outputs)
    parts: list[Buffer] = [response.SerializeToString()]
    for data in raw:
        parts.append(_raw_head(len(data)))
        parts.append(data)
    size = sum(map(len, parts))
    if size > max_bytes:
        raise InvalidRequest(f"Response has byte size {size} which exceeds gRPC's byte size limit {max_bytes}.")
    return parts


def build_response(plan: Plan, request_id: str, outputs: Outputs) -> tuple[ModelInferResponse, Sequence[Buffer]]:
    """The response without its raw contents, and those."""
    version, spec = plan.version, plan.version.spec
    response = ModelInferResponse(model_name=spec.name, model_version=str(version.version), id=request_id)
    raw: list[Buffer] = []
    for index, classes, array in zip(plan.outputs, plan.classes, outputs, strict=True):
        tensor = spec.outputs[index]
        datatype = tensor.datatype
        if classes:
            array = classify(array, classes, tensor, batched=spec.max_batch_size > 0)
            datatype = _BYTES
        response.outputs.add(name=tensor.name, datatype=datatype.name, shape=_shape(array))
        raw.append(raw_of(array, datatype))
    return response, raw


class Template:
    """The response to every request of a plan, without id and data."""

    __slots__ = ("_heads", "_is_simple", "_shapes", "_start", "plan", "wrapping")

    def __init__(self, plan: Plan, wrapping: Wrapping | None = None) -> None:
        self.plan = plan
        self.wrapping = wrapping
        outputs = plan.version.spec.outputs
        self._is_simple = (
            bool(plan.outputs)
            and not any(plan.classes)
            and all(outputs[index].datatype.itemsize for index in plan.outputs)
        )
        self._start = b""  # model name and version
        self._shapes: list[tuple[int, ...]] | None = None  # of the outputs that the heads were made for
        self._heads: list[bytes] = []  # what goes before the data of each output

    def rows(self, outputs: BatchOutputs, id_field: bytes, start: int, end: int, max_bytes: int) -> list[Buffer] | None:
        """The response to the request with these rows of a batch; None if it has to be made from the arrays."""
        cut = outputs.memo.get(self)
        if not isinstance(cut, Cut):
            cut = outputs.memo[self] = self.cut(outputs, max_bytes)
        if cut is None or len(id_field) > cut.room:
            return None
        return cut.parts(id_field, start, end)

    def cut(self, outputs: BatchOutputs, max_bytes: int) -> "Cut | None":
        """The responses to this plan's requests of a batch; None if they have to be made from the arrays."""
        if not self._is_simple:
            return None
        arrays = [outputs.arrays[index] for index in self.plan.outputs]
        rows = self.plan.rows
        shapes = [(rows, *array.shape[1:]) for array in arrays] if outputs.batched else [a.shape for a in arrays]
        if shapes != self._shapes:
            self._make(shapes)
        return Cut(self, self._start, self._heads, arrays, max_bytes, outputs.batched)

    def _make(self, shapes: list[tuple[int, ...]]) -> None:
        spec, version = self.plan.version.spec, self.plan.version.version
        start = ModelInferResponse(model_name=spec.name, model_version=str(version))
        middle = ModelInferResponse()
        heads: list[bytes] = []
        for index, shape in zip(self.plan.outputs, shapes, strict=True):
            tensor = spec.outputs[index]
            middle.outputs.add(name=tensor.name, datatype=tensor.datatype.name, shape=shape)
            size = tensor.datatype.itemsize
            for axis in shape:
                size *= axis
            heads.append(_raw_head(size))
        heads[0] = middle.SerializeToString() + heads[0]
        self._shapes, self._start, self._heads = shapes, start.SerializeToString(), heads


class Cut:
    """The responses to the requests of one plan in one batch."""

    __slots__ = ("_id_size", "_is_joined", "_lead", "_raws", "_size", "_start", "_wrapping", "room")

    def __init__(
        self,
        template: Template,
        start: bytes,
        heads: Sequence[bytes],
        arrays: Sequence[Array],
        max_bytes: int,
        batched: bool,
    ) -> None:
        self._wrapping = template.wrapping
        self._start = start
        # With a wrapping: what goes before an id of so many bytes, which is mostly the same for all.
        self._id_size = -1
        self._lead = start
        # For each output: its data, and the bytes of a row, of which an output without a batch axis has one.
        self._raws: list[tuple[bytes, Buffer, int]] = []
        rows = template.plan.rows
        size = len(start)
        for head, array in zip(heads, arrays, strict=True):
            row = array.nbytes // (len(array) or 1) if batched else array.nbytes
            size += len(head) + row * (rows if batched else 1)
            raw = array.tobytes() if array.nbytes <= _JOIN_BYTES else raw_of(array, _ANY_SIZE)
            self._raws.append((head, raw, row))
        self._size = size
        self._is_joined = size <= _JOIN_BYTES
        self.room = max_bytes - size
        """Bytes that the id's field may have."""

    def parts(self, id_field: bytes, start: int, end: int) -> list[Buffer]:
        """The response to the request with the rows from `start` to before `end`; `id_field` is its id, encoded."""
        wrapping = self._wrapping
        if wrapping is not None and len(id_field) != self._id_size:
            self._id_size = len(id_field)
            size = self._size + self._id_size + len(wrapping.last)
            self._lead = wrapping.tag + varint(size) + self._start
        if self._is_joined:
            pieces: list[Buffer] = [self._lead, id_field]
            for head, raw, row in self._raws:
                pieces += (head, raw[start * row : end * row])
            if wrapping is not None:
                pieces.append(wrapping.last)
            return [b"".join(pieces)]
        before = self._lead + id_field
        parts: list[Buffer] = []
        for head, raw, row in self._raws:
            parts += (before + head, memoryview(raw)[start * row : end * row])
            before = b""
        if wrapping is not None:
            parts.append(wrapping.last)
        return parts


def id_field(request_id: str) -> bytes:
    """The id as a field of a response, which has it under the same number as a request."""
    text = request_id.encode()
    return b"\x1a" + varint(len(text)) + text if text else b""


def _raw_head(size: int) -> bytes:
    return _RAW_TAG + varint(size)


def _shape(array: Array) -> tuple[int, ...]:
    return array.shape


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
