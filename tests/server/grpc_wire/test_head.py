"""What a request's header list says."""

import pytest

from penstock_server.grpc_wire.compression import inflate_gzip
from penstock_server.grpc_wire.head import Head, interpret
from penstock_server.grpc_wire.status import Field

GOOD: list[Field] = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/s.S/M"),
    (b":authority", b"localhost"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]


def with_field(name: bytes, value: bytes | None) -> list[Field]:
    """The good list with another value, one more field, or one less."""
    others = [field for field in GOOD if field[0] != name]
    return others if value is None else [*others, (name, value)]


def refusal_of(head: Head) -> dict[bytes, bytes]:
    assert head.refusal is not None
    return dict(head.refusal)


def test_a_request() -> None:
    """Its path, its metadata, its encoding."""
    assert interpret(GOOD) == Head("/s.S/M")
    assert interpret([*GOOD, (b"k", b"v"), (b"grpc-encoding", b"gzip")]) == Head("/s.S/M", (("k", "v"),), inflate_gzip)
    assert interpret(with_field(b"grpc-encoding", b"identity")).inflate is None


@pytest.mark.parametrize(
    "value", [b"application/grpc", b"application/grpc+proto", b"application/grpc;x=y", b"Application/gRPC"]
)
def test_content_types_of_grpc(value: bytes) -> None:
    """With a serialisation or a parameter, in any case."""
    assert interpret(with_field(b"content-type", value)).refusal is None


@pytest.mark.parametrize("value", [None, b"", b"text/plain", b"application/grpc-web", b"application/grpcx", b"a"])
def test_other_content_types(value: bytes | None) -> None:
    """415, as the specification has it."""
    refusal = refusal_of(interpret(with_field(b"content-type", value)))
    assert (refusal[b":status"], refusal[b"grpc-status"]) == (b"415", b"13")


@pytest.mark.parametrize("method", [b"GET", b"post", b"PUT"])
def test_other_methods(method: bytes) -> None:
    """405."""
    refusal = refusal_of(interpret(with_field(b":method", method)))
    assert (refusal[b":status"], refusal[b"allow"]) == (b"405", b"POST")


def test_te_may_be_missing() -> None:
    """It only tells about proxies, and some drop it."""
    assert interpret(with_field(b"te", None)).refusal is None


def test_an_encoding_that_is_not_known() -> None:
    """UNIMPLEMENTED, and what would have been accepted."""
    refusal = refusal_of(interpret(with_field(b"grpc-encoding", b"snappy\xff")))
    assert refusal[b":status"] == b"200"
    assert refusal[b"grpc-status"] == b"12"
    assert refusal[b"grpc-accept-encoding"] == b"identity, deflate, gzip"


def test_metadata_that_cannot_be_read() -> None:
    """INTERNAL."""
    assert refusal_of(interpret([*GOOD, (b"k-bin", b"!")]))[b"grpc-status"] == b"13"


@pytest.mark.parametrize("path", [b"/\xff\xfe/\xff", b"/", b"*", b"/a/b/c"])
def test_any_path_is_a_text(path: bytes) -> None:
    """grpc.aio's server ends when it is not."""
    assert isinstance(interpret(with_field(b":path", path)).path, str)
