"""What supervisor and worker tell each other, and how it travels: frames over a socket that only they have.

A frame is its length in four bytes (big endian) and a message in MessagePack. The supervisor asks (`Ask`) and commands
(`Stop`), the worker tells (`Started`, `Refused`) and answers (`Report`). The last report of a worker that ends in order
comes unasked: its final numbers.

Both ends are processes of the same user from the same installation, so a message that cannot be read is a defect; who
meets one gives the link up as if it had closed.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

import msgspec

from penstock_server.app.announce import Served
from penstock_server.metrics.merge import Family

_log = logging.getLogger(__name__)

LARGEST_FRAME_BYTES = 256 << 20
"""Metrics of some ten thousand models."""
_LENGTH_BYTES = 4


class Started(msgspec.Struct, frozen=True, tag=True):
    """The worker serves this, from now on."""

    served: Served


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The worker cannot start, and ends with this status."""

    status: int
    message: str


class Report(msgspec.Struct, frozen=True, tag=True):
    """How the worker is."""

    ready: bool
    families: tuple[Family, ...]


class Ask(msgspec.Struct, frozen=True, tag=True):
    """To the worker: send a report."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """To the worker: drain, and end."""


FromWorker: TypeAlias = Started | Refused | Report
ToWorker: TypeAlias = Ask | Stop

_In = TypeVar("_In")


class Link(Generic[_In]):
    """One end of the socket, on the loop that runs."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, decoder: msgspec.msgpack.Decoder[_In]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = decoder
        self._encoder = msgspec.msgpack.Encoder()

    def __repr__(self) -> str:
        return f"<Link, {'closing' if self._writer.is_closing() else 'open'}>"

    def send(self, message: FromWorker | ToWorker) -> None:
        """Send it as soon as there is room. To an end that is gone, nothing is sent."""
        if not self._writer.is_closing():
            body = self._encoder.encode(message)
            self._writer.write(len(body).to_bytes(_LENGTH_BYTES, "big") + body)

    async def receive(self, heard: Callable[[_In], None]) -> None:
        """Hand over each message as it comes, until the other end is gone."""
        while True:
            try:
                length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
                if length > LARGEST_FRAME_BYTES:
                    raise ValueError(f"a frame of {length} bytes")
                message = self._decoder.decode(await self._reader.readexactly(length))
            except (OSError, EOFError):
                return
            except ValueError as error:  # msgspec's are among them
                _log.error("the other process cannot be understood: %s", error)
                return
            heard(message)

    async def close(self) -> None:
        """Let what was sent get away, and close."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass  # the other end was faster


async def link_to_worker(sock: socket.socket) -> Link[FromWorker]:
    """The supervisor's end."""
    return Link(*await asyncio.open_unix_connection(sock=sock), msgspec.msgpack.Decoder(FromWorker))


async def link_to_supervisor(sock: socket.socket) -> Link[ToWorker]:
    """The worker's end."""
    return Link(*await asyncio.open_unix_connection(sock=sock), msgspec.msgpack.Decoder(ToWorker))
