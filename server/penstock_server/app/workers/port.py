"""The port that all workers listen on, held by who does not listen.

Listeners share a port if each of them says so (SO_REUSEPORT) and they are of one user; then a second server of that
user that says so too would come in without a word. So the port is taken alone, as a single server takes it: whoever is
there already, bound or listening, is in the way. Only then it is opened for sharing, which lets in the workers, and
nobody who asks for the port alone, such as another supervisor or a single server. A socket that does not listen gets
no connections.
"""

import socket

from penstock_server.errors import BindError


def hold_port(host: str, port: int) -> socket.socket:
    """A socket that keeps this port for this process and its workers until it is closed. 0: a free one.

    Raises BindError if somebody else has it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        held = socket.socket(family, kind, protocol)
        try:
            # As a server does: a port whose last connections are still dying can be had.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(address)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except BaseException:
            held.close()
            raise
    except OSError as error:
        raise BindError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return held


def port_of(held: socket.socket) -> int:
    """The number of a port that is held."""
    number: int = held.getsockname()[1]
    return number
