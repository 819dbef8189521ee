"""Messages in a body: a flag (compressed or not), four bytes of length, and as many bytes.

    feed(chunk) ─▶ next() ─▶ message, message, ..., None ─▶ keep() if it stops before None

A `MessageReader` cuts messages out of chunks that have nothing to do with their bounds. What it gives may be kept, what
it is fed need not live longer than until `next` has answered None or `keep` was called, so every byte is copied once: a
message that lies in one chunk as `bytes`, one that goes over several into a buffer of its own. That buffer is made when
the prefix has come and the length is known to be allowed; its pages cost memory only as they are filled (`numpy.empty`
clears nothing), so a peer that announces much and sends little holds little. What `keep` has kept is copied twice; it
is one `bytearray` however small the chunks were, so that a byte never costs more than a byte.
"""

from collections.abc import Sequence

import numpy as np

from penstock_server.grpc_wire.compression import too_large
from penstock_server.grpc_wire.status import INTERNAL, Refusal

Buffer = bytes | memoryview

PREFIX_BYTES = 5
"""Before a message: its flag, and four bytes of length. One number, if it is not compressed: the flag is 0 then."""
SMALL = 1024
PREFIXES = [size.to_bytes(PREFIX_BYTES, "big") for size in range(SMALL)]
"""Those of small messages: to look one up costs a third of making it."""
_ALIGNMENT = 64


def _room_for(size: int) -> memoryview:
    """Memory for a message, with an aligned end.

    The tensors of a request are the last of it, so the numbers of the last tensor, if not of all, are aligned as well,
    and a model can take them from where they are.
    """
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -(room.ctypes.data + size) % _ALIGNMENT
    return room[start : start + size].data


class MessageReader:
    """Cuts messages out of chunks."""

    __slots__ = ("_at", "_buffer", "_chunk", "_compressed", "_filled", "_limit", "_prefix", "taken")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunk: Buffer | bytearray = b""
        self._at = 0  # what of the chunk has been taken
        self._prefix = b""  # of the next message, as far as it came in earlier chunks
        self._buffer: memoryview | None = None  # of a message that is half there
        self._filled = 0
        self._compressed = False
        self.taken = 0
        """Bytes taken out of chunks so far, prefixes included."""

    def __repr__(self) -> str:
        return f"<MessageReader: {self.waiting} bytes waiting, {self.half} of a message>"

    @property
    def waiting(self) -> int:
        """Bytes of the last chunk that have not been taken."""
        return len(self._chunk) - self._at

    @property
    def half(self) -> int:
        """Bytes of a message whose rest is missing."""
        return self._filled + len(self._prefix)

    @property
    def expected(self) -> int:
        """The size of the message that is half there; 0 if there is none, or its prefix is not whole."""
        return 0 if self._buffer is None else len(self._buffer)

    @property
    def is_empty(self) -> bool:
        """Nothing was fed that has not been taken, and nothing taken that is not a whole message."""
        return self._at == len(self._chunk) and self._buffer is None and not self._prefix

    def feed(self, chunk: Buffer) -> None:
        """Add a chunk."""
        if self.waiting:
            kept = self.keep()
            kept += chunk
        else:
            self._chunk = chunk
            self._at = 0

    def swallow(self, chunks: Sequence[Buffer]) -> int:
        """Take in as many of these as lie within a large message and do not end it. How many; feed the others."""
        buffer = self._buffer
        if buffer is None or self.waiting:
            return 0
        start, size, count = self._filled, len(buffer), 0
        for chunk in chunks:
            end = start + len(chunk)
            if end >= size:
                break
            buffer[start:end] = chunk
            start = end
            count += 1
        self.taken += start - self._filled
        self._filled = start
        return count

    def keep(self) -> bytearray:
        """Copy what is still to be taken, if it is not our own: the chunk goes away."""
        if isinstance(self._chunk, bytearray):
            kept = self._chunk
            del kept[: self._at]
        else:
            kept = self._chunk = bytearray(memoryview(self._chunk)[self._at :])
        self._at = 0
        return kept

    def plain(self) -> bytes | None:
        """The next message if it lies in the chunk, is not compressed, and allowed, as most are. None: ask `next`."""
        if self._buffer is not None or self._prefix:
            return None
        chunk, at = self._chunk, self._at
        begin = at + PREFIX_BYTES
        # The flag is the highest of five bytes: not 0, and the number is far too large.
        length = int.from_bytes(chunk[at:begin], "big")
        end = begin + length
        if end > len(chunk) or length > self._limit:
            return None
        self._at = end
        self.taken += end - at
        return bytes(chunk[begin:end])

    def next(self) -> tuple[bool, Buffer] | None:
        """Whether the next message is compressed, and the message. None if there is no whole one.

        Refusal if it is larger than allowed, which its prefix tells, or if its flag is unknown.
        """
        if self._buffer is None:
            message = self.plain()
            if message is not None:
                return False, message
            size = self._take_prefix()
            if size is None:
                return None
            end = self._at + size
            if end <= len(self._chunk):
                # Slices of bytes are copies, those of views are not, and both may be kept afterwards.
                message = bytes(self._chunk[self._at : end])
                self._at = end
                self.taken += size
                return self._compressed, message
            self._buffer = _room_for(size)
        return self._fill(self._buffer)

    def _take_prefix(self) -> int | None:
        """The length that the next prefix tells, or None if it is not whole yet."""
        missing = PREFIX_BYTES - len(self._prefix)
        piece = bytes(self._chunk[self._at : self._at + missing])
        self._at += len(piece)
        self.taken += len(piece)
        start = self._prefix + piece
        if len(start) < PREFIX_BYTES:
            self._prefix = start
            return None
        self._prefix = b""
        if start[0] > 1:
            raise Refusal(INTERNAL, "a message's flag is neither 0 nor 1")
        self._compressed = start[0] == 1
        size = int.from_bytes(start[1:], "big")
        if size > self._limit:
            raise too_large(size, self._limit)
        return size

    def _fill(self, buffer: memoryview) -> tuple[bool, Buffer] | None:
        piece = memoryview(self._chunk)[self._at : self._at + len(buffer) - self._filled]
        end = self._filled + len(piece)
        buffer[self._filled : end] = piece
        self._at += len(piece)
        self.taken += len(piece)
        self._filled = end
        if end < len(buffer):
            return None
        self._buffer = None
        self._filled = 0
        return self._compressed, buffer.toreadonly()
