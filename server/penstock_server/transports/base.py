"""What every transport is told, and what it offers."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from penstock_server.errors import BindError
from penstock_server.service.seam import TransportStatistics

DEFAULT_MAX_MESSAGE_BYTES = 64 << 20
LARGEST_MESSAGE_BYTES = 2**31 - 1
"""gRPC's own bound."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Certificates, as PEM files."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """If given, a client must present a certificate that this authority has signed (mTLS)."""


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """Where to listen, and within which bounds."""

    host: str = "127.0.0.1"
    port: int = 8001
    """0: any free one."""
    tls: TlsSettings | None = None
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    """In both directions."""
    max_streams: int = 256
    """Calls at once on one connection."""


class Transport(Protocol):
    """Serves methods on an address."""

    async def start(self) -> int:
        """Listen. Returns the port. Raises BindError."""
        ...

    async def stop(self, grace: float) -> None:
        """Accept nothing more, let what runs end for at most `grace` seconds, then cut it off.

        When it returns, every call has ended and every handler has been told.
        """
        ...

    def statistics(self) -> TransportStatistics: ...


def check_address(host: str, port: int) -> None:
    """Raise BindError if nobody could listen there now.

    For an early and readable refusal, before models are loaded; whoever listens later may still fail.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As a server does: a port whose last connections are still dying can be listened on.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise BindError(f"cannot listen on {host}:{port}: {error.strerror}") from None
