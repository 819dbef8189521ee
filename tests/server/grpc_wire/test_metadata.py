"""Metadata both ways."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_server.grpc_wire.metadata import decode_metadata, encode_metadata
from penstock_server.grpc_wire.status import INTERNAL, Refusal

printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)).map(str.strip)
keys = st.from_regex(r"[0-9a-z_.-]{1,10}", fullmatch=True).filter(lambda key: not key.startswith(("grpc-", "te")))
pairs = st.lists(
    st.tuples(keys.filter(lambda key: not key.endswith("-bin")), printable)
    | st.tuples(keys.map(lambda key: f"{key}-bin"), st.binary(max_size=20)),
    max_size=6,
)


@given(pairs)
def test_there_and_back(sent: list[tuple[str, str | bytes]]) -> None:
    """In order, and the same key more than once."""
    assert list(decode_metadata(encode_metadata(sent))) == sent


@given(st.lists(st.binary(max_size=10), min_size=1, max_size=4), st.booleans())
def test_binary_values_may_be_joined_and_padded(values: list[bytes], padded: bool) -> None:
    """A comma joins several, blanks around it mean nothing, and padding is the sender's choice."""
    encoded = [base64.b64encode(value) for value in values]
    if not padded:
        encoded = [value.rstrip(b"=") for value in encoded]
    assert decode_metadata([(b"k-bin", b" ,".join(encoded))]) == tuple(("k-bin", value) for value in values)


@pytest.mark.parametrize("value", [b"A", b"A!", b"AAE=A", b"AA=E", b"AAE===", b"\xff", b"AA E", b"-_8"])
def test_what_is_no_base64(value: bytes) -> None:
    """Is an error that names the key, and nothing is guessed."""
    with pytest.raises(Refusal, match="'k-bin'") as refused:
        decode_metadata([(b"k-bin", value)])
    assert refused.value.status == INTERNAL


def test_what_applications_do_not_see() -> None:
    """Pseudo-header fields, and those that are gRPC's own."""
    ours = ["te", "content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-trace-bin"]
    headers = [
        (b":path", b"/a/b"),
        *((name.encode(), b"AAAA") for name in ours),
        (b"user-agent", b"ua"),
        (b"te2", b"x"),
    ]
    assert decode_metadata(headers) == (("user-agent", "ua"), ("te2", "x"))


def test_text_that_is_not_ascii() -> None:
    """Is taken as gRPC's Python server takes it."""
    assert decode_metadata([(b"a", "é".encode()), (b"b", b"\xff")]) == (("a", "é"), ("b", "ÿ"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("", "x"), ("A", "x"), ("ä", "x"), ("a b", "x"), (":a", "x")),
        *(("a", "é"), ("a", "x\n"), ("a", " x"), ("a", "x\0")),
        *(("grpc-status", "0"), ("grpc-message", "x"), ("te", "trailers"), ("content-type", "x")),
    ],
)
def test_what_is_not_sent(key: str, value: str) -> None:
    """Keys and values that would break the response, or say something else than the server."""
    with pytest.raises(ValueError, match=r"not a metadata key|not printable"):
        encode_metadata([(key, value)])


def test_text_under_a_binary_key() -> None:
    """Is its bytes, and bytes under a text key are text."""
    assert encode_metadata([("k-bin", "ab"), ("k", b"ab")]) == ((b"k-bin", b"YWI"), (b"k", b"ab"))
