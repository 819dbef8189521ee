"""Requests that differ only in their ids and data are parsed and checked once.

A client that calls one model again and again sends the same bytes, but for the id and the data:

    model name, version │ id │ parameters, inputs, outputs │ raw contents
    ────── front ───────      ─────────── tail ───────────   lengths known

A *skeleton* is a front and a tail, and all that parsing and checking them has told: the plan, what the model may know
of the request, the priority, where each raw content begins and how long it is, and the template of the response. A
*hit* costs two look-ups, a comparison of bytes and slices, instead of a parse, a validation and three objects.

**A hit means what the decoder would have said.** A protobuf message is the run of its fields. The front and the tail
are whole fields, none of them an id or raw contents, and they are the same bytes as those the decoder has accepted.
So what they set is the same. What is left is checked here with the decoder's own measure: that the id is short UTF-8,
that there are as many raw contents as inputs and each has its size, that BOOL is 0 and 1 and that strings are whole.
What does not fit is no error but a *miss*: the decoder has the words for it. So have messages that are encoded in some
other way than serializers do (fields out of order, longer varints, unknown fields before the tail). Only what was valid
is remembered, and no typed contents, which are data.

**It forgets.** Whenever a name may mean another version than before, all that was learnt under this name is dropped;
so no skeleton outlives its version. Skeletons, bytes of one and bytes of all are bounded. The room of those that nobody
uses is given to others (CLOCK: who was hit since the hand came by last stays another round).

How a message is taken apart, without knowing what it is: one byte gives the length of the name and so the front, which
gives the *family*. In it, skeletons whose data have fixed sizes are found by the size of all behind the id, which gives
the length of the tail, and by the tail. (Requests of sequences differ in their tails, and mostly not in size.) All
others, and those whose size goes with a tail of another length, too, are found by their tail, walked field by field.

Skeletons of a family that are learnt one after the other share their plan, if it is the same, and with it the template:
what was made ready for one answer of a batch is good for the next.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from penstock_server.backends.base import RequestInfo
from penstock_server.engine.jobs import Plan
from penstock_server.errors import InvalidRequest
from penstock_server.service.decode import Decoder, InferRequest
from penstock_server.service.dialect import Limits
from penstock_server.service.respond import Template, Wrapping, id_field
from penstock_server.service.validate import are_bools, check_strings
from penstock_server.tensors.codec import Buffer

_NAME, _VERSION, _ID = (number << 3 | 2 for number in (1, 2, 3))
_RAW = 7 << 3 | 2
_TAIL = frozenset(number << 3 | 2 for number in (4, 5, 6))

_MAX_BYTES = 4096
"""Of front and tail of one skeleton."""
_OVERHEAD = 2048
"""What the objects of a skeleton take about, beside its bytes."""
_LONGEST_ID = 127
"""In bytes: what one byte of length tells."""
_SMALL = 8 << 10
"""Messages up to this size are sliced by copying, which costs less than views do."""
_FRONT = _MAX_BYTES + _LONGEST_ID + 16
"""Where the tail of a skeleton has ended, whatever the id."""
_MOST_RAW_BYTES = 4
"""Of the varint before raw contents."""


class Form:
    """What a request is, but for its id and data. Shared by all requests like it."""

    __slots__ = ("info", "level", "plan", "template", "wants_empty_final")

    def __init__(self, request: InferRequest, wrapping: Wrapping | None) -> None:
        self.plan: Plan = request.plan
        self.info: RequestInfo = request.info
        self.level = request.parameters.priority
        self.wants_empty_final = request.parameters.empty_final_response
        self.template = Template(request.plan, wrapping)


Read = tuple[Form, Sequence[Buffer], bytes]
"""A checked request: its form, the raw contents of the plan's inputs in its order, and its id as an encoded field."""


@dataclass(frozen=True, slots=True)
class SkeletonStatistics:
    """A snapshot; counts are since the start."""

    entries: int = 0
    nbytes: int = 0
    """About what they take."""
    hits: int = 0
    misses: int = 0
    evicted: int = 0
    """Forgotten to make room."""
    dropped: int = 0
    """Forgotten because their model has changed."""


class Skeletons:
    """Reads requests: by what it remembers if it can, else by the decoder, and remembers that."""

    def __init__(
        self, decoder: Decoder, max_entries: int = 4096, max_bytes: int = 16 << 20, *, wrapping: Wrapping | None = None
    ) -> None:
        """With a `wrapping` it is for the requests of ModelStreamInfer, which may be for decoupled models."""
        self._decoder = decoder
        self._wrapping = wrapping
        self._limits = decoder.dialect.limits
        longest = _LONGEST_ID if self._limits is None else min(_LONGEST_ID, self._limits.id_length)
        self._longest_id_field = 2 + longest  # characters take at least a byte each
        self._families: dict[bytes, _Family] = {}
        self._ring: deque[_Skeleton] = deque()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._nbytes = 0
        self._hits = self._misses = self._evicted = self._dropped = 0
        decoder.models.watch(self.drop)

    def __repr__(self) -> str:
        return f"<Skeletons: {len(self._ring)} of {self._nbytes} bytes, {self._hits} hits, {self._misses} misses>"

    def statistics(self) -> SkeletonStatistics:
        return SkeletonStatistics(len(self._ring), self._nbytes, self._hits, self._misses, self._evicted, self._dropped)

    def read(self, message: Buffer) -> Read:
        """A checked request. Raises PenstockError with the text and status that the client is told."""
        found = self.find(message)
        if found is not None:
            self._hits += 1
            return found
        self._misses += 1
        request = self._decoder.decode(message, streaming=self._wrapping is not None)
        form = Form(request, self._wrapping)
        self._learn(message, request, form)
        return form, request.tensors, id_field(request.id)

    def find(self, message: Buffer) -> Read | None:
        """The request, if one like it is remembered."""
        size = len(message)
        front: bytes
        whole: Buffer
        if size <= _SMALL:
            front = whole = message if type(message) is bytes else bytes(message)
        else:
            whole = memoryview(message).toreadonly()
            front = bytes(whole[:_FRONT])
        try:
            after = 2 + front[1]
            if front[after] == _VERSION:
                after += 2 + front[after + 1]
            family = self._families.get(front[:after])
            if family is None:
                return None
            begin = after
            if front[begin] == _ID:
                begin += 2 + front[begin + 1]
            id_bytes = front[after:begin]
            if id_bytes and not (
                2 < begin - after <= self._longest_id_field and (id_bytes.isascii() or _is_text(id_bytes))
            ):
                return None
            equals = family.sizes.get(size - begin)
            skeleton = None if equals is None else equals.by_tail.get(front[begin : begin + equals.length])
            if skeleton is not None:
                # Most have one input, which is the rest of the message.
                data_at = skeleton.data_at
                tensors = skeleton.slice(whole, begin) if data_at < 0 else [whole[begin + data_at :]]
            else:
                end = _end_of_tail(front, begin)
                skeleton = family.tails.get(front[begin:end])
                if skeleton is None:
                    return None
                tensors = skeleton.walk(whole, end, self._limits)
        except IndexError:  # it ends before it should
            return None
        if tensors is None:
            return None
        skeleton.was_used = True
        return skeleton.form, tensors, id_bytes

    def drop(self, model: str) -> None:
        """Forget all requests to this model: its name may mean another version now."""
        name = model.encode()
        gone = [skeleton for skeleton in self._ring if skeleton.family.model == name]
        self._dropped += len(gone)
        for skeleton in gone:
            self._forget(skeleton)
        self._ring = deque(skeleton for skeleton in self._ring if skeleton.family.model != name)

    # How it learns.

    def _learn(self, message: Buffer, request: InferRequest, form: Form) -> None:
        """Remember a request that the decoder has accepted, if it is encoded as serializers do."""
        if not request.order:
            return
        whole = memoryview(message)
        front = bytes(whole[:_FRONT])
        try:
            parts = _take_apart(front)
        except IndexError:
            return
        if parts is None:
            return
        after, begin, end = parts
        nbytes = after + end - begin
        limits = self._limits
        # Whatever the id: the decoder bounds the head as a whole.
        if nbytes > _MAX_BYTES or (limits is not None and nbytes + 2 + _LONGEST_ID > limits.head_bytes):
            return
        family = self._families.get(front[:after])
        if family is None:
            family = _Family(front[2 : 2 + front[1]], front[:after])
        tail = front[begin:end]
        if tail in family.tails:
            return
        skeleton = _Skeleton(family, tail, form, request)
        skeleton.nbytes = nbytes + _OVERHEAD
        if skeleton.walk(whole, end, limits) is None:  # between or behind the raw contents are other fields
            return
        if skeleton.is_fixed:
            skeleton.measure(whole, begin, end)
            equals = family.sizes.setdefault(skeleton.size, _Equals(len(skeleton.tail)))
            if equals.length == len(skeleton.tail):
                equals.by_tail[skeleton.tail] = skeleton
        family.share(form)
        family.tails[tail] = skeleton
        self._families[family.front] = family
        self._ring.append(skeleton)
        self._nbytes += skeleton.nbytes
        while len(self._ring) > self._max_entries or self._nbytes > self._max_bytes:
            self._evict()

    def _evict(self) -> None:
        """Forget the oldest that was not used since it was looked at last."""
        while (skeleton := self._ring.popleft()).was_used:
            skeleton.was_used = False
            self._ring.append(skeleton)
        self._forget(skeleton)
        self._evicted += 1

    def _forget(self, skeleton: "_Skeleton") -> None:
        family = skeleton.family
        del family.tails[skeleton.key]
        equals = family.sizes.get(skeleton.size)
        if equals is not None and equals.by_tail.pop(skeleton.tail, None) is not None and not equals.by_tail:
            del family.sizes[skeleton.size]
        if not family.tails:
            del self._families[family.front]
        self._nbytes -= skeleton.nbytes


class _Family:
    """The skeletons with one front."""

    __slots__ = ("_last", "front", "model", "sizes", "tails")

    def __init__(self, model: bytes, front: bytes) -> None:
        self.model = model
        self.front = front
        self.sizes: dict[int, _Equals] = {}  # by bytes behind the id
        self.tails: dict[bytes, _Skeleton] = {}
        self._last: Form | None = None  # of those that were learnt

    def share(self, form: Form) -> None:
        """Let a new form have the plan and the template of the last one, if its plan is the same."""
        if self._last is not None and self._last.plan == form.plan:
            form.plan, form.template = self._last.plan, self._last.template
        self._last = form


class _Equals:
    """The skeletons of a family whose data have fixed sizes, that are equal in size and in the length of the tail."""

    __slots__ = ("by_tail", "length")

    def __init__(self, length: int) -> None:
        self.length = length
        self.by_tail: dict[bytes, _Skeleton] = {}


class _Skeleton:
    """What is remembered of one front and tail."""

    __slots__ = (
        "_raws",
        "_spans",
        "data_at",
        "family",
        "form",
        "is_fixed",
        "key",
        "nbytes",
        "size",
        "tail",
        "was_used",
    )

    def __init__(self, family: _Family, tail: bytes, form: Form, request: InferRequest) -> None:
        self.family = family
        self.form = form
        self.key = tail
        self.tail = tail
        """With fixed sizes: as far as the data of the first input."""
        self.nbytes = 0
        self.size = -1
        """Of all that is behind the id, if it is fixed."""
        self.data_at = -1
        """Where, from the begin of the tail, the data is, if it is one input's, of any bytes, and of a fixed size."""
        self.was_used = False
        plan = request.plan
        self._raws = [_Raw(plan, index, len(request.tensors[index])) for index in request.order]
        self.is_fixed = all(raw.itemsize for raw in self._raws)
        # For each raw content: what stands before its data and where, the data's ends (all counted from the begin of
        # the tail), which of the plan's inputs it is, and whether that is of BOOL.
        self._spans: list[tuple[bytes, int, int, int, int, bool]] = []

    def measure(self, whole: memoryview, begin: int, end: int) -> None:
        """Note where the data is in a message with fixed sizes whose tail is from `begin` to `end`."""
        offset = end
        for raw in self._raws:
            start = _raw_start(whole, offset)
            separator = bytes(whole[offset:start])
            before, offset = offset - begin, start + raw.size
            self._spans.append((separator, before, start - begin, offset - begin, raw.index, raw.is_bool))
        self.tail += self._spans[0][0]
        self.size = offset - begin
        if len(self._spans) == 1 and not self._spans[0][5]:
            self.data_at = self._spans[0][2]

    def slice(self, whole: Buffer, begin: int) -> list[Buffer] | None:
        """The data of a message that has the right size and the right tail, which begins at `begin`."""
        spans = self._spans
        tensors: list[Buffer] = [b""] * len(spans)
        for separator, before, start, end, index, is_bool in spans:
            if whole[begin + before : begin + start] != separator:
                return None
            raw = whole[begin + start : begin + end]
            if is_bool and not are_bools(raw):
                return None
            tensors[index] = raw
        return tensors

    def walk(self, whole: Buffer, offset: int, limits: Limits | None) -> list[Buffer] | None:
        """The data of a message with this tail, which ends at `offset`. IndexError if the message ends too early."""
        tensors: list[Buffer] = [b""] * len(self._raws)
        for raw in self._raws:
            start = _raw_start(whole, offset)
            if start < 0:
                return None
            length = 0
            for position in range(start - 1, offset, -1):
                length = length << 7 | whole[position] & 0x7F
            offset = start + length
            if offset > len(whole):
                return None
            data = whole[start:offset]
            if not raw.fits(data, limits):
                return None
            tensors[raw.index] = data
        return tensors if offset == len(whole) else None


class _Raw:
    """What the raw contents of one input have to be."""

    __slots__ = ("elements", "index", "is_bool", "itemsize", "size")

    def __init__(self, plan: Plan, index: int, size: int) -> None:
        datatype = plan.inputs[index].datatype
        self.index = index  # in the plan's inputs
        self.size = size
        self.itemsize = datatype.itemsize
        self.is_bool = datatype.name == "BOOL"
        self.elements = prod(plan.shapes[index]) * (plan.rows if plan.version.spec.batched else 1)

    def fits(self, data: Buffer, limits: Limits | None) -> bool:
        if self.itemsize:
            return len(data) == self.size and (not self.is_bool or are_bools(data))
        try:
            check_strings("", data, self.elements, "", "", limits)
        except InvalidRequest:
            return False
        return True


def _take_apart(front: bytes) -> tuple[int, int, int] | None:
    """Where the front ends, the tail begins and ends; None if one of them is not as serializers write it."""
    if front[0] != _NAME or front[1] > 0x7F:
        return None
    after = 2 + front[1]
    if front[after] == _VERSION:
        if front[after + 1] > 0x7F:
            return None
        after += 2 + front[after + 1]
    begin = after
    if front[begin] == _ID:
        if front[begin + 1] > 0x7F:
            return None
        begin += 2 + front[begin + 1]
    end = _end_of_tail(front, begin)
    return (after, begin, end) if front[end] == _RAW else None


def _end_of_tail(front: bytes, offset: int) -> int:
    """Past the fields of the tail, which begins at `offset`. IndexError if a field has no end here."""
    while front[offset] in _TAIL:
        length = front[offset + 1]
        if length < 0x80:
            offset += 2 + length
        elif front[offset + 2] < 0x80:
            offset += 3 + (length & 0x7F) + (front[offset + 2] << 7)
        else:
            raise IndexError("longer than any skeleton")
    return offset


def _raw_start(whole: Buffer, offset: int) -> int:
    """Where the data of the raw contents at `offset` begins; -1 if there are none."""
    if whole[offset] != _RAW:
        return -1
    for position in range(offset + 1, offset + 1 + _MOST_RAW_BYTES):
        if whole[position] < 0x80:
            return position + 1
    return -1


def _is_text(encoded: bytes) -> bool:
    """Whether it is UTF-8: protobuf refuses the message if not."""
    try:
        encoded[2:].decode()
    except UnicodeDecodeError:
        return False
    return True
