"""Requests and answers of the HTTP peers: one row each, as cheap as the server's own interface allows."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast


class Bodies(Protocol):
    """How one server writes a row."""

    @property
    def path(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def request(self, row: bytes) -> bytes:
        """A body with this row of float32."""
        ...

    def answer(self, body: bytes) -> bytes:
        """The outputs' bytes out of an answer. Raises ValueError if it is none."""
        ...


@dataclass(frozen=True, slots=True)
class RawBodies:
    """The bytes themselves."""

    path: str
    headers: Mapping[str, str]

    def request(self, row: bytes) -> bytes:
        return row

    def answer(self, body: bytes) -> bytes:
        return body


@dataclass(frozen=True, slots=True)
class TextBodies:
    """JSON with base64, for servers that take nothing else: `{"data": "..."}`, or lists of such texts both ways."""

    path: str
    headers: Mapping[str, str]
    lists: bool = False

    def request(self, row: bytes) -> bytes:
        text = base64.b64encode(row).decode()
        return json.dumps({"data": [text] if self.lists else text}).encode()

    def answer(self, body: bytes) -> bytes:
        found = cast("object", json.loads(body))
        if self.lists and isinstance(found, list):
            texts = cast("list[object]", found)
            found = texts[0] if texts else None
        elif isinstance(found, dict):
            found = cast("dict[str, object]", found).get("data")
        if not isinstance(found, str):
            raise ValueError(f"an answer of another form: {body[:80]!r}")
        return base64.b64decode(found)


def raw(path: str) -> RawBodies:
    """Raw bodies, sent there."""
    return RawBodies(path, {"content-type": "application/octet-stream"})


def text(path: str, *, lists: bool = False) -> TextBodies:
    """JSON bodies, sent there."""
    return TextBodies(path, {"content-type": "application/json"}, lists)
