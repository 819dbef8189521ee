"""What every transport is told, and what it offers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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
