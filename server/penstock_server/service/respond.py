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
from math import prod
from typing import NamedTuple

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

    __slots__ = ("_is_fixed", "_is_simple", "_layout", "_shapes", "plan", "wrapping")

    def __init__(self, plan: Plan, wrapping: Wrapping | None = None) -> None:
        self.plan = plan
        self.wrapping = wrapping
        tensors = [plan.version.spec.outputs[index] for index in plan.outputs]
        self._is_simple = bool(tensors) and not any(plan.classes) and all(each.datatype.itemsize for each in tensors)
        self._is_fixed = all(-1 not in each.shape for each in tensors)
        self._layout: _Layout | None = None
        self._shapes: list[tuple[int, ...]] = []  # of the outputs that it is for, without the batch axis

    def rows(self, outputs: BatchOutputs, id_field: bytes, start: int, end: int, max_bytes: int) -> list[Buffer] | None:
        """The response to the request with these rows of a batch; None if it has to be made from the arrays."""
        cut = outputs.memo.get(self)
        if not isinstance(cut, Cut):
            cut = outputs.memo[self] = self.cut(outputs)
        if cut is None or cut.layout.size + len(id_field) > max_bytes:
            return None
        return cut.layout.parts(cut.data, id_field, start, end)

    def cut(self, outputs: BatchOutputs) -> "Cut | None":
        """The responses to this plan's requests of a batch; None if they have to be made from the arrays."""
        if not self._is_simple:
            return None
        layout, indices = self._layout, self.plan.outputs
        if layout is None or not self._is_fixed:
            layout = self._lay_out(outputs)
        heads, rows = layout.heads, layout.row_bytes
        return Cut(layout, [(heads[at], _raw_in(outputs, index), rows[at]) for at, index in enumerate(indices)])

    def _lay_out(self, outputs: BatchOutputs) -> "_Layout":
        first = 1 if outputs.batched else 0
        shapes = [outputs.arrays[index].shape[first:] for index in self.plan.outputs]
        if self._layout is None or shapes != self._shapes:
            self._shapes = shapes
            self._layout = _Layout(self.plan, shapes, outputs.batched, self.wrapping)
        return self._layout


Data = list[tuple[bytes, Buffer, int]]
"""For each output what goes before its data, the data of the whole batch, and the bytes of a row."""


class Cut(NamedTuple):
    """The responses to the requests of one plan in one batch."""

    layout: "_Layout"
    data: Data


class _Layout:
    """What the responses of a plan have in common, for outputs of the same shapes."""

    __slots__ = ("_id_size", "_is_joined", "_lead", "_start", "_wrapping", "heads", "row_bytes", "size")

    def __init__(self, plan: Plan, shapes: Sequence[tuple[int, ...]], batched: bool, wrapping: Wrapping | None) -> None:
        """`shapes` are the outputs', without the batch axis."""
        spec = plan.version.spec
        middle = ModelInferResponse()
        self.heads: list[bytes] = []
        """What goes before the data of each output."""
        self.row_bytes: list[int] = []
        """Of each; an output without a batch axis has one row."""
        self.size = 0
        """Of a response, but for its id."""
        rows = plan.rows if batched else 1
        for index, shape in zip(plan.outputs, shapes, strict=True):
            tensor = spec.outputs[index]
            middle.outputs.add(
                name=tensor.name, datatype=tensor.datatype.name, shape=(rows, *shape) if batched else shape
            )
            row = prod(shape) * tensor.datatype.itemsize
            self.row_bytes.append(row)
            self.heads.append(_raw_head(rows * row))
            self.size += rows * row
        self.heads[0] = middle.SerializeToString() + self.heads[0]
        start = ModelInferResponse(model_name=spec.name, model_version=str(plan.version.version))
        self._start = start.SerializeToString()
        self.size += len(self._start) + sum(map(len, self.heads))
        self._is_joined = self.size <= _JOIN_BYTES
        self._wrapping = wrapping
        # With a wrapping: what goes before an id of so many bytes, which is mostly the same for all.
        self._id_size = -1
        self._lead = self._start

    def parts(self, data: Data, id_field: bytes, start: int, end: int) -> list[Buffer]:
        """The response to the request with the rows from `start` to before `end`; `id_field` is its id, encoded."""
        wrapping = self._wrapping
        if wrapping is not None and len(id_field) != self._id_size:
            self._id_size = len(id_field)
            size = self.size + self._id_size + len(wrapping.last)
            self._lead = wrapping.tag + varint(size) + self._start
        if self._is_joined:
            pieces: list[Buffer] = [self._lead, id_field]
            for head, raw, row in data:
                pieces += (head, raw[start * row : end * row])
            if wrapping is not None:
                pieces.append(wrapping.last)
            return [b"".join(pieces)]
        before = self._lead + id_field
        parts: list[Buffer] = []
        for head, raw, row in data:
            parts += (before + head, memoryview(raw)[start * row : end * row])
            before = b""
        if wrapping is not None:
            parts.append(wrapping.last)
        return parts


def _raw_in(outputs: BatchOutputs, index: int) -> Buffer:
    """An output's data, of the whole batch: once for all plans."""
    raw = outputs.raws.get(index)
    if raw is None:
        array = outputs.arrays[index]
        raw = array.tobytes() if array.nbytes <= _JOIN_BYTES else raw_of(array, _ANY_SIZE)
        outputs.raws[index] = raw
    return raw


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
