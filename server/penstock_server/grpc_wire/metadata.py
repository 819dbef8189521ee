"""Metadata: the fields of a header list that belong to the application.

Keys are lower case (HTTP/2 sees to it). Values of keys that end in `-bin` are bytes, base64 on the wire, with or
without padding; a comma joins several. All other values are text. gRPC asks for printable ASCII; what comes in all the
same is taken as UTF-8 or else as Latin-1, as gRPC's own Python server does, and never sent.
"""

import re
from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Iterable

from penstock_server.grpc_wire.status import INTERNAL, Field, Refusal

Pair = tuple[str, str | bytes]

_OURS = frozenset(
    (
        b"te",
        b"content-type",
        b"grpc-timeout",
        b"grpc-encoding",
        b"grpc-accept-encoding",
        b"grpc-trace-bin",
        b"grpc-tags-bin",
    )
)
"""Fields that say something to the transport; applications do not see them, nor anything that begins with a colon."""

_KEY = re.compile(r"[0-9a-z_.-]+")
_TEXT = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")
"""Printable ASCII; blanks at the ends would not survive HTTP."""


def decode_metadata(headers: Iterable[Field]) -> tuple[Pair, ...]:
    """The application's part of a header list, in its order. Refusal if a binary value is no base64."""
    pairs: list[Pair] = []
    for name, value in headers:
        if name[:1] == b":" or name in _OURS:
            continue
        key = _text(name)
        if name.endswith(b"-bin"):
            pairs += ((key, _binary(part, key)) for part in value.split(b","))
        else:
            pairs.append((key, _text(value)))
    return tuple(pairs)


def encode_metadata(pairs: Iterable[Pair]) -> tuple[Field, ...]:
    """Fields to send.

    ValueError for a key or a text that gRPC does not allow, and for keys that are not the caller's.
    """
    return tuple(_field(key, value) for key, value in pairs)


def _field(key: str, value: str | bytes) -> Field:
    if not _KEY.fullmatch(key) or key.encode() in _OURS or key in ("grpc-status", "grpc-message"):
        raise ValueError(f"not a metadata key: {key!r}")
    if key.endswith("-bin"):
        raw = value.encode() if isinstance(value, str) else value
        return key.encode(), b2a_base64(raw, newline=False).rstrip(b"=")
    text = value if isinstance(value, str) else value.decode("latin-1")
    if not _TEXT.fullmatch(text):
        raise ValueError(f"not printable ASCII: the value of {key}")
    return key.encode(), text.encode()


def _binary(value: bytes, key: str) -> bytes:
    value = value.strip(b" \t")  # around a comma
    try:
        return a2b_base64(value + b"=" * (-len(value) % 4), strict_mode=True)
    except Error:
        raise Refusal(INTERNAL, f"Error parsing '{key[:128]}' metadata: illegal base64 encoding") from None


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
