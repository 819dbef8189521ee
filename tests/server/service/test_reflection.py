"""Server reflection through the seam, as the tools use it: list the services, then ask for their files."""

from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto as File
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from penstock_proto import health_pb2, open_inference_pb2, reflection_v1_pb2, reflection_v1alpha_pb2
from penstock_server.service.dialect import PENSTOCK
from penstock_server.service.reflection import ReflectionService
from penstock_server.service.seam import RequestHead, Stream, StreamHandler
from penstock_server.status import Status
from tests.server.service.fakes import FakeSink

V1, ALPHA = "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"
SERVED = [  # read off the stubs, for the pool knows the files of those that were imported
    open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
    health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
]

MODULES: dict[str, Any] = {V1: reflection_v1_pb2, ALPHA: reflection_v1alpha_pb2}
both_versions = pytest.mark.parametrize("version", [V1, ALPHA])


def open_stream(version: str, room: int = 1 << 30) -> tuple[FakeSink, StreamHandler]:
    path = f"/{version}/ServerReflectionInfo"
    method = ReflectionService(SERVED, PENSTOCK.malformed).methods()[path]
    assert isinstance(method, Stream)
    sink = FakeSink(room)
    return sink, method.open(RequestHead(path), sink)


def ask(version: str, **question: Any) -> Any:
    """The answer to one question."""
    sink, handler = open_stream(version)
    request: Message = MODULES[version].ServerReflectionRequest(**question)
    handler.on_message(request.SerializeToString())
    assert sink.given_back == 1
    (message,) = sink.sent
    response = MODULES[version].ServerReflectionResponse.FromString(message)
    assert response.original_request == request
    handler.on_end()
    assert sink.ends == [None]
    return response


@both_versions
def test_it_lists_the_services(version: str) -> None:
    """Those that are served, and both reflections themselves."""
    response = ask(version, host="h", list_services="*")
    assert response.valid_host == "h"
    assert [service.name for service in response.list_services_response.service] == sorted([*SERVED, V1, ALPHA])


def built(files: dict[str, File]) -> descriptor_pool.DescriptorPool:
    """A pool of these files, which has to be given what a file imports before the file."""
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()

    def add(file: File) -> None:
        if file.name not in added:
            added.add(file.name)
            for imported in file.dependency:
                add(files[imported])
            pool.AddSerializedFile(file.SerializeToString())

    for file in files.values():
        add(file)
    return pool


@both_versions
def test_every_service_can_be_looked_up(version: str) -> None:
    """The files that come are enough to build the service from, with all they import."""
    for service in [*SERVED, V1, ALPHA]:
        response = ask(version, file_containing_symbol=service)
        files = [File.FromString(file) for file in response.file_descriptor_response.file_descriptor_proto]
        by_name = {file.name: file for file in files}
        assert len(by_name) == len(files), "each comes once"
        assert built(by_name).FindServiceByName(service).methods


@both_versions
def test_a_method_is_a_symbol(version: str) -> None:
    """Tools that describe one method ask for it by its full name, and get the file of its service."""
    service = ask(version, file_containing_symbol=SERVED[0])
    method = ask(version, file_containing_symbol=f"{SERVED[0]}.ModelInfer")
    assert method.file_descriptor_response == service.file_descriptor_response


@both_versions
def test_files_can_be_looked_up_by_name(version: str) -> None:
    """As they are named in the imports of others."""
    response = ask(version, file_containing_symbol="inference.ModelInferRequest")
    first = File.FromString(response.file_descriptor_response.file_descriptor_proto[0])
    again = ask(version, file_by_filename=first.name)
    assert again.file_descriptor_response == response.file_descriptor_response


@both_versions
@pytest.mark.parametrize(
    ("question", "status"),
    [
        ({"file_by_filename": "no/such.proto"}, Status.NOT_FOUND),
        ({"file_containing_symbol": "no.such.Service"}, Status.NOT_FOUND),
        ({"file_containing_symbol": ""}, Status.NOT_FOUND),
        ({"file_containing_symbol": "inference.GRPCInferenceService.NoMethod"}, Status.NOT_FOUND),
        ({"file_containing_symbol": "inference.ModelInferRequest.ModelInfer"}, Status.NOT_FOUND),
        ({"all_extension_numbers_of_type": "inference.ModelInferRequest"}, Status.NOT_FOUND),
        ({}, Status.INVALID_ARGUMENT),
    ],
)
def test_what_is_not_there_is_an_answer(version: str, question: dict[str, str], status: Status) -> None:
    """Not an end of the stream: tools ask on."""
    assert ask(version, **question).error_response.error_code == status


@both_versions
@given(st.text(max_size=20), st.sampled_from(["file_by_filename", "file_containing_symbol"]))
def test_any_name_is_answered(version: str, name: str, question: str) -> None:
    """Whatever the descriptor pool makes of it."""
    response = ask(version, **{question: name})
    assert response.WhichOneof("message_response") in ("error_response", "file_descriptor_response")


def test_a_malformed_question_ends_the_stream() -> None:
    """With an error; the answers before it were sent."""
    sink, handler = open_stream(V1)
    handler.on_message(MODULES[V1].ServerReflectionRequest(list_services="").SerializeToString())
    handler.on_message(b"\xff")
    assert len(sink.sent) == 1
    assert sink.ends == [PENSTOCK.malformed]


def test_a_slow_reader_is_asked_to_wait() -> None:
    """As long as it does not read, its questions' window is not given back, so no more of them come."""
    sink, handler = open_stream(V1, room=2)
    question = MODULES[V1].ServerReflectionRequest(list_services="").SerializeToString()
    handler.on_message(question)
    assert sink.given_back == 1
    handler.on_message(question)
    assert sink.given_back == 1
    sink.room = 10
    handler.on_writable()
    assert sink.given_back == 2
    handler.on_message(question)
    assert (sink.given_back, len(sink.sent)) == (3, 3)
    handler.on_cancel()
