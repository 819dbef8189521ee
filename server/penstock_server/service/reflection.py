"""Server reflection, v1 and v1alpha: what `grpcurl` and `buf curl` ask to learn the services.

Both versions have the same messages under different names, so one handler serves them.
Source: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

from collections.abc import Callable, Iterable
from typing import TypeAlias

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError

from penstock_proto import reflection_v1_pb2, reflection_v1alpha_pb2
from penstock_proto.pool import POOL
from penstock_server.errors import Failure
from penstock_server.service.seam import Buffer, Methods, RequestHead, Stream, StreamHandler, StreamSink
from penstock_server.status import Status

_Find: TypeAlias = Callable[[], FileDescriptor]
_Request: TypeAlias = reflection_v1_pb2.ServerReflectionRequest | reflection_v1alpha_pb2.ServerReflectionRequest
_Response: TypeAlias = reflection_v1_pb2.ServerReflectionResponse | reflection_v1alpha_pb2.ServerReflectionResponse

_VERSIONS: dict[str, tuple[type[_Request], type[_Response]]] = {
    "grpc.reflection.v1.ServerReflection": (
        reflection_v1_pb2.ServerReflectionRequest,
        reflection_v1_pb2.ServerReflectionResponse,
    ),
    "grpc.reflection.v1alpha.ServerReflection": (
        reflection_v1alpha_pb2.ServerReflectionRequest,
        reflection_v1alpha_pb2.ServerReflectionResponse,
    ),
}


class ReflectionService:
    """Tells which services there are, and their descriptors."""

    def __init__(self, services: Iterable[str], malformed: Failure) -> None:
        self._services = sorted({*services, *_VERSIONS})
        self._malformed = malformed

    def methods(self) -> Methods:
        """The methods by full path."""
        return {
            f"/{service}/ServerReflectionInfo": Stream(self._opener(request, response))
            for service, (request, response) in _VERSIONS.items()
        }

    def _opener(self, request_type: type[_Request], response_type: type[_Response]) -> "_Opener":
        return _Opener(self, request_type, response_type, self._malformed)

    def answer(self, request: _Request, response: _Response) -> None:
        """Fill in the response to a request."""
        response.valid_host = request.host
        response.original_request.MergeFromString(request.SerializeToString())
        match request.WhichOneof("message_request"):
            case "list_services":
                for name in self._services:
                    response.list_services_response.service.add(name=name)
            case "file_by_filename":
                self._file(response, lambda: POOL.FindFileByName(request.file_by_filename))
            case "file_containing_symbol":
                self._file(response, lambda: _file_of(request.file_containing_symbol))
            case "file_containing_extension" | "all_extension_numbers_of_type":
                _error(response, Status.NOT_FOUND, "there are no extensions")
            case _:
                _error(response, Status.INVALID_ARGUMENT, "the request asks for nothing")

    @staticmethod
    def _file(response: _Response, find: "_Find") -> None:
        try:
            descriptor = find()
        except KeyError:
            return _error(response, Status.NOT_FOUND, "there is no such file or symbol")
        response.file_descriptor_response.file_descriptor_proto.extend(_with_dependencies(descriptor))


def _file_of(symbol: str) -> FileDescriptor:
    """The file that defines a symbol. KeyError if there is none."""
    try:
        return POOL.FindFileContainingSymbol(symbol)
    except KeyError:  # the pool knows no methods, which are symbols, too
        parent, _, name = symbol.rpartition(".")
        service = POOL.FindServiceByName(parent)
        if name not in service.methods_by_name:
            raise
        return service.file


def _error(response: _Response, status: Status, message: str) -> None:
    response.error_response.error_code = status
    response.error_response.error_message = message


def _with_dependencies(descriptor: FileDescriptor) -> list[bytes]:
    """The file and all it imports, each serialised once."""
    seen: dict[str, bytes] = {}
    pending = [descriptor]
    while pending:
        file = pending.pop()
        if file.name not in seen:
            seen[file.name] = file.serialized_pb
            pending.extend(file.dependencies)
    return list(seen.values())


class _Opener:
    """Opens streams of one version of the protocol."""

    def __init__(
        self,
        service: ReflectionService,
        request_type: type[_Request],
        response_type: type[_Response],
        malformed: Failure,
    ) -> None:
        self.service = service
        self.request_type = request_type
        self.response_type = response_type
        self.malformed = malformed

    def __call__(self, head: RequestHead, sink: StreamSink) -> StreamHandler:
        return _ReflectionStream(self, sink)


class _ReflectionStream:
    """Answers each request of a stream in turn."""

    def __init__(self, opener: _Opener, sink: StreamSink) -> None:
        self._opener = opener
        self._sink = sink
        self._waiting: int = 0  # messages whose window is given back once the sink has room again
        self._writable = True

    def on_message(self, message: Buffer) -> None:
        opener = self._opener
        response = opener.response_type()
        try:
            opener.service.answer(opener.request_type.FromString(bytes(message)), response)
        except DecodeError:
            self._sink.finish(opener.malformed)
            return
        self._writable = self._sink.send([response.SerializeToString()])
        self._waiting += 1
        self._give_back()

    def on_end(self) -> None:
        self._sink.finish()

    def on_cancel(self) -> None: ...

    def on_writable(self) -> None:
        self._writable = True
        self._give_back()

    def _give_back(self) -> None:
        if self._writable and self._waiting:
            waiting, self._waiting = self._waiting, 0
            self._sink.consumed(waiting)
