"""The receiving half of a call: pieces of a body in, messages out, and what may be given back to the peer's window.

Two kinds. `UnaryRequest` collects the one message of a unary call. `StreamRequest` gives the messages of a stream one
by one, no more than its reader has room for, in messages and in bytes:

    received = given back + owed
    owed     = bytes that wait behind a reader without room + of a message that comes in + of messages not consumed

So a peer is slowed by its own window as soon as its reader is slow. One case needs care: a message larger than the
window could never come in whole if all its bytes were owed. Those are given back early, as they come, while the reader
has room for it; `held_beyond` counts them until the message was consumed, since no window bounds them.
"""

from collections import deque

from penstock_server.grpc_wire.compression import Inflate
from penstock_server.grpc_wire.framing import PREFIX_BYTES, Buffer, MessageReader
from penstock_server.grpc_wire.status import INTERNAL, Refusal

NO_MESSAGE = "the call ended before a whole message had come"


def whole_message(data: bytes, limit: int) -> bytes | None:
    """The message of a body that is nothing but one, uncompressed and allowed; None: `UnaryRequest` knows more."""
    size = len(data) - PREFIX_BYTES
    # The flag is the highest of five bytes: not 0, and the number is far too large.
    if size >= 0 and int.from_bytes(data[:PREFIX_BYTES], "big") == size and size <= limit:
        return data[PREFIX_BYTES:]
    return None


def plain(compressed: bool, message: Buffer, inflate: Inflate | None, limit: int) -> Buffer:
    """A message as it was before it was compressed. Refusal if that cannot be, or is too large."""
    if not compressed:
        return message
    if inflate is None:
        raise Refusal(INTERNAL, "Compression bit set but no encoding configured")
    return inflate(message, limit)


class UnaryRequest:
    """The one message of a unary call, which ends the request. All bytes may be given back at once."""

    __slots__ = ("_inflate", "_limit", "_message", "_reader")

    def __init__(self, limit: int, inflate: Inflate | None) -> None:
        self._reader = MessageReader(limit)
        self._limit = limit
        self._inflate = inflate
        self._message: tuple[bool, Buffer] | None = None

    def __repr__(self) -> str:
        return f"<UnaryRequest: {'whole' if self._message else self._reader!r}>"

    @property
    def held(self) -> int:
        """Bytes of the message so far."""
        return self._reader.half if self._message is None else len(self._message[1])

    @property
    def expected(self) -> int:
        """The size of the message, once it is known and as long as it is not whole."""
        return self._reader.expected

    def feed(self, *pieces: Buffer) -> None:
        """Take more of the body. Refusal if it is too large, or more than one message."""
        reader = self._reader
        at = 0
        while at < len(pieces):
            swallowed = reader.swallow(pieces[at:])
            at += swallowed
            if not swallowed:
                self._feed(reader, pieces[at])
                at += 1

    def _feed(self, reader: MessageReader, piece: Buffer) -> None:
        reader.feed(piece)
        if self._message is None:
            self._message = reader.next()
        if self._message is not None and reader.waiting:
            raise Refusal(INTERNAL, "a unary call has one message, and this one has more")

    def end(self) -> Buffer:
        """The message, now that the request is over. Refusal if it is not whole or cannot be decompressed."""
        if self._message is None:
            raise Refusal(INTERNAL, NO_MESSAGE)
        return plain(*self._message, self._inflate, self._limit)


class StreamRequest:
    """The messages of a stream, for a reader that says when it has done with them.

    `window_messages` may be given and not consumed at once; `window_bytes` is the stream's window of HTTP/2. A reader
    that holds as many bytes as that gets no more messages either.
    """

    __slots__ = (
        "_early",
        "_ended",
        "_given",
        "_given_bytes",
        "_inflate",
        "_large",
        "_limit",
        "_owed",
        "_reader",
        "_room",
        "_window",
        "held_beyond",
        "messages",
    )

    def __init__(self, limit: int, inflate: Inflate | None, window_messages: int, window_bytes: int) -> None:
        self._reader = MessageReader(limit)
        self._limit = limit
        self._inflate = inflate
        self._room = window_messages
        self._window = window_bytes
        self._large = window_bytes // 2  # larger messages are given back while they come in
        # Of each message that was not consumed: bytes still owed to the peer, and bytes that were given back early.
        self._given: deque[tuple[int, int]] = deque()
        self._given_bytes = 0
        self._owed = 0  # the same two of the message that is coming in
        self._early = 0
        self._ended = False
        self.held_beyond = 0
        """Bytes that were given back to the peer, and are held all the same."""
        self.messages = 0
        """Messages given so far."""

    def __repr__(self) -> str:
        return f"<StreamRequest: {len(self._given)} messages not consumed, {self._reader!r}>"

    @property
    def half(self) -> bool:
        """A message has begun and is not whole: the peer, and not the reader, is to go on."""
        return self._reader.half > 0

    @property
    def expected(self) -> int:
        """The size of that message, if it is known yet."""
        return self._reader.expected

    @property
    def over(self) -> bool:
        """The request has ended, and all its messages were given."""
        return self._ended and not self._reader.waiting and not self._reader.half

    @property
    def waits(self) -> bool:
        """Something may be left that `next` would answer with once the reader has room again."""
        return self._ended or self._reader.waiting > 0

    def whole(self, data: Buffer) -> bytes | None:
        """The message of a piece that is nothing but one, if it is the next and there is room: all that is to be done
        with the piece. None: `feed` it. Who sends a message when the last was answered sends no others.
        """
        if type(data) is not bytes or self._room <= 0 or self._given_bytes >= self._window or not self._reader.is_empty:
            return None
        message = whole_message(data, self._limit)
        if message is not None:
            self._given.append((len(data), 0))
            self._given_bytes += len(data)
            self._room -= 1
            self.messages += 1
        return message

    def feed(self, data: Buffer) -> None:
        """Take more of the body. Call `next` until it answers None, then `settle`."""
        self._reader.feed(data)

    def end(self) -> None:
        """The request is over."""
        self._ended = True

    def next(self) -> Buffer | None:
        """The next message, if there is a whole one and room for it.

        Refusal as by `MessageReader.next`, if it cannot be decompressed, and if the request has ended within it.
        """
        given = self._given
        if self._room <= 0 or (given and self._given_bytes >= self._window):  # the reader has as much as it may
            return None
        reader = self._reader
        message: Buffer | None = reader.plain()
        if message is not None:  # then nothing of it came before, so nothing is owed yet or was given back
            owed, early = PREFIX_BYTES + len(message), 0
        else:
            before = reader.taken
            found = reader.next()
            owed, early = self._owed + reader.taken - before, self._early
            if found is None:
                self._owed = owed
                if self._ended and reader.half:
                    raise Refusal(INTERNAL, NO_MESSAGE)
                return None
            self._owed = self._early = 0
            message = plain(*found, self._inflate, self._limit)
        given.append((owed, early))
        self._given_bytes += owed + early
        self._room -= 1
        self.messages += 1
        return message

    def settle(self) -> int:
        """What was fed is about to go away. How many bytes may be given back now."""
        reader = self._reader
        if reader.waiting:
            reader.keep()
        if reader.expected <= self._large:
            return 0
        early, self._owed = self._owed, 0
        self._early += early
        self.held_beyond += early
        return early

    def consumed(self, messages: int) -> int:
        """The reader has done with as many messages. How many bytes may be given back now.

        ValueError if it never got them.
        """
        if messages > len(self._given):
            raise ValueError(f"{messages} messages consumed of {len(self._given)}")
        back = 0
        for _ in range(messages):
            owed, early = self._given.popleft()
            back += owed
            self._given_bytes -= owed + early
            self.held_beyond -= early
        self._room += messages
        return back
