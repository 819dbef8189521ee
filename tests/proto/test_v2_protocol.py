"""Our edition of the V2 protocol is Triton's, field for field.

The other side is what tritonclient brings: the descriptors that Triton's own users send and parse with. Both are
flattened to tables of facts, because two tables that differ say where.
"""

import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.message_factory import GetMessageClass
from tritonclient.grpc import model_config_pb2 as triton_model_config_pb2
from tritonclient.grpc import service_pb2 as triton_service_pb2

from penstock_proto import model_config_pb2, open_inference_pb2

PAIRS = [
    pytest.param(open_inference_pb2.DESCRIPTOR, triton_service_pb2.DESCRIPTOR, id="open_inference"),
    pytest.param(model_config_pb2.DESCRIPTOR, triton_model_config_pb2.DESCRIPTOR, id="model_config"),
]

# What we have beyond Triton, by full name. Every name here must be there, and must not be in Triton's.
ADDED: frozenset[str] = frozenset()

PLAIN = {"ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"}


class Field(NamedTuple):
    """All that decides how a field is read, written and used."""

    number: int
    type: str
    of: str
    """Full name of the message or enum; empty for numbers and strings."""
    label: str
    oneof: str
    options: bytes


def field_of(message: DescriptorProto, field: FieldDescriptorProto) -> Field:
    return Field(
        field.number,
        FieldDescriptorProto.Type.Name(field.type),
        field.type_name,
        FieldDescriptorProto.Label.Name(field.label),
        message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else "",
        field.options.SerializeToString(deterministic=True),
    )


def facts_of_enum(scope: str, enum: EnumDescriptorProto) -> Iterator[tuple[str, object]]:
    yield f"{scope}.{enum.name}", "enum"
    for value in enum.value:
        yield f"{scope}.{enum.name}.{value.name}", value.number


def facts_of_message(scope: str, message: DescriptorProto) -> Iterator[tuple[str, object]]:
    name = f"{scope}.{message.name}"
    yield name, "map entry" if message.options.map_entry else "message"
    for oneof in message.oneof_decl:
        yield f"{name}.{oneof.name}", "oneof"
    for field in message.field:
        yield f"{name}.{field.name}", field_of(message, field)
    for enum in message.enum_type:
        yield from facts_of_enum(name, enum)
    for nested in message.nested_type:
        yield from facts_of_message(name, nested)


def facts_of(file: FileDescriptor) -> dict[str, object]:
    """Every message, field, oneof, enum value and RPC of a file, by full name."""
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    facts: dict[str, object] = {}
    for enum in proto.enum_type:
        facts.update(facts_of_enum(proto.package, enum))
    for message in proto.message_type:
        facts.update(facts_of_message(proto.package, message))
    for service in proto.service:
        for rpc in service.method:
            name = f"{proto.package}.{service.name}.{rpc.name}"
            facts[name] = (rpc.input_type, rpc.output_type, rpc.client_streaming, rpc.server_streaming)
    return facts


@pytest.mark.parametrize(("ours", "tritons"), PAIRS)
def test_nothing_is_missing_and_nothing_is_extra(ours: FileDescriptor, tritons: FileDescriptor) -> None:
    """A name on one side only would be a field that gets lost, or an RPC that answers UNIMPLEMENTED."""
    mine, theirs = facts_of(ours).keys(), facts_of(tritons).keys()
    added = {name for name in ADDED if name.startswith(f"{ours.package}.") and name in mine}
    assert theirs - mine == set()
    assert mine - theirs == added


@pytest.mark.parametrize(("ours", "tritons"), PAIRS)
def test_what_both_have_is_equal(ours: FileDescriptor, tritons: FileDescriptor) -> None:
    """The same number, type, label, oneof, map-ness and options for fields; the same values and RPC signatures."""
    mine, theirs = facts_of(ours), facts_of(tritons)
    differing = {name: (mine[name], theirs[name]) for name in mine.keys() & theirs.keys() if mine[name] != theirs[name]}
    assert differing == {}


@pytest.mark.parametrize(("ours", "tritons"), PAIRS)
def test_package_and_syntax_are_equal(ours: FileDescriptor, tritons: FileDescriptor) -> None:
    """The package is part of every RPC's path; the syntax decides presence and packing."""
    mine, theirs = FileDescriptorProto(), FileDescriptorProto()
    ours.CopyToProto(mine)
    tritons.CopyToProto(theirs)
    assert (mine.package, mine.syntax) == (theirs.package, theirs.syntax)


def test_every_added_name_exists() -> None:
    """A name left over in `ADDED` would hide a later mistake."""
    assert facts_of(open_inference_pb2.DESCRIPTOR).keys() | facts_of(model_config_pb2.DESCRIPTOR).keys() >= ADDED


def test_the_service_is_whole() -> None:
    """20 RPCs; first the 6 of KServe's plain service; one streams, both ways."""
    rpcs = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    assert len(rpcs) == 20
    assert [rpc.name for rpc in rpcs if rpc.client_streaming and rpc.server_streaming] == ["ModelStreamInfer"]
    assert {rpc.name for rpc in rpcs[: len(PLAIN)]} == PLAIN, "the mark in the file stands after these"


def test_messages_of_both_live_in_one_process() -> None:
    """They are different classes with one name, and each reads what the other wrote."""
    request = open_inference_pb2.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"\0\0\0\0", b""])
    request.parameters["priority"].uint64_param = 1
    request.inputs.add(name="x", datatype="FP32", shape=[1, -1]).parameters["a"].double_param = 0.5

    message = GetMessageClass(triton_service_pb2.DESCRIPTOR.message_types_by_name["ModelInferRequest"])
    theirs = message.FromString(request.SerializeToString())

    assert theirs.DESCRIPTOR is not request.DESCRIPTOR
    assert theirs.DESCRIPTOR.full_name == request.DESCRIPTOR.full_name
    assert str(theirs) == str(request)
    assert open_inference_pb2.ModelInferRequest.FromString(theirs.SerializeToString()) == request


@pytest.mark.parametrize(
    "order",
    [
        ("penstock_proto.open_inference_pb2_grpc", "tritonclient.grpc.service_pb2_grpc"),
        ("tritonclient.grpc.service_pb2_grpc", "penstock_proto.open_inference_pb2_grpc"),
    ],
)
def test_either_may_be_imported_first(order: tuple[str, str]) -> None:
    """In one descriptor pool the second import would raise; with warnings as errors, as a strict user has them."""
    program = "; ".join(f"import {module}" for module in order)
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
