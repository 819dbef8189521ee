"""What all transports share: how a failure's message is made fit to travel, and where a server may listen."""

import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock_server.errors import BindError
from penstock_server.transports.base import check_address, status_message

any_text = st.text(st.characters(exclude_categories=()), max_size=60)


def size_on_the_wire(text: str) -> int:
    """As gRPC encodes it: printable ASCII as it is, all else as `%` and two digits a byte."""
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in text.encode())


@given(any_text, st.integers(1, 200))
@example("x", 4096)
@example("x", 4097)
@example("😀", 342)
@example("\ud800", 5000)
def test_a_message_travels_whole_or_cut(text: str, times: int) -> None:
    """At most 4 KiB as it travels. What is cut says so; half a character becomes a question mark."""
    text *= times
    message = status_message(text)
    whole = text.encode("utf-8", "replace").decode()
    assert size_on_the_wire(message) <= 4096
    if size_on_the_wire(whole) <= 4096:
        assert message == whole
    else:
        assert message.endswith("...")
        assert whole.startswith(message[:-3])
        assert size_on_the_wire(message) > 4096 - 50, "not more is cut than has to be"


def test_an_address_that_can_be_had() -> None:
    """Asking takes nothing: it can still be had afterwards."""
    for _ in range(2):
        check_address("127.0.0.1", 0)
    check_address("localhost", 0)


def test_an_address_that_cannot_be_had() -> None:
    """Taken by another, not ours, or none."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
            check_address("127.0.0.1", port)
    check_address("127.0.0.1", port)
    for host in ("192.0.2.1", "no.such.host.invalid"):
        with pytest.raises(BindError, match=host):
            check_address(host, 0)
