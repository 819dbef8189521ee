"""Skeletons: with whatever is remembered, a message means what the decoder says it means; and what is forgotten when.

The oracle is the decoder, which is asked about every message, too.
"""

import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock_proto import byte_tensors
from penstock_proto import open_inference_pb2 as pb
from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.engine.versions import Models, ServedVersion
from penstock_server.errors import Failure, NotFound, PenstockError
from penstock_server.models.spec import Batching, Reshape
from penstock_server.service.decode import Decoder
from penstock_server.service.dialect import PENSTOCK, TRITON, Dialect
from penstock_server.service.respond import id_field
from penstock_server.service.skeleton import Skeletons
from tests.server.engine.batches import NO_DRIVER
from tests.server.service.fakes import models_of, spec, tensor
from tests.server.service.wire import encodings, field, unknown_fields, varint

BATCHING = Batching(enabled=True)
SPECS = [
    spec("one", [tensor("X", "FP32", 2)], [tensor("Y", "FP32", 2)], max_batch_size=4, batching=BATCHING),
    spec(
        "mixed",
        [tensor("X", "FP32", -1), tensor("S", "BYTES", -1), tensor("B", "BOOL", 2, optional=True)],
        [tensor("Y", "FP32", -1), tensor("Z", "BYTES", 1)],
        max_batch_size=4,
        batching=BATCHING,
    ),
    spec(
        "fixed",
        [tensor("M", "INT16", -1, -1), tensor("N", "INT8", 1, optional=True)],
        [tensor("Y", "FP32", 1)],
        input_reshapes={"N": Reshape(client=(1,), model=())},
    ),
    spec("flag", [tensor("B", "BOOL", 2)], [tensor("Y", "FP32", 1)]),
    spec("flags", [tensor("B", "BOOL", 2), tensor("C", "BOOL", 2)], [tensor("Y", "FP32", 1)]),
    spec("texts", [tensor("S", "BYTES", 2), tensor("X", "FP32", 1)], [tensor("Y", "FP32", 1)]),
]
REQUEST = pb.ModelInferRequest
SIZES = {"FP32": 4, "INT16": 2, "INT8": 1, "BOOL": 1}


def meaning(skeletons: Skeletons, message: bytes | memoryview) -> object:
    """What the message is taken for: all of a request, or the failure that its client is told."""
    try:
        form, tensors, encoded_id = skeletons.read(message)
    except PenstockError as error:
        return error.failure()
    return form.plan, form.info, form.level, [bytes(each) for each in tensors], encoded_id


def plain_meaning(decoder: Decoder, message: bytes) -> object:
    """The same by the decoder alone."""
    try:
        request = decoder.decode(message)
    except PenstockError as error:
        return error.failure()
    tensors = [bytes(each) for each in request.tensors]
    return request.plan, request.info, request.parameters.priority, tensors, id_field(request.id)


ids = st.sampled_from(["", "7", "ä€", "a" * 126, "i" * 127, "i" * 128, "ä" * 64, "i" * 129]) | st.text(max_size=4)


@st.composite
def data_for(draw: st.DrawFn, datatype: str, elements: int) -> bytes:
    """Raw contents, which mostly fit."""
    if datatype == "BYTES":
        strings = draw(st.lists(st.binary(max_size=5), min_size=elements, max_size=elements))
        packed = byte_tensors.pack(strings)
        return draw(st.sampled_from([packed] * 9 + [packed + b"\0", packed[:-1], packed + bytes(4)]))
    if datatype == "BOOL":
        return bytes(draw(st.lists(st.sampled_from([0, 1, 1, 0, 1, 0, 1, 2]), min_size=elements, max_size=elements)))
    size = elements * SIZES[datatype]
    if size > 100:
        return draw(st.binary(min_size=1, max_size=1)) * size
    return draw(st.binary(min_size=size, max_size=size))


@st.composite
def requests(draw: st.DrawFn) -> pb.ModelInferRequest:
    """A request that is mostly valid, in few enough forms for the same one to come again."""
    request = REQUEST(
        model_name=draw(st.sampled_from(["one", "one", "mixed", "mixed", "fixed", "nobody"])), id=draw(ids)
    )
    request.model_version = draw(st.sampled_from(["", "", "1", "2"]))
    parameters = draw(st.sampled_from([{}, {}, {}, {"priority": 2}, {"timeout": 5}, {"mine": 1}, {"sequence_id": 3}]))
    for key, value in parameters.items():
        request.parameters[key].int64_param = value
    rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    match request.model_name:
        case "one":
            given_inputs = [("X", "FP32", [rows, 2])]
        case "mixed":
            given_inputs = [("X", "FP32", [rows, length]), ("S", "BYTES", [rows, length]), ("B", "BOOL", [rows, 2])]
            given_inputs = draw(st.permutations(given_inputs[: draw(st.integers(2, 3))]))
            for name in draw(st.sampled_from([(), (), ("Y",), ("Z", "Y")])):
                request.outputs.add(name=name)
            with_classes = draw(st.booleans())
            if with_classes and request.outputs:
                request.outputs[-1].parameters["classification"].int64_param = 1
        case _:
            # The second is larger than what is sliced by copying.
            given_inputs = [("M", "INT16", draw(st.sampled_from([[1, 2], [100, 60]]))), ("N", "INT8", [1])]
            given_inputs = draw(st.permutations(given_inputs[: draw(st.integers(1, 2))]))
    for name, datatype, shape in given_inputs:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        elements = 1
        for axis in shape:
            elements *= axis
        request.raw_input_contents.append(draw(data_for(datatype, elements)))
    return request


def fields_of(request: pb.ModelInferRequest) -> list[tuple[int, bytes]]:
    """Its fields in the order in which serializers write them."""
    fields = [(1, request.model_name.encode())]
    if request.model_version:
        fields.append((2, request.model_version.encode()))
    if request.id:
        fields.append((3, request.id.encode()))
    for key, value in request.parameters.items():
        entry = REQUEST(parameters={key: value}).SerializeToString()
        fields.append((4, entry[2:]))
    fields += [(5, each.SerializeToString()) for each in request.inputs]
    fields += [(6, each.SerializeToString()) for each in request.outputs]
    return fields + [(7, each) for each in request.raw_input_contents]


@st.composite
def twisted(draw: st.DrawFn, request: pb.ModelInferRequest) -> bytes:
    """The request as no serialiser writes it, or broken."""
    fields = fields_of(request)
    message = request.SerializeToString()
    position = draw(st.integers(0, len(message)))
    match draw(st.integers(0, 8)):
        case 0:
            return draw(encodings(fields))
        case 1:  # one field twice
            again = draw(st.sampled_from(fields))
            place = draw(st.integers(0, len(fields)))
            return b"".join(field(*each) for each in [*fields[:place], again, *fields[place:]])
        case 2:  # one field less
            del fields[draw(st.integers(0, len(fields) - 1))]
            return b"".join(field(*each) for each in fields)
        case 3:
            return message[:position]
        case 4:
            return message[:position] + draw(st.binary(min_size=1, max_size=2)) + message[position + 1 :]
        case 5:  # a stranger between fields
            place = draw(st.integers(0, len(fields)))
            parts = [field(*each) for each in fields]
            return b"".join([*parts[:place], draw(unknown_fields()), *parts[place:]])
        case 6:  # one length is longer than need be
            which = draw(st.integers(0, len(fields) - 1))
            padding = draw(st.integers(1, 4))
            return b"".join(field(*each, length_padding=padding * (n == which)) for n, each in enumerate(fields))
        case 7:  # an id that is no text, or is there and empty
            bad = draw(st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b""]))
            others = [each for each in fields if each[0] != 3]
            place = sum(each[0] < 3 for each in others)
            return b"".join(field(*each) for each in [*others[:place], (3, bad), *others[place:]])
        case _:
            return message + draw(st.binary(min_size=1, max_size=3))


@st.composite
def conversations(draw: st.DrawFn) -> list[bytes]:
    """What one server may hear: some requests, most of them alike, then the same again with other ids, and worse."""
    first = draw(st.lists(requests(), min_size=1, max_size=3))
    messages = [each.SerializeToString() for each in first]
    for _ in range(draw(st.integers(1, 5))):
        again = REQUEST.FromString(draw(st.sampled_from(first)).SerializeToString())
        again.id = draw(ids)
        if draw(st.booleans()):
            for index, raw in enumerate(again.raw_input_contents):
                datatype = again.inputs[index].datatype
                elements = len(byte_tensors.spans(raw, 100)[0]) if datatype == "BYTES" else len(raw) // SIZES[datatype]
                again.raw_input_contents[index] = draw(data_for(datatype, elements))
        messages.append(draw(twisted(again)) if draw(st.booleans()) else again.SerializeToString())
    return messages


ONE_ROW = REQUEST(
    model_name="one",
    id="1",
    inputs=[REQUEST.InferInputTensor(name="X", datatype="FP32", shape=[1, 2])],
    raw_input_contents=[bytes(8)],
).SerializeToString()


@pytest.mark.parametrize("dialect", [PENSTOCK, TRITON], ids=lambda dialect: dialect.server_name)
@given(conversations(), st.sampled_from([1, 2, 100]), st.sampled_from([bytes, memoryview]))
@example([ONE_ROW, ONE_ROW[:-1], ONE_ROW + b"\0", ONE_ROW + field(7, b"")], 100, bytes)
def test_a_message_means_the_same_whatever_is_remembered(
    dialect: Dialect, messages: Sequence[bytes], entries: int, kind: type[bytes] | type[memoryview]
) -> None:
    """Requests, ids, data and failures, in any order of hits, misses and evictions."""
    models = models_of(*SPECS)
    decoder = Decoder(models, dialect)
    skeletons = Skeletons(decoder, max_entries=entries)
    for message in (*messages, *reversed(messages)):
        assert meaning(skeletons, kind(message)) == plain_meaning(decoder, message)
        known = skeletons.statistics()
        assert known.entries <= entries
        assert (known.nbytes > 0) == (known.entries > 0)
        assert sum(len(family.tails) for family in skeletons._families.values()) == known.entries
        assert sum(len(family.sizes) for family in skeletons._families.values()) <= known.entries
    for each in SPECS:
        skeletons.drop(each.name)
    assert (skeletons.statistics().entries, skeletons.statistics().nbytes) == (0, 0)
    assert not skeletons._families


def message_for(model: str, *raws: bytes, request_id: str = "1", version: str = "") -> bytes:
    """A request in the model's own shapes; inputs in the order opposite to the model's."""
    request = REQUEST(model_name=model, model_version=version, id=request_id, raw_input_contents=raws)
    its_spec = next(each for each in SPECS if each.name == model)
    for each in reversed(its_spec.inputs):
        request.inputs.add(name=each.name, datatype=each.datatype.name, shape=each.shape)
    return request.SerializeToString()


TWO = byte_tensors.pack([b"a", b"bc"])
TEXTS = message_for("texts", b"1234", TWO)
FLAGS = message_for("flags", b"\1\0", b"\0\0")
RAW, STRANGER = b"\x3a", b"\x42"

NEARLY = {
    "another data": (FLAGS, message_for("flags", b"\0\1", b"\1\1"), True),
    "the only BOOL is 2": (message_for("flag", b"\0\1"), message_for("flag", b"\2\1"), False),
    "the second BOOL is 2": (FLAGS, message_for("flags", b"\1\1", b"\0\2"), False),
    "a BOOL grows and the other shrinks": (FLAGS, message_for("flags", b"\1\0\1", b"\0"), False),
    "a stranger instead of the second data": (FLAGS, FLAGS[:-4] + STRANGER + FLAGS[-3:], False),
    "a stranger instead of the first data": (FLAGS, FLAGS[:-8] + STRANGER + FLAGS[-7:], False),
    "a third data": (FLAGS, FLAGS + field(7, b""), False),
    "other strings": (TEXTS, message_for("texts", b"1234", byte_tensors.pack([b"", b"xyz"])), True),
    "more strings": (TEXTS, message_for("texts", b"1234", TWO + bytes(4)), False),
    "less strings": (TEXTS, message_for("texts", b"1234", bytes(4)), False),
    "a string that is cut short": (TEXTS, message_for("texts", b"1234", TWO[:-1]), False),
    "a string that is longer than its tensor": (TEXTS, message_for("texts", b"1234", TWO[:-3] + b"\x09bc"), False),
    "numbers of another size beside strings": (TEXTS, message_for("texts", b"12345", TWO), False),
    "strings that end before their length": (TEXTS, TEXTS[: -len(TWO) - 1] + varint(len(TWO) + 1) + TWO, False),
    "a stranger instead of strings": (TEXTS, TEXTS[: -len(TWO) - 2] + STRANGER + TEXTS[-len(TWO) - 1 :], False),
    "a stranger before strings": (TEXTS, TEXTS[: -len(TWO) - 2] + field(8, b"x") + TEXTS[-len(TWO) - 2 :], False),
    "a length with more bytes": (TEXTS, TEXTS[: -len(TWO) - 1] + varint(len(TWO), 1) + TWO, True),
    "an id that is empty": (TEXTS, TEXTS.replace(field(3, b"1"), field(3, b""), 1), False),
    "another version": (TEXTS, message_for("texts", b"1234", TWO, version="2"), False),
    "the version by its number": (TEXTS, message_for("texts", b"1234", TWO, version="1"), False),
    "data of 300 bytes": (TEXTS, message_for("texts", b"1234", byte_tensors.pack([b"x" * 300, b"y"])), True),
}


@pytest.mark.parametrize("name", NEARLY)
def test_what_is_nearly_the_same(name: str) -> None:
    """Whatever is remembered of the first message, the second means what the decoder says; some of them hit."""
    first, second, hits = NEARLY[name]
    decoder = Decoder(models_of(*SPECS), PENSTOCK)
    skeletons = Skeletons(decoder)
    assert meaning(skeletons, first) == plain_meaning(decoder, first)
    assert skeletons.find(first) is not None
    assert (skeletons.find(second) is not None) == hits
    assert meaning(skeletons, second) == plain_meaning(decoder, second)


def test_an_id_is_as_short_as_the_dialect_wants() -> None:
    """A limit of its own is held on a hit, too."""
    assert PENSTOCK.limits is not None
    dialect = replace(PENSTOCK, limits=replace(PENSTOCK.limits, id_length=5))
    decoder = Decoder(models_of(*SPECS), dialect)
    skeletons = Skeletons(decoder)
    for its_id in ("1", "12345", "123456"):
        message = message_for("texts", b"1234", TWO, request_id=its_id)
        assert meaning(skeletons, message) == plain_meaning(decoder, message)
    assert skeletons.statistics().hits == 1


@given(requests(), st.lists(ids, min_size=1, max_size=4))
def test_what_was_valid_hits_with_any_short_id(request: pb.ModelInferRequest, others: Sequence[str]) -> None:
    """Or else the property above would hold of a cache that never answers."""
    skeletons = Skeletons(Decoder(models_of(*SPECS), PENSTOCK))
    if isinstance(meaning(skeletons, request.SerializeToString()), Failure) or len(request.id.encode()) > 127:
        return
    for its_id in others:
        request.id = its_id
        known = skeletons.find(request.SerializeToString())
        assert (known is not None) == (len(its_id.encode()) <= 127)
        assert known is None or known[2] == id_field(its_id)


def test_a_large_tensor_stays_in_its_message() -> None:
    """On a hit as on a miss: what the batch gets is a view, which nobody may write to."""
    skeletons = Skeletons(Decoder(models_of(*SPECS), PENSTOCK))
    request = REQUEST(model_name="fixed", raw_input_contents=[bytes(2 * 100 * 100)])
    request.inputs.add(name="M", datatype="INT16", shape=[100, 100])
    message = bytearray(request.SerializeToString())
    for _ in range(2):
        _, (data,), _ = skeletons.read(memoryview(message))
        assert isinstance(data, memoryview)
        assert data.obj is message
        assert data.readonly
    assert skeletons.statistics().hits == 1


def test_two_requests_of_one_size_are_told_apart() -> None:
    """They are looked for by their size first, which is only a guess."""
    skeletons = Skeletons(Decoder(models_of(*SPECS), PENSTOCK))
    messages: list[bytes] = []
    for priority in (1, 2, 3):
        request = REQUEST.FromString(ONE_ROW)
        request.parameters["priority"].int64_param = priority
        messages.append(request.SerializeToString())
    for message in messages * 3:
        skeletons.read(message)
    assert [skeletons.read(message)[0].level for message in messages] == [1, 2, 3]
    assert (skeletons.statistics().hits, skeletons.statistics().entries) == (9, 3)


def test_a_model_that_changes_is_asked_for_anew() -> None:
    """Another latest version, or one that goes: what was learnt before is gone, of this model."""
    models = models_of(*SPECS)
    model = models.get("one")
    assert model is not None
    skeletons = Skeletons(Decoder(models, PENSTOCK))
    other = REQUEST(model_name="fixed", raw_input_contents=[bytes(2)])
    other.inputs.add(name="M", datatype="INT16", shape=[1, 1])
    skeletons.read(other.SerializeToString())

    def version_of() -> int:
        return skeletons.read(ONE_ROW)[0].plan.version.version

    assert (version_of(), version_of()) == (1, 1)
    model.serve(ServedVersion(2, SPECS[0], ModelConfig(), NO_DRIVER))
    assert (version_of(), version_of()) == (2, 2)
    model.withdraw(2)
    assert version_of() == 1
    model.withdraw(1)
    with pytest.raises(PenstockError):
        version_of()
    assert skeletons.find(other.SerializeToString()) is not None
    assert (skeletons.statistics().entries, skeletons.statistics().dropped) == (1, 3)


def test_a_model_that_is_replaced_is_asked_for_anew() -> None:
    """Under its name there is another one now."""
    models: Models = models_of(SPECS[0])
    skeletons = Skeletons(Decoder(models, PENSTOCK))
    skeletons.read(ONE_ROW)
    (replacement,) = models_of(spec("one", [tensor("Q", "FP32", 2)], SPECS[0].outputs, max_batch_size=4))
    models.add(replacement)
    with pytest.raises(PenstockError, match="unexpected inference input 'X'"):
        skeletons.read(ONE_ROW)


def test_nothing_is_remembered_of_what_was_refused() -> None:
    """Nor of what nobody serves yet."""
    models = Models()
    skeletons = Skeletons(Decoder(models, PENSTOCK))
    with pytest.raises(NotFound):
        skeletons.read(ONE_ROW)
    assert skeletons.statistics().entries == 0


def test_typed_contents_are_not_remembered() -> None:
    """They are data."""
    skeletons = Skeletons(Decoder(models_of(*SPECS), PENSTOCK))
    request = REQUEST(model_name="one")
    request.inputs.add(name="X", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1.0, 2.0])
    for _ in range(2):
        _, (data,), _ = skeletons.read(request.SerializeToString())
        assert data == struct.pack("<2f", 1, 2)
    assert skeletons.statistics().entries == 0


def test_who_is_used_stays() -> None:
    """A stream of forms that nobody sends again does not drive out the one that everybody sends."""
    skeletons = Skeletons(Decoder(models_of(*SPECS), PENSTOCK), max_entries=4)
    for number in range(100):
        request = REQUEST.FromString(ONE_ROW)
        request.parameters["timeout"].int64_param = number + 1
        skeletons.read(request.SerializeToString())
        skeletons.read(ONE_ROW)
    assert skeletons.statistics().misses == 101
    assert (skeletons.statistics().entries, skeletons.statistics().evicted) == (4, 97)


def test_forms_of_one_size_are_all_found_at_once() -> None:
    """As the requests of many sequences are, which differ in an id; and they share what was made of their plan."""
    skeletons = Skeletons(Decoder(models_of(*SPECS), PENSTOCK))
    messages: list[bytes] = []
    for number in range(10):
        request = REQUEST.FromString(ONE_ROW)
        request.parameters["sequence_id"].int64_param = number + 1
        messages.append(request.SerializeToString())
    forms = [skeletons.read(message)[0] for message in messages]
    (family,) = skeletons._families.values()
    (equals,) = family.sizes.values()
    assert len(equals.by_tail) == 10
    assert [skeletons.read(message)[0] for message in messages] == forms
    assert [form.info.correlation_id for form in forms] == list(range(1, 11))
    assert len({id(form.template) for form in forms}) == len({id(form.plan) for form in forms}) == 1


def test_a_form_may_not_be_large() -> None:
    """What has more than 4 KiB besides id and data is parsed each time; and all together are bounded."""
    skeletons = Skeletons(Decoder(models_of(*SPECS), PENSTOCK), max_bytes=20_000)
    request = REQUEST.FromString(ONE_ROW)
    request.parameters["a"].string_param = "x" * 4096
    skeletons.read(request.SerializeToString())
    assert skeletons.statistics().entries == 0
    for number in range(20):
        request.parameters["a"].string_param = f"{number}" * 1000
        skeletons.read(request.SerializeToString())
    assert 0 < skeletons.statistics().nbytes <= 20_000


def test_lengths_that_take_two_bytes_are_walked() -> None:
    """A field of the tail may be longer than one byte tells; a tag alone is not the end of the message."""
    skeletons = Skeletons(Decoder(models_of(*SPECS), PENSTOCK))
    request = REQUEST.FromString(ONE_ROW)
    request.parameters["a"].string_param = "x" * 300
    message = request.SerializeToString()
    skeletons.read(message)
    request.parameters["a"].string_param = "y" * 300
    skeletons.read(request.SerializeToString())
    assert skeletons.find(message) is not None
    assert skeletons.find(message[:-9]) is None
    assert varint(300) in message
