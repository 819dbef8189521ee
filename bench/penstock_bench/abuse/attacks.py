"""The attacks, as data: what a peer sends on a connection, and what it has to be told for it.

Most are *floods*: frames that cost their sender less than the server, as many as fit into the time, on a new connection
whenever one is closed. The others *hold*: they begin something on many connections and do not go on. Where the server
gives a peer time by design, the answer only comes when that is up, which is `patience`.

What must be told is what RFC 9113 names, or the limits that docs/reference/limits.md states.
"""

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain, count, islice, repeat

import numpy as np
from hpack.hpack import encode_integer

from penstock_bench.load import frames
from penstock_bench.load.channel import ID_DIGITS
from penstock_bench.load.messages import message
from penstock_bench.load.plan import MixItem
from penstock_proto.datatypes import DATATYPES

Round = tuple[bytes, ...]
"""Frames that go together."""
Rounds = Iterator[Round]

MIB = 1 << 20
HELD_BYTES = 256 * MIB
"""What the server that is attacked may hold in all: `--max-held-bytes`."""
ECHO = "echo"
"""A model that answers with its input, one vector of FP32."""
ECHO_BYTES = 4 * MIB

INFER = b"/inference.GRPCInferenceService/ModelInfer"
STREAM = b"/inference.GRPCInferenceService/ModelStreamInfer"
_CALM = "GOAWAY ENHANCE_YOUR_CALM"
_WITHOUT_INDEXING, _INDEXED = 0x00, 0x40
_TABLE = 4096
"""Bytes of the dynamic table that the server allows."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One way to be a nuisance."""

    name: str
    what: str
    """For the report."""
    rounds: Callable[[], Rounds]
    """What one connection sends. One that has sent all of it stays open."""
    answer: str
    """How what it must be told begins. Empty: nothing, the server has to bear it."""
    patience: float = 0.0
    """Seconds after the attack in which the answer is due: the time that the server gives by design."""
    connections: int = 1
    preface: bool = True
    reads: bool = True
    """False: it never looks at what the server says, and its kernel takes as little as it can."""
    pause: float = 0.0
    """Seconds between two rounds on a connection."""
    hangs_up: bool = False
    """True: it closes the connection once all is sent."""
    growth_bytes: int = 64 * MIB
    """By how much the server's memory may grow. More than the connections hold, since memory that was used once is
    kept by the allocator."""


def literal(name: bytes, value: bytes, first: int = _WITHOUT_INDEXING) -> bytes:
    """A field with its name in full, without Huffman's code (RFC 7541, section 6.2)."""
    return bytes((first,)) + _text(name) + _text(value)


def _text(text: bytes) -> bytes:
    return bytes(encode_integer(len(text), 7)) + text


def call_fields(path: bytes = INFER) -> bytes:
    """The header block of a call, which leaves the dynamic table alone."""
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
    return b"".join(literal(name, value) for name, value in fields)


def headers(stream: int, block: bytes, *, end: bool = False, whole: bool = True) -> bytes:
    """HEADERS; `whole`: without CONTINUATION behind it."""
    flags = (frames.END_HEADERS if whole else 0) | (frames.END_STREAM if end else 0)
    return frames.frame(frames.HEADERS, flags, stream, block)


def data(stream: int, payload: bytes = b"", *, end: bool = False) -> bytes:
    """DATA, of at most 16 KiB."""
    return frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream, payload)


def body(stream: int, payload: bytes, *, end: bool = True) -> Round:
    """Any number of bytes as DATA."""
    starts = range(0, len(payload), frames.DEFAULT_FRAME)
    pieces = [payload[start : start + frames.DEFAULT_FRAME] for start in starts]
    return tuple(data(stream, piece, end=end and number == len(pieces) - 1) for number, piece in enumerate(pieces))


def infer(model: str, *shape: int) -> bytes:
    """A request for a model whose input `X` is FP32 of this shape, as gRPC frames it."""
    lead, rest = message(MixItem(model=model), {"X": (np.ones(shape, np.float32), DATATYPES["FP32"])})
    return lead + b"0" * ID_DIGITS + rest


def prefixed(text: bytes, *, compressed: bool = False) -> bytes:
    """gRPC's framing of a message."""
    return bytes((compressed,)) + len(text).to_bytes(4, "big") + text


def _streams() -> Iterator[int]:
    return count(1, 2)


# ── floods ────────────────────────────────────────────────────────────────────────────────────────


def rapid_reset() -> Rounds:
    block, cancel = call_fields(), frames.CANCEL.to_bytes(4, "big")
    return ((headers(n, block), frames.frame(frames.RST_STREAM, 0, n, cancel)) for n in _streams())


def made_resets() -> Rounds:
    block = call_fields()
    return ((headers(n, block), frames.window_update(n, 0)) for n in _streams())


def refused_streams() -> Rounds:
    block = call_fields()
    return ((headers(n, block),) for n in _streams())


def continuations() -> Rounds:
    more = frames.frame(frames.CONTINUATION, 0, 1)
    return chain([(headers(1, call_fields(), whole=False),)], repeat((more,)))


def large_continuations() -> Rounds:
    more = frames.frame(frames.CONTINUATION, 0, 1, bytes(frames.DEFAULT_FRAME))
    return chain([(headers(1, call_fields(), whole=False),)], repeat((more,)))


def header_bomb() -> Rounds:
    """One large entry, named again and again: 60 MiB of fields in 15 KB."""
    entry = literal(b"a", b"x" * (_TABLE - 40), _INDEXED)
    again = bytes(encode_integer(62, 7))
    again = bytes((again[0] | 0x80,)) * 15_000
    block = call_fields()
    return chain([(headers(1, block + entry),)], ((headers(n, block + again),) for n in count(3, 2)))


def long_headers() -> Rounds:
    block = call_fields() + literal(b"a", b"x" * 8000) + literal(b"b", b"x" * 8000)
    return ((headers(n, block),) for n in _streams())


def table_churn() -> Rounds:
    """Every call fills the whole table with fields that were never sent before."""
    block = call_fields(b"/no/such")

    def fields(number: int) -> bytes:
        return b"".join(literal(b"k%d" % place, b"%019d" % number, _INDEXED) for place in range(70))

    return ((headers(n, block + fields(n), end=True),) for n in _streams())


def table_size() -> Rounds:
    grow = bytearray(encode_integer(1 << 20, 5))
    grow[0] |= 0x20
    return ((headers(n, bytes(grow) + call_fields()),) for n in _streams())


def empty_names() -> Rounds:
    block = call_fields() + literal(b"", b"")
    return ((headers(n, block, end=True),) for n in _streams())


def settings() -> Rounds:
    return repeat((frames.settings({}),))


def pings() -> Rounds:
    return repeat((frames.frame(frames.PING, 0, 0, bytes(8)),))


def empty_data() -> Rounds:
    return chain([(headers(1, call_fields()),)], repeat((data(1),)))


def window_updates() -> Rounds:
    return repeat((frames.window_update(0, 1),))


def priorities() -> Rounds:
    return repeat((frames.frame(2, 0, 1, bytes(5)),))


def unknown_frames() -> Rounds:
    return repeat((frames.frame(99, 0, 0),))


def huge_announcements() -> Rounds:
    block = call_fields()
    return ((headers(n, block), data(n, b"\0\xff\xff\xff\xff", end=True)) for n in _streams())


def gzip_bombs() -> Rounds:
    """128 MiB of zeros in 128 KB; the largest message is 64 MiB."""
    block, bomb = call_fields() + literal(b"grpc-encoding", b"gzip"), _bomb()
    return ((headers(n, block), *body(n, bomb)) for n in _streams())


@cache
def _bomb() -> bytes:
    return prefixed(gzip.compress(bytes(128 * MIB), 1), compressed=True)


def empty_inputs() -> Rounds:
    """A million empty entries, which a parser makes forty times as large."""
    block = call_fields()
    request = prefixed(b"\x0a\x04iris" + b"\x2a\x00" * 500_000)
    return ((headers(n, block), *body(n, request)) for n in _streams())


def garbage() -> Rounds:
    noise = np.random.default_rng(1).bytes(4096)
    return repeat((b"\0" + noise,))


def http1() -> Rounds:
    return repeat((b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",))


def tls() -> Rounds:
    return repeat((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(501),))


def hasty() -> Rounds:
    """A whole call, and then nobody is there for its answer."""
    yield headers(1, call_fields()), data(1, infer("iris", 1, 4), end=True)


# ── holding ───────────────────────────────────────────────────────────────────────────────────────


def nothing() -> Rounds:
    return iter(())


def half_preface() -> Rounds:
    return iter([(frames.PREFACE[:10],)])


def half_frame() -> Rounds:
    """A byte each time, of a frame that would take minutes."""
    whole = headers(1, call_fields())
    return iter([(whole[at : at + 1],) for at in range(len(whole) - 1)])


def half_message() -> Rounds:
    """Half of a message, and then a byte each time."""
    yield headers(1, call_fields()), data(1, b"\0" + (2000).to_bytes(4, "big") + bytes(1000))
    yield from repeat((data(1, b"x"),), 900)


def unread_answers() -> Rounds:
    """Large answers, and windows to match, which nobody fetches."""
    block, request = call_fields(), infer(ECHO, ECHO_BYTES // 4)
    yield (frames.window_update(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW),)
    for number in range(1, 32, 2):
        yield headers(number, block), *body(number, request)


def unread_small_answers() -> Rounds:
    """As many calls as may be, again and again, for answers that nobody fetches."""
    block, request = call_fields(), infer("iris", 1, 4)
    yield (frames.window_update(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW),)
    yield from ((headers(n, block), data(n, request, end=True)) for n in _streams())


def no_windows() -> Rounds:
    """Calls whose answers have no window to be sent in."""
    block, request = call_fields(), infer("iris", 1, 4)
    yield (frames.settings({frames.INITIAL_WINDOW_SIZE: 0}),)
    yield from [(headers(n, block), data(n, request, end=True)) for n in range(1, 512, 2)]


def idle_streams() -> Rounds:
    return iter([(headers(n, call_fields(STREAM)),) for n in range(1, 512, 2)])


def idle_hundred() -> Rounds:
    return islice(idle_streams(), 100)


def half_sixteen() -> Rounds:
    """8 of 16 MiB, a frame after the other, so that all connections get on together."""
    yield headers(1, call_fields()), data(1, b"\0" + (16 * MIB).to_bytes(4, "big"))
    yield from repeat((data(1, bytes(frames.DEFAULT_FRAME)),), 8 * MIB // frames.DEFAULT_FRAME)


ATTACKS: tuple[Attack, ...] = (
    Attack("rapid-reset", "calls that are reset at once (CVE-2023-44487)", rapid_reset, _CALM),
    Attack("made-resets", "calls that make the server reset them (CVE-2025-8671)", made_resets, _CALM),
    Attack("refused-streams", "more calls at once than are allowed", refused_streams, _CALM),
    Attack("continuations", "a header block of empty frames without end", continuations, _CALM),
    Attack("large-continuations", "a header block of 16 KiB frames without end", large_continuations, _CALM),
    Attack("header-bomb", "a header list of 60 MB in 15 KB", header_bomb, _CALM),
    Attack("long-headers", "header lists of more than 16 KiB", long_headers, _CALM),
    Attack("table-churn", "calls that fill the header table with new fields", table_churn, "grpc-status 12"),
    Attack("table-size", "a header table larger than is allowed", table_size, "GOAWAY COMPRESSION_ERROR"),
    Attack("empty-names", "header fields without a name", empty_names, _CALM),
    Attack("settings", "SETTINGS", settings, _CALM),
    Attack("pings", "PING", pings, _CALM),
    Attack("unread-pings", "PING, and the answers are not read", pings, "closed", reads=False, patience=5.0),
    Attack("empty-data", "DATA without data", empty_data, _CALM),
    Attack("window-updates", "WINDOW_UPDATE", window_updates, _CALM),
    Attack("priorities", "PRIORITY", priorities, _CALM),
    Attack("unknown-frames", "frames of a type that there is not", unknown_frames, _CALM),
    Attack("huge-messages", "messages of 4 GiB, announced", huge_announcements, "grpc-status 8"),
    Attack("gzip-bombs", "128 MiB of zeros as 128 KB", gzip_bombs, "grpc-status 8", growth_bytes=192 * MIB),
    Attack("empty-inputs", "half a million empty inputs in 1 MB", empty_inputs, "grpc-status 3"),
    Attack("garbage", "noise instead of a preface", garbage, "GOAWAY PROTOCOL_ERROR", preface=False),
    Attack("http1", "HTTP/1 requests", http1, "HTTP/1.1 400", preface=False),
    Attack("tls", "TLS where there is none", tls, "GOAWAY PROTOCOL_ERROR", preface=False),
    Attack("hasty", "calls whose connection is closed at once", hasty, "", connections=8, hangs_up=True),
    Attack("silence", "connections on which nothing comes", nothing, _CALM, 13.0, 200, preface=False),
    Attack("half-preface", "half a preface", half_preface, _CALM, 13.0, 200, preface=False),
    Attack("half-frame", "a frame, a byte every 0.2 s", half_frame, _CALM, 13.0, 100, pause=0.2),
    Attack("half-message", "a message, a byte every 0.2 s", half_message, "grpc-status 4", 35.0, 100, pause=0.2),
    Attack(
        "unread-answers",
        "answers of 4 MiB that are not read",
        unread_answers,
        "closed",
        patience=75.0,
        connections=8,
        reads=False,
        growth_bytes=3 * HELD_BYTES,
    ),
    Attack(
        "unread-small-answers",
        "answers of some bytes that are not read",
        unread_small_answers,
        "closed",
        patience=75.0,
        connections=8,
        reads=False,
    ),
    Attack("no-windows", "answers without a window to be sent in", no_windows, "", connections=16),
    Attack("idle-streams", "streams on which nothing comes", idle_streams, "", connections=16),
)


MEMORY: tuple[Attack, ...] = (
    Attack("memory-idle-streams", "10,000 idle streams over 100 connections", idle_hundred, "", connections=100),
    Attack(
        "memory-half-messages",
        "200 connections, each with half of a message of 16 MiB",
        half_sixteen,
        "",
        connections=200,
        growth_bytes=1024 * MIB,
    ),
)
"""What is held with the limits as they are by default, for memory alone."""


def named(name: str) -> Attack:
    """The attack of this name. Raises ValueError with a sentence."""
    for attack in (*ATTACKS, *MEMORY):
        if attack.name == name:
            return attack
    raise ValueError(f"there is no attack '{name}': there are {', '.join(attack.name for attack in ATTACKS)}")
