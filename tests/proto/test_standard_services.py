"""gRPC's health and reflection services, held against their published names and numbers.

The official packages are not installed with Penstock, so the numbers stand below as literals. Other people's tools send
exactly these.
"""

from types import ModuleType

import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.json_format import ParseDict

from penstock_proto import health_pb2, reflection_v1_pb2, reflection_v1alpha_pb2

HEALTH_MESSAGES = {
    "HealthCheckRequest": {"service": 1},
    "HealthCheckResponse": {"status": 1},
    "HealthListRequest": {},
    "HealthListResponse": {"statuses": 1},
}
HEALTH_RPCS = {
    "Check": ("HealthCheckRequest", "HealthCheckResponse", False, False),
    "List": ("HealthListRequest", "HealthListResponse", False, False),
    "Watch": ("HealthCheckRequest", "HealthCheckResponse", False, True),
}
SERVING_STATUS = {"UNKNOWN": 0, "SERVING": 1, "NOT_SERVING": 2, "SERVICE_UNKNOWN": 3}

REFLECTION_MESSAGES = {
    "ServerReflectionRequest": {
        "host": 1,
        "file_by_filename": 3,
        "file_containing_symbol": 4,
        "file_containing_extension": 5,
        "all_extension_numbers_of_type": 6,
        "list_services": 7,
    },
    "ExtensionRequest": {"containing_type": 1, "extension_number": 2},
    "ServerReflectionResponse": {
        "valid_host": 1,
        "original_request": 2,
        "file_descriptor_response": 4,
        "all_extension_numbers_response": 5,
        "list_services_response": 6,
        "error_response": 7,
    },
    "FileDescriptorResponse": {"file_descriptor_proto": 1},
    "ExtensionNumberResponse": {"base_type_name": 1, "extension_number": 2},
    "ListServiceResponse": {"service": 1},
    "ServiceResponse": {"name": 1},
    "ErrorResponse": {"error_code": 1, "error_message": 2},
}
REFLECTION_RPCS = {"ServerReflectionInfo": ("ServerReflectionRequest", "ServerReflectionResponse", True, True)}

# Messages as dicts, and their bytes, written down by hand: the types behind the numbers.
REQUESTS: list[tuple[dict[str, object], bytes]] = [
    ({"host": "h", "file_containing_symbol": "s"}, b"\x0a\x01h\x22\x01s"),
    ({"file_by_filename": "f"}, b"\x1a\x01f"),
    ({"file_containing_extension": {"containing_type": "t", "extension_number": 7}}, b"\x2a\x05\x0a\x01t\x10\x07"),
    ({"all_extension_numbers_of_type": "t"}, b"\x32\x01t"),
    ({"list_services": ""}, b"\x3a\x00"),
]
ANSWERS: list[tuple[dict[str, object], bytes]] = [
    ({"valid_host": "h", "original_request": {"host": "h"}}, b"\x0a\x01h\x12\x03\x0a\x01h"),
    # In JSON, bytes are base64: these are `a` and nothing.
    ({"file_descriptor_response": {"file_descriptor_proto": ["YQ==", ""]}}, b"\x22\x05\x0a\x01a\x0a\x00"),
    (
        {"all_extension_numbers_response": {"base_type_name": "b", "extension_number": [1, 2]}},
        b"\x2a\x07\x0a\x01b\x12\x02\x01\x02",
    ),
    ({"list_services_response": {"service": [{"name": "s"}]}}, b"\x32\x05\x0a\x03\x0a\x01s"),
    ({"error_response": {"error_code": 5, "error_message": "n"}}, b"\x3a\x05\x08\x05\x12\x01n"),
]


def numbers_of(file: FileDescriptor) -> dict[str, dict[str, int]]:
    return {
        name: {field.name: field.number for field in message.fields}
        for name, message in file.message_types_by_name.items()
    }


def rpcs_of(file: FileDescriptor, service: str) -> dict[str, tuple[str, str, bool, bool]]:
    return {
        rpc.name: (rpc.input_type.name, rpc.output_type.name, rpc.client_streaming, rpc.server_streaming)
        for rpc in file.services_by_name[service].methods
    }


def test_health_has_the_official_names_and_numbers() -> None:
    """`grpc_health_probe`, Kubernetes and service meshes have them built in."""
    file = health_pb2.DESCRIPTOR
    assert file.package == "grpc.health.v1"
    assert numbers_of(file) == HEALTH_MESSAGES
    assert rpcs_of(file, "Health") == HEALTH_RPCS
    assert dict(health_pb2.HealthCheckResponse.ServingStatus.items()) == SERVING_STATUS


def test_health_answers_have_the_official_bytes() -> None:
    """SERVING is one varint in field 1, and a listing is a map from string to answer."""
    serving = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
    assert serving.SerializeToString() == b"\x08\x01"
    assert health_pb2.HealthCheckRequest(service="s").SerializeToString() == b"\x0a\x01s"
    listing = health_pb2.HealthListResponse(statuses={"s": serving})
    assert listing.SerializeToString() == b"\x0a\x07\x0a\x01s\x12\x02\x08\x01"


@pytest.mark.parametrize(
    ("file", "package"),
    [
        (reflection_v1_pb2.DESCRIPTOR, "grpc.reflection.v1"),
        (reflection_v1alpha_pb2.DESCRIPTOR, "grpc.reflection.v1alpha"),
    ],
)
def test_reflection_has_the_official_names_and_numbers(file: FileDescriptor, package: str) -> None:
    """Both editions are equal but for the package, which is the path that a tool calls."""
    assert file.package == package
    assert numbers_of(file) == REFLECTION_MESSAGES
    assert rpcs_of(file, "ServerReflection") == REFLECTION_RPCS
    for message, oneof, others in (
        ("ServerReflectionRequest", "message_request", {"host"}),
        ("ServerReflectionResponse", "message_response", {"valid_host", "original_request"}),
    ):
        members = {field.name for field in file.message_types_by_name[message].oneofs_by_name[oneof].fields}
        assert members == REFLECTION_MESSAGES[message].keys() - others


@pytest.mark.parametrize("stubs", [reflection_v1_pb2, reflection_v1alpha_pb2])
def test_reflection_has_the_official_bytes(stubs: ModuleType) -> None:
    """Strings, nested messages, repeated fields, and a member of a oneof that is present but empty."""
    for fields, raw in REQUESTS:
        assert ParseDict(fields, stubs.ServerReflectionRequest()).SerializeToString() == raw
    for fields, raw in ANSWERS:
        assert ParseDict(fields, stubs.ServerReflectionResponse()).SerializeToString() == raw
