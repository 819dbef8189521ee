"""Requests over one HTTP/1.1 connection, one after the other: for servers that speak nothing else."""

import re
from collections.abc import Mapping

from penstock_bench.load.channel import BACKLOG, Variant
from penstock_bench.load.ledger import Ledger

_CACHED_HEADS = 256
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


def request(method: str, path: str, host: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A whole request."""
    fields = {"host": host, **{name.lower(): value for name, value in headers.items()}, "content-length": len(body)}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


class Http1Channel:
    """One connection. See `channel.Channel`."""

    def __init__(self, ledger: Ledger) -> None:
        self.output: list[bytes | memoryview] = []
        self.backlog = 0
        self.ready = True
        self.closed = ""
        self._ledger = ledger
        self._pending: tuple[float, Variant, bool] | None = None
        self._data = b""
        self._heads: dict[bytes, tuple[int, int, bool]] = {}

    def __repr__(self) -> str:
        return f"<Http1Channel: {self.in_flight} in flight>"

    @property
    def in_flight(self) -> int:
        return 0 if self._pending is None else 1

    def room(self) -> int:
        return 1 if self._pending is None and not self.closed and self.backlog < BACKLOG else 0

    def start(self, due: float, variant: Variant, checked: bool) -> None:
        self._ledger.send(due)
        self._pending = (due, variant, checked)
        self.output.append(variant.body)

    def receive(self, data: bytes, now: float) -> None:
        self._data = data = self._data + data if self._data else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return
        status, length, close = self._head(data[: end + 2])
        if not status or self._pending is None:
            self.lose(now, "the server's answer is no HTTP/1.1")
            return
        if status == 100:
            self._data = b""
            self.receive(data[end + 4 :], now) if len(data) > end + 4 else None
            return
        body = data[end + 4 : end + 4 + length] if length >= 0 else dechunked(data, end + 4)
        if body is None or len(body) < length:
            return
        self._data = b""
        due, variant, checked = self._pending
        self._pending = None
        if status == 200:
            self._ledger.answer(due, variant.item, now)
        else:
            self._ledger.fail(due, f"HTTP {status}", body[:200].decode("utf-8", "replace"))
        if checked and status == 200:
            self._ledger.check(variant.judge.verdict(body, ""))
        if close:
            self.closed = "the server closed the connection"

    def _head(self, head: bytes) -> tuple[int, int, bool]:
        """Status (0: none), length of the body (-1: chunked), and whether the connection ends."""
        known = self._heads.get(head)
        if known is None:
            status, length = _STATUS.match(head), _LENGTH.search(head)
            chunked = _CHUNKED.search(head) is not None
            known = (
                int(status[1]) if status else 0,
                -1 if chunked else int(length[1]) if length else 0,
                _CLOSE.search(head) is not None,
            )
            if len(self._heads) >= _CACHED_HEADS:  # a date makes another one each second
                self._heads.clear()
            self._heads[head] = known
        return known

    def lose(self, now: float, reason: str) -> None:
        self.closed = reason
        if self._pending is not None:
            self._ledger.fail(self._pending[0], "UNAVAILABLE", reason)
            self._pending = None

    def finish(self) -> None:
        """Requests end by themselves."""


def dechunked(data: bytes, position: int) -> bytes | None:
    """The body that stands there in chunks; None if it is not whole."""
    parts: list[bytes] = []
    while (line := data.find(b"\r\n", position)) >= 0:
        try:
            length = int(data[position:line].partition(b";")[0], 16)
        except ValueError:
            return b""
        if length == 0:
            # Trailers may follow; they end with an empty line.
            return b"".join(parts) if data.find(b"\r\n\r\n", line) >= 0 else None
        if len(data) < line + 2 + length + 2:
            return None
        parts.append(data[line + 2 : line + 2 + length])
        position = line + 2 + length + 2
    return None
