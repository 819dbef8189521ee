"""`grpc-status` and `grpc-message`, against a decoder by others."""

from urllib.parse import unquote

from hypothesis import example, given
from hypothesis import strategies as st

from penstock_server.grpc_wire import status

any_text = st.text(st.characters(exclude_categories=()))


@given(any_text)
@example("  blanks  ")
@example(" ")
@example("100 % of %41")
@example("half \ud800")
@example("€ 😀\r\n\0\x7f")
def test_a_message_is_printable_and_comes_back(text: str) -> None:
    """As a field's value may be: printable ASCII without blanks at its ends."""
    encoded = status.encode_message(text)
    assert unquote(encoded.decode()) == text.encode("utf-8", "replace").decode()
    assert all(0x20 <= byte < 0x7F for byte in encoded)
    assert encoded == encoded.strip()


def test_plain_text_stays_readable() -> None:
    """Only what must be is encoded."""
    plain = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")
    assert status.encode_message(f"a {plain} b") == f"a {plain} b".encode()
    assert status.encode_message("%") == b"%25"


def test_ends_as_fields() -> None:
    """In the order of the specification: the head, the status, its message, the service's own."""
    assert status.trailers(5) == ((b"grpc-status", b"5"),)
    assert status.trailers(5, "no\n", [(b"k", b"v")]) == (
        (b"grpc-status", b"5"),
        (b"grpc-message", b"no%0A"),
        (b"k", b"v"),
    )
    assert status.trailers_only(16, "no")[:2] == ((b":status", b"200"), (b"content-type", b"application/grpc"))
    assert status.trailers_only(16, "no")[2:] == status.trailers(16, "no")
    refused = status.http_refusal(405, 13, "no", [(b"allow", b"POST")])
    assert refused[0] == (b":status", b"405")
    assert (b"allow", b"POST") in refused
    assert refused[-2:] == status.trailers(13, "no")
