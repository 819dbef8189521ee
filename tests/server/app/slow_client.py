"""A client of one stream that is always slower than the server, at any speed of the machine.

It sends as fast as it may, and reads what comes. But it gives its own window back only once there is nothing left of
it and the server takes nothing more either: then whatever the server holds for it, it holds. That is a *stall*, and the
moment to look at the server. Straight on HTTP/2 frames, for 100,000 messages in seconds.
"""

import selectors
import socket
from collections.abc import Callable, Iterable, Iterator

from hpack import Decoder

from penstock_bench.load import frames
from penstock_bench.load.headers import blocks, request_fields
from tests.server.transports.peer import framed

_PATH = "/inference.GRPCInferenceService/ModelStreamInfer"
_STREAM = 1
_CHUNK = 1 << 16
_PATIENCE = 20.0
"""Seconds without anything from the server."""


class SlowClient:
    """One stream of ModelStreamInfer, on a connection of its own."""

    def __init__(self, port: int, on_stall: Callable[[], None] = lambda: None) -> None:
        self._on_stall = on_stall
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        block = blocks(request_fields(_PATH, "localhost")).cycle[0]
        head = frames.frame(frames.HEADERS, frames.END_HEADERS, _STREAM, block)
        self._output = bytearray(frames.PREFACE + frames.settings({}) + head)
        self._unsent = bytearray()
        self._has_more = True
        self._windows = [frames.DEFAULT_WINDOW, frames.DEFAULT_WINDOW]  # for sending: the connection's, the stream's
        self._initial_window = frames.DEFAULT_WINDOW
        self._room = frames.DEFAULT_WINDOW  # of our own windows
        self._input = b""
        self._body = b""
        self._decoder = Decoder()
        self.stalls = 0
        self.status = ""
        """gRPC's, once the stream has ended."""

    def talk(self, messages: Iterable[bytes]) -> Iterator[bytes]:
        """Send all messages, then half-close. Yields the answers; ends with the stream."""
        source = iter(messages)
        while not self.status:
            while self._has_more and len(self._unsent) < _CHUNK:
                message = next(source, None)
                self._has_more = message is not None
                self._unsent += b"" if message is None else framed(message)
            self._send()
            is_stalled = not self._room and (min(self._windows) <= 0 or not self._unsent) and not self._output
            if is_stalled:
                self.stalls += 1
                self._on_stall()
                self._room = frames.DEFAULT_WINDOW
                self._output += frames.window_update(0, self._room) + frames.window_update(_STREAM, self._room)
            self._move()
            yield from self._answers()

    def close(self) -> None:
        """Hang up."""
        self._selector.close()
        self._socket.close()

    def _send(self) -> None:
        """As much as the windows and a little buffer let through."""
        while self._unsent and len(self._output) < _CHUNK:
            size = min(len(self._unsent), frames.DEFAULT_FRAME, *self._windows)
            if size <= 0:
                return
            is_last = not self._has_more and size == len(self._unsent)
            self._output += frames.frame(
                frames.DATA, frames.END_STREAM if is_last else 0, _STREAM, bytes(self._unsent[:size])
            )
            del self._unsent[:size]
            self._windows = [window - size for window in self._windows]

    def _move(self) -> None:
        """Wait until something can be read, or written if there is something, and do that."""
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._output else 0)
        self._selector.modify(self._socket, wanted)
        ready = self._selector.select(_PATIENCE)
        if not ready:
            raise TimeoutError("the server is silent")
        if ready[0][1] & selectors.EVENT_WRITE:
            del self._output[: self._socket.send(self._output)]
        if ready[0][1] & selectors.EVENT_READ:
            data = self._socket.recv(_CHUNK)
            if not data:
                raise ConnectionError("the server has hung up")
            self._input += data

    def _answers(self) -> Iterator[bytes]:
        """What has come in whole."""
        data, position = self._input, 0
        while position + 9 <= len(data):
            stop = position + 9 + int.from_bytes(data[position : position + 3], "big")
            if stop > len(data):
                break
            self._frame(data[position : position + 9], data[position + 9 : stop])
            position = stop
        self._input = data[position:]
        body, position = self._body, 0
        while position + 5 <= len(body):
            stop = position + 5 + int.from_bytes(body[position + 1 : position + 5], "big")
            if stop > len(body):
                break
            yield body[position + 5 : stop]
            position = stop
        self._body = body[position:]

    def _frame(self, head: bytes, payload: bytes) -> None:
        kind, is_ack = head[3], head[4] & frames.ACK
        match kind:
            case frames.DATA:
                self._body += payload
                self._room -= len(payload)
            case frames.HEADERS:
                self.status = dict(self._decoder.decode(payload, raw=True)).get(b"grpc-status", b"").decode()
            case frames.WINDOW_UPDATE:
                stream = int.from_bytes(head[5:], "big")
                self._windows[1 if stream else 0] += int.from_bytes(payload, "big")
            case frames.PING if not is_ack:
                self._output += frames.frame(frames.PING, frames.ACK, 0, payload)
            case frames.SETTINGS if not is_ack:
                self._settings(payload)
            case frames.RST_STREAM | frames.GOAWAY:
                raise ConnectionError(f"the server has given up: {payload!r}")
            case _:
                pass

    def _settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            if payload[at + 1] == frames.INITIAL_WINDOW_SIZE:
                value = int.from_bytes(payload[at + 2 : at + 6], "big")
                self._windows[1] += value - self._initial_window
                self._initial_window = value
        self._output += frames.frame(frames.SETTINGS, frames.ACK, 0)
