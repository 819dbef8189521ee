"""What every transport is told, and what it offers."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from penstock_server.errors import BindError
from penstock_server.service.seam import TransportStatistics

DEFAULT_MAX_MESSAGE_BYTES = 64 << 20
DEFAULT_MAX_CONNECTIONS = 4096
DEFAULT_MAX_HELD_BYTES = 1 << 30
DEFAULT_BUSY_POLL = 50e-6
LARGEST_MESSAGE_BYTES = 2**31 - 1
"""gRPC's own bound."""

_LONGEST_MESSAGE_BYTES = 4096
"""Of a status's message, as it travels. Clients that let no more than 8 KiB of headers through, as gRPC's own do,
lose the status together with a message that is too long."""
_LARGEST_CHARACTER = 12
"""Bytes of a character that takes four in UTF-8, as each of them travels: `%F0`."""

_QUIET_SECONDS = 1.0
_QUIET_LOOKS = 3
_LOOK_SECONDS = 0.01


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
    reuse_port: bool = False
    """Share the port with others of this user that want the same: for workers, whose supervisor holds the port."""
    tls: TlsSettings | None = None
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    """In both directions."""
    max_streams: int = 256
    """Calls at once on one connection."""
    max_connections: int = DEFAULT_MAX_CONNECTIONS
    """At once; the grpcio transport knows no such bound."""
    max_held_bytes: int = DEFAULT_MAX_HELD_BYTES
    """What all connections hold before a message is whole and after it was answered; likewise."""
    busy_poll: float = DEFAULT_BUSY_POLL
    """Seconds for which the loop stays awake after answers; likewise."""


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


async def become_quiet(calls: Callable[[], int], grace: float) -> None:
    """Wait, for a second at most, until no more calls come in; `calls` says how many have come so far.

    By now their methods refuse them. A transport that stops at once would cut them off, or keep their clients from
    connecting, and nobody could tell those why.
    """
    ends = time.monotonic() + min(grace, _QUIET_SECONDS)
    seen, quiet = -1, 0
    while quiet < _QUIET_LOOKS and time.monotonic() < ends:
        quiet = quiet + 1 if calls() == seen else 0
        seen = calls()
        await asyncio.sleep(_LOOK_SECONDS)


def check_tls(tls: TlsSettings) -> None:
    """Raise BindError, which names the files, if they are not what they should be.

    Python's own reader of certificates says what is wrong; gRPC would say late, or never.
    """
    try:
        # An encrypted key is refused like a broken one, instead of asking a terminal for its password.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password="")
    except (OSError, ValueError) as error:
        raise BindError(f"{tls.certificate} and {tls.key} are no certificate and its key (PEM): {error}") from None
    if tls.client_ca is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(tls.client_ca)
        except (OSError, ValueError) as error:
            raise BindError(f"{tls.client_ca} holds no certificate of an authority (PEM): {error}") from None


def status_message(text: str) -> str:
    """A failure's message as any client can be told it: without half characters, and cut if it is too long."""
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate, from a model's text, has no encoding
    if len(text) * _LARGEST_CHARACTER <= _LONGEST_MESSAGE_BYTES:
        return text
    room = _LONGEST_MESSAGE_BYTES
    for index, character in enumerate(text):
        plain = " " <= character <= "~" and character != "%"
        room -= 1 if plain else 3 * len(character.encode())
        if room < 0:
            return f"{text[: index - 3]}..."
    return text


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
