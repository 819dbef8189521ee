"""What a client is told once: where to, how secured, how long, how often.

Both clients take the same settings and make the same channel of them, one from `grpc`, the other from
`grpc.aio`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import grpc

from penstock_client.retry import NO_DEADLINE, Deadline, RetryPolicy

Pem: TypeAlias = bytes | str | PathLike[str]
"""PEM text as bytes, or the path of a file that holds it."""

Metadata: TypeAlias = Mapping[str, str | bytes]
"""gRPC metadata: keys in lower case; values are bytes where the key ends with `-bin`."""

Timeout: TypeAlias = float | Deadline | None
"""Seconds from now, a point in time, or None for the client's default. Infinity is no limit."""

Options: TypeAlias = Mapping[str, int | str]

CHANNEL_OPTIONS: Options = {
    # Tensors are large, and the server has a limit of its own. gRPC would refuse answers over 4 MiB.
    "grpc.max_send_message_length": -1,
    "grpc.max_receive_message_length": -1,
    # A frozen or vanished server is noticed within 40 s. Without the third, gRPC waits 60 s for the
    # ping whatever the second says.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
    "grpc.http2.ping_timeout_ms": 10_000,
    # After a failed connect gRPC answers UNAVAILABLE by itself for this long, so that retries that come
    # earlier are wasted. Its own values are 1 s, doubling up to 2 minutes.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 5_000,
    # Retries are `RetryPolicy`'s alone: a policy found in the DNS would multiply them.
    "grpc.service_config_disable_resolution": 1,
}


@dataclass(frozen=True, slots=True)
class Tls:
    """How to trust the server, and how to be known to it.

    >>> Client("inference.example:8001", tls=Tls())                            # trusted by public roots
    >>> Client("10.0.0.7:8001", tls=Tls(ca="ca.pem", cert="me.pem", key="me.key"))
    """

    ca: Pem | None = None
    """The roots to trust; None for gRPC's own list of public ones."""
    cert: Pem | None = None
    """The client's certificate chain, if the server asks for one. Goes with `key`."""
    key: Pem | None = None
    server_name: str | None = None
    """The name the server's certificate must be for, where that is not the host of the target."""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("a client certificate needs its key, and a key its certificate")

    def credentials(self) -> grpc.ChannelCredentials:
        """The same for gRPC. OSError if a file cannot be read."""
        return grpc.ssl_channel_credentials(_pem(self.ca), _pem(self.key), _pem(self.cert))


def _pem(pem: Pem | None) -> bytes | None:
    return pem if pem is None or isinstance(pem, bytes) else Path(pem).read_bytes()


@dataclass(frozen=True, slots=True)
class Settings:
    """A client's settings; see `Client`."""

    target: str
    tls: Tls | None
    timeout: float | None
    retries: RetryPolicy
    metadata: Metadata
    options: tuple[tuple[str, int | str], ...]

    @classmethod
    def of(
        cls,
        target: str,
        tls: Tls | None,
        timeout: float | None,
        retries: RetryPolicy,
        metadata: Metadata | None,
        options: Options | None,
    ) -> "Settings":
        """Settings from what a client's constructor is given. ValueError if they make no sense."""
        scheme, separator, host = target.partition("://")
        if separator and scheme in ("http", "https", "grpc", "grpcs"):  # gRPC knows dns:, ipv4:, unix: and such
            raise ValueError(f"a target has no '{scheme}://': write '{host}'; TLS is asked for with tls=Tls()")
        merged = {**CHANNEL_OPTIONS, **(options or {})}
        if tls is not None and tls.server_name is not None:
            merged["grpc.ssl_target_name_override"] = tls.server_name
        return cls(target, tls, timeout, retries, dict(metadata or {}), tuple(merged.items()))

    def deadline(self, timeout: Timeout) -> Deadline:
        """The deadline of a call that begins now."""
        if isinstance(timeout, Deadline):
            return timeout
        seconds = self.timeout if timeout is None else timeout
        return NO_DEADLINE if seconds is None else Deadline.after(seconds)

    def pairs(self, metadata: Metadata | None) -> tuple[tuple[str, str | bytes], ...]:
        """The client's metadata with a call's own over it, as gRPC takes it."""
        return tuple({**self.metadata, **(metadata or {})}.items())
