"""Performs an attack: sends, as fast as the server takes it, and counts what it is told.

All of it is one thread over sockets that never block. `Attacker` runs it in a process of its own, so that the healthy
client beside it keeps its own interpreter.
"""

import select
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from types import TracebackType
from typing import Self

from hpack import Decoder, HPACKError

from penstock_bench.abuse.attacks import Attack, Round, named
from penstock_bench.load import frames

_ROUNDS_AT_ONCE = 64
_SENT_AT_ONCE = 128 * 1024
_READ_BYTES = 1 << 18
_IDLE_SECONDS = 0.002
_SMALL_BUFFER = 4096
_CONNECT_SECONDS = 5.0
_CODES = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)


@dataclass(frozen=True, slots=True)
class Attacked:
    """What came of an attack."""

    frames: int
    """Sent, as far as a socket took them."""
    connections: int
    """Made."""
    answers: dict[str, int]
    """What was told, and how often: `GOAWAY ENHANCE_YOUR_CALM (why)`, `grpc-status 8`, `closed`..."""
    seconds: float


class Reading:
    """What a server says on one connection, as words."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()
        self.over = False
        """The server has ended the connection, by its words."""
        self._rest = b""
        self._first = True
        self._decoder = Decoder()

    def receive(self, data: bytes) -> None:
        """Take what was read."""
        data = self._rest + data
        if self._first and data[:1] == b"H":  # no frame of a server's begins so: it would be one of 4.7 MB
            line, _, rest = data.partition(b"\r\n")
            if rest or len(data) > 100:
                self.told[" ".join(line.decode("latin-1").split()[:2])] += 1
                self.over = True
            self._rest = data
            return
        at = 0
        while len(data) - at >= frames.HEAD_BYTES:
            self._first = False
            after = at + frames.HEAD_BYTES + int.from_bytes(data[at : at + 3], "big")
            if after > len(data):
                break
            self._frame(data[at + 3], data[at + frames.HEAD_BYTES : after])
            at = after
        self._rest = data[at:]

    def _frame(self, kind: int, payload: bytes) -> None:
        if kind == frames.GOAWAY:
            reason = payload[8:].decode("utf-8", "replace")
            self.told[f"GOAWAY {_code(payload[4:8])}" + (f" ({reason})" if reason else "")] += 1
            self.over = True
        elif kind == frames.RST_STREAM:
            self.told[f"RST_STREAM {_code(payload)}"] += 1
        elif kind == frames.HEADERS:
            try:
                fields = dict(self._decoder.decode(payload, raw=True))
            except HPACKError:
                self.told["headers that cannot be read"] += 1
                return
            if (status := fields.get(b"grpc-status")) is not None:
                self.told[f"grpc-status {status.decode('latin-1')}"] += 1

    def has(self, answer: str) -> bool:
        """Whether something was told that begins so."""
        return any(each.startswith(answer) for each in self.told)


def _code(number: bytes) -> str:
    value = int.from_bytes(number, "big")
    return _CODES[value] if value < len(_CODES) else str(value)


@dataclass(slots=True)
class _Connection:
    """One of an attack's connections."""

    attack: Attack
    socket: socket.socket
    rounds: Iterator[Round]
    reading: Reading = field(default_factory=Reading)
    waiting: bytes = b""
    """Of what was to be sent."""
    next_at: float = 0.0
    sent_all: bool = False
    ended: bool = False
    frames: int = 0

    def step(self, now: float) -> bool:
        """Send and read what is possible. Whether anything was."""
        try:
            read = self._read() if self.attack.reads else self._look()
            return self._send(now) or read
        except (ConnectionError, BrokenPipeError, TimeoutError):
            self._end("closed")
            return True

    def _send(self, now: float) -> bool:
        if self.ended or (not self.waiting and (self.sent_all or now < self.next_at)):
            return False
        if not self.waiting:
            self._fill(now)
        try:
            sent = self.socket.send(self.waiting[:_SENT_AT_ONCE])
        except BlockingIOError:
            return False
        self.waiting = self.waiting[sent:]
        if self.sent_all and not self.waiting and self.attack.hangs_up:
            self._end("")
        return True

    def _fill(self, now: float) -> None:
        wanted = 1 if self.attack.pause else _ROUNDS_AT_ONCE
        parts: list[bytes] = []
        size = 0
        for each in islice(self.rounds, wanted):
            parts += each
            size += sum(map(len, each))
            if size > _SENT_AT_ONCE:
                break
        self.frames += len(parts)
        self.sent_all = not parts
        self.waiting = b"".join(parts)
        self.next_at = now + self.attack.pause

    def _read(self) -> bool:
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            self.reading.receive(data)
        if not data or self.reading.over:
            self._end("" if self.reading.over else "closed")
        return True

    def _look(self) -> bool:
        """Whether the connection is gone, without reading what was said on it."""
        poll = select.poll()
        poll.register(self.socket, 0)
        if any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0)):
            self._end("closed")
            return True
        return False

    def _end(self, word: str) -> None:
        if not self.ended:
            self.ended = True
            if word:
                self.reading.told[word] += 1
            self.socket.close()

    def close(self) -> None:
        """Hang up."""
        self.ended = True
        self.socket.close()


def perform(name: str, host: str, port: int, seconds: float, patience: float = 0.0) -> Attacked:
    """The attack of this name for so long, and then for at most so much longer until it was told what it must be."""
    attack = named(name)
    next(attack.rounds(), None)  # what takes long to make is made by now
    started = time.monotonic()
    end = started + seconds
    made = sent = 0
    answers: Counter[str] = Counter()
    open_ones: list[_Connection] = []
    try:
        while True:
            now = time.monotonic()
            going_on = now < end
            if not going_on and (now >= end + patience or _settled(attack, open_ones, answers)):
                break
            while going_on and len(open_ones) < attack.connections:
                connection = _connect(attack, host, port)
                if connection is None:
                    answers["no connection"] += 1
                    break
                open_ones.append(connection)
                made += 1
            busy = False
            for each in open_ones:
                busy = each.step(now) or busy
            for each in [each for each in open_ones if each.ended]:
                open_ones.remove(each)
                answers += each.reading.told
                sent += each.frames
            if not busy:
                time.sleep(_IDLE_SECONDS)
    finally:
        for each in open_ones:
            each.close()
            answers += each.reading.told
            sent += each.frames
    return Attacked(sent, made, dict(answers.most_common()), time.monotonic() - started)


def _settled(attack: Attack, open_ones: Sequence[_Connection], answers: Mapping[str, int]) -> bool:
    """Whether there is nothing to wait for: what holds is told on each connection, what floods once."""
    if not attack.answer:
        return True
    told = [each.reading.has(attack.answer) for each in open_ones]
    if attack.patience:
        return all(told)
    return any(told) or any(words.startswith(attack.answer) for words in answers)


def _connect(attack: Attack, host: str, port: int) -> _Connection | None:
    try:
        made = socket.socket()
        if not attack.reads:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
        made.settimeout(_CONNECT_SECONDS)
        made.connect((host, port))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)
    except OSError:
        return None
    connection = _Connection(attack, made, attack.rounds())
    if attack.preface:
        window = {2: 0} if attack.reads else {2: 0, frames.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW}
        connection.waiting = frames.PREFACE + frames.settings(window)
    return connection


class Attacker:
    """A process that performs attacks, one after the other."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))

    def __enter__(self) -> Self:
        self._pool.submit(int).result()  # it has started
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, attack: Attack, host: str, port: int, seconds: float, patience: float) -> "Future[Attacked]":
        """Start it. The result comes when it is over."""
        return self._pool.submit(perform, attack.name, host, port, seconds, patience)
