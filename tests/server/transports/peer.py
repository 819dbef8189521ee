"""A client on a raw HTTP/2 connection, by the `h2` library: it does what gRPC's own clients never would."""

import asyncio
from collections.abc import Callable
from typing import Any

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes

HEADERS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


def framed(message: bytes, flag: int = 0) -> bytes:
    """A message as it travels."""
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


class Peer:
    """A connection. Nothing is read, and no PING answered, but inside the methods that wait for something."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, window: int) -> None:
        self._reader = reader
        self.writer = writer
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        # Nothing that we do wrong is to be kept from the server.
        self.h2.config.validate_outbound_headers = False
        self.h2.config.normalize_outbound_headers = False
        self.h2.initiate_connection()
        self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        if window > 65_535:
            self.h2.increment_flow_control_window(window)
        self.events: list[Event] = []
        self.lost = False
        self._received = b""
        self.flush()

    @property
    def waiting(self) -> bytes:
        """What has come and was not looked at."""
        return bytes(self._reader._buffer)  # type: ignore[attr-defined]

    @classmethod
    async def to(cls, port: int, *, window: int = 1 << 20, **options: Any) -> "Peer":
        """Connect, and wait for the server's SETTINGS."""
        peer = cls(*await asyncio.open_connection("127.0.0.1", port, **options), window)
        await peer.until(lambda: any(isinstance(event, RemoteSettingsChanged) for event in peer.events))
        return peer

    def flush(self) -> None:
        """Send what the library has to say."""
        self.writer.write(self.h2.data_to_send())

    async def until(self, condition: Callable[[], object]) -> None:
        """Read on until it is so, or the connection is gone."""
        async with asyncio.timeout(60):
            while not condition() and not self.lost:
                await self._read()

    async def _read(self) -> None:
        try:
            data = await self._reader.read(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self.lost = True
            self.writer.close()
        self._received += data
        while len(self._received) >= 9:
            after = 9 + int.from_bytes(self._received[:3], "big")
            if len(self._received) < after:
                break
            frame, self._received = self._received[:after], self._received[after:]
            self._receive(frame)
            self.flush()  # at a GOAWAY the library drops what it had to say

    def _receive(self, frame: bytes) -> None:
        for event in self.h2.receive_data(frame):
            self.events.append(event)
            if isinstance(event, DataReceived) and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if isinstance(event, ConnectionTerminated):
                # To the library a GOAWAY is the end; in truth the streams that there are go on.
                self.h2.state_machine.state = ConnectionState.CLIENT_OPEN

    async def closed(self) -> None:
        """Read to the end of the connection."""
        await self.until(lambda: False)

    def call(self, path: str, body: bytes | None = None, fields: tuple[tuple[str, str], ...] = ()) -> int:
        """Begin a call, with all of its body if there is one. The stream."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, [(":path", path), *HEADERS, *fields])
        if body is not None:
            self.h2.send_data(stream, body, end_stream=True)
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """More of a body."""
        for start in range(0, max(len(data), 1), 16_384):
            piece = data[start : start + 16_384]
            self.h2.send_data(stream, piece, end_stream=end and start + 16_384 >= len(data))
        self.flush()

    async def send_all(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """As much as there is, as the windows let it."""
        while data and not self.lost:
            await self.until(lambda: self.h2.local_flow_control_window(stream) > 0 or self.ended(stream))
            if self.ended(stream):
                return
            piece = data[: min(16_384, self.h2.local_flow_control_window(stream))]
            data = data[len(piece) :]
            self.send(stream, piece, end=end and not data)
            await self.writer.drain()

    def of(self, stream: int, kind: type[Event]) -> list[Any]:
        """The events of a stream, of one kind."""
        return [each for each in self.events if isinstance(each, kind) and getattr(each, "stream_id", 0) == stream]

    def ended(self, stream: int) -> bool:
        """Well, or by a reset."""
        return bool(self.of(stream, StreamEnded) or self.of(stream, StreamReset))

    def body(self, stream: int) -> bytes:
        """Received so far."""
        return b"".join(event.data for event in self.of(stream, DataReceived))

    async def end(self, stream: int) -> tuple[int, str]:
        """The status and the message of a call, once it has ended; -1 if it has without one."""
        await self.until(lambda: self.ended(stream))
        for event in self.of(stream, TrailersReceived) + self.of(stream, ResponseReceived):
            fields = dict(event.headers)
            if "grpc-status" in fields:
                return int(fields["grpc-status"]), fields.get("grpc-message", "")
        return -1, ""

    def goaway(self) -> tuple[int, str] | None:
        """Code and text of the last GOAWAY."""
        found = [each for each in self.events if isinstance(each, ConnectionTerminated)]
        return (int(found[-1].error_code or 0), (found[-1].additional_data or b"").decode()) if found else None

    def pings(self) -> int:
        """How many have come."""
        return sum(isinstance(event, PingReceived) for event in self.events)

    async def close(self) -> None:
        """Hang up."""
        self.writer.transport.abort()
        self.lost = True
