"""The port of all workers: shared among them, and refused to everybody else."""

import socket

import pytest

from penstock_server.app.workers.port import hold_port, port_of
from penstock_server.errors import BindError
from penstock_server.transports.base import check_address


def listener(port: int, *options: int) -> socket.socket:
    """Somebody who listens there, with these socket options. Raises OSError."""
    sock = socket.socket()
    try:
        for option in options:
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen()
    except OSError:
        sock.close()
        raise
    return sock


def test_workers_share_a_port_that_is_held() -> None:
    """Any number of them; whoever connects meets a worker and never the holder."""
    with hold_port("127.0.0.1", 0) as held:
        port = port_of(held)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        options = (socket.SO_REUSEADDR, socket.SO_REUSEPORT)
        with listener(port, *options), listener(port, *options), socket.create_connection(("127.0.0.1", port)):
            pass


def test_a_held_port_is_refused_to_other_servers() -> None:
    """To another supervisor, to a single server, and to its early look: before any worker listens, too."""
    with hold_port("127.0.0.1", 0) as held:
        port = port_of(held)
        line = f"cannot listen on 127.0.0.1:{port}: Address already in use"
        with pytest.raises(BindError, match=line):
            hold_port("127.0.0.1", port)
        with pytest.raises(BindError, match=line):
            check_address("127.0.0.1", port)
        with pytest.raises(OSError, match="in use"):
            listener(port, socket.SO_REUSEADDR)


@pytest.mark.parametrize("options", [(), (socket.SO_REUSEADDR,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)])
def test_a_port_that_somebody_has_is_not_held(options: tuple[int, ...]) -> None:
    """Not even that of one who would share it: half of the calls would be his."""
    with listener(0, *options) as other:
        port = other.getsockname()[1]
        with pytest.raises(BindError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            hold_port("127.0.0.1", port)


def test_a_port_whose_connections_are_dying_is_held() -> None:
    """A server that is started again finds its old connections there, and must not wait for them."""
    with hold_port("127.0.0.1", 0) as held:
        port = port_of(held)
        options = (socket.SO_REUSEADDR, socket.SO_REUSEPORT)
        with listener(port, *options) as worker, socket.create_connection(("127.0.0.1", port)) as client:
            served, _ = worker.accept()
            served.close()  # first, so that its end is the one that lingers
            assert client.recv(1) == b""
    hold_port("127.0.0.1", port).close()


def test_an_address_that_is_none_is_told() -> None:
    """With the address, and in the system's words."""
    with pytest.raises(BindError, match=r"cannot listen on 192\.0\.2\.1:0: Cannot assign"):
        hold_port("192.0.2.1", 0)
