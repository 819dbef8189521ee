"""What RFC 9113, sections 8.2 and 8.3, allows in a header list. A list that breaks a rule is *malformed*.

A malformed request or trailer part is a fault of its stream, PROTOCOL_ERROR: its block was decoded, so the connection's
compression state is whole.
"""

import re

from penstock_server.http2.errors import ErrorCode, StreamFault

Headers = list[tuple[bytes, bytes]]
"""Names and values in wire order, pseudo-header fields first."""

_NAME = re.compile(rb"[^\x00-\x20A-Z\x7f-\xff:]+")
_VALUE = re.compile(rb"(?:[^\x00\n\r \t](?:[^\x00\n\r]*[^\x00\n\r \t])?)?")
_DIGITS = re.compile(rb"[0-9]{1,18}")

REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
CONNECTION_SPECIFIC = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
# Fields whose value means something here, so that one cannot stand in for another: see `headers.Template`.
SPECIAL = frozenset((b"te", b"content-length"))


def field_size(name: bytes, value: bytes) -> int:
    """The size of a field as HPACK tables and SETTINGS_MAX_HEADER_LIST_SIZE count it."""
    return 32 + len(name) + len(value)


def malformed(reason: str) -> StreamFault:
    """The fault of a stream whose header list breaks a rule."""
    return StreamFault(ErrorCode.PROTOCOL_ERROR, reason)


def check_value(value: bytes) -> None:
    """Section 8.2.1. StreamFault if the value is not allowed."""
    if _VALUE.fullmatch(value) is None:
        raise malformed("a field's value has a character that it may not have")


def check_request(headers: Headers) -> int:
    """Check a request's header list. Its `content-length`, or -1. StreamFault if it is malformed."""
    pseudo: dict[bytes, bytes] = {}
    for name, value in headers:
        if name[:1] == b":":
            if name not in REQUEST_PSEUDO:
                raise malformed("a pseudo-header field is not one of a request")
            if name in pseudo:
                raise malformed("a pseudo-header field stands there twice")
            check_value(value)
            pseudo[name] = value
    _check_pseudo(pseudo)
    # One that stands behind a regular field is among these, where its colon is not allowed.
    return _check_regular(headers[len(pseudo) :])


def check_trailers(headers: Headers) -> None:
    """Check a request's trailers. StreamFault if they are malformed."""
    if any(name[:1] == b":" for name, _ in headers):
        raise malformed("a pseudo-header field stands in the trailers")
    _check_regular(headers)


def _check_pseudo(pseudo: dict[bytes, bytes]) -> None:
    method = pseudo.get(b":method")
    if not method:
        raise malformed("there is no :method")
    if method == b"CONNECT":
        if b":scheme" in pseudo or b":path" in pseudo or not pseudo.get(b":authority"):
            raise malformed("a CONNECT request has an :authority, and neither :scheme nor :path")
    elif not pseudo.get(b":scheme") or not pseudo.get(b":path"):
        raise malformed("there is no :scheme or no :path")
    elif pseudo[b":path"][:1] != b"/" and (method, pseudo[b":path"]) != (b"OPTIONS", b"*"):
        raise malformed("the :path does not start with a slash")


def _check_regular(headers: Headers) -> int:
    length = -1
    for name, value in headers:
        if _NAME.fullmatch(name) is None:
            raise malformed("a field's name is empty or has a character that it may not have")
        check_value(value)
        if name in CONNECTION_SPECIFIC:
            raise malformed("a connection-specific field")
        if name == b"te" and value.lower() != b"trailers":
            raise malformed("te says something else than trailers")
        if name == b"content-length":
            if _DIGITS.fullmatch(value) is None or length not in (-1, int(value)):
                raise malformed("content-length is no number, or two")
            length = int(value)
    return length
