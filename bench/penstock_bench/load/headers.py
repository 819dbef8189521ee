"""A client's header blocks, prebuilt (HPACK, RFC 7541).

The first block of a connection puts its fields into the dynamic table; those that follow are indices, some ten bytes.
Timeouts differ from call to call, and grpcio sends each as a literal *with* incremental indexing: it enters the table
and moves the other fields on by one, and after some dozens of calls the fields would fall out of it. So the blocks of
a connection are a cycle: a first one with literals, as many with indices that move on as the table has room for, and
again literals. Every block of the cycle is known before the run; only the timeout's digits are filled in.

Fields of one kind of request alone, such as a tenant's name, are literals without indexing in every block. They leave
the table alone, so requests of a mix may come in any order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpack.table import HeaderTable

Field = tuple[str, str]

_TIMEOUT = "grpc-timeout"
_ENTRY_OVERHEAD = 32  # RFC 7541, 4.1
_STATIC: dict[tuple[bytes, bytes], int] = {pair: n for n, pair in enumerate(HeaderTable.STATIC_TABLE, 1)}
_STATIC_NAMES: dict[bytes, int] = {name: n for (name, _), n in reversed(_STATIC.items())}
_FIRST_DYNAMIC = len(_STATIC) + 1
DEFAULT_TABLE = 4096


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of one kind of request. A request's block is one of these, and then the digits of its timeout."""

    cycle: Sequence[bytes]
    """By the number of the call on its connection. It begins anew at `restart`."""
    restart: int
    """0 if the fields must enter the table again, 1 if the second block stays right for ever."""

    def following(self, position: int) -> int:
        """The position in the cycle after this one."""
        return position + 1 if position + 1 < len(self.cycle) else self.restart


def request_fields(path: str, authority: str, scheme: str = "http") -> Sequence[Field]:
    """What a gRPC client sends with every call."""
    return (
        (":method", "POST"),
        (":scheme", scheme),
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "penstock-bench"),
    )


def blocks(
    fields: Iterable[Field],
    own: Iterable[Field] = (),
    *,
    timeout_digits: int = 0,
    indexed: bool = True,
    table_size: int = DEFAULT_TABLE,
) -> Blocks:
    """The blocks for these fields on a connection whose server allows a dynamic table of this size.

    `own` are the fields of this kind of request. With `timeout_digits`, each block ends where so many bytes of
    timeout go ("29997m" has 6); `indexed` says how they are sent.
    """
    pairs = [(name.encode(), value.encode()) for name, value in fields]
    entering = [pair for pair in pairs if pair not in _STATIC]
    table_size = min(table_size, DEFAULT_TABLE)
    room = table_size - sum(_size(*pair) for pair in entering)
    tail = b"".join(_literal(0x00, name.encode(), value.encode()) for name, value in own)
    if timeout_digits:
        tail += _timeout(timeout_digits, indexed and room >= 0)
    resize = _integer(table_size, 5, 0x20) if table_size < DEFAULT_TABLE else b""
    if room < 0:  # the table is too small for anything to stay in it
        block = b"".join(_static(pair) or _literal(0x00, *pair) for pair in pairs)
        return Blocks([resize + block + tail, block + tail], 1)
    first = b"".join(_static(pair) or _literal(0x40, *pair) for pair in pairs) + tail
    if not timeout_digits or not indexed:
        return Blocks([resize + first, _indexed(pairs, entering, 0) + tail], 1)
    calls = room // (len(_TIMEOUT) + timeout_digits + _ENTRY_OVERHEAD)
    later = [_indexed(pairs, entering, moved) + tail for moved in range(1, calls + 1)]
    return Blocks([resize + first, *later, first], 1) if resize else Blocks([first, *later], 0)


def _timeout(digits: int, indexed: bool) -> bytes:
    """The field up to its value, which is `digits` bytes long."""
    name = _TIMEOUT.encode()
    return bytes((0x40 if indexed else 0x00,)) + _integer(len(name), 7) + name + _integer(digits, 7)


def _indexed(fields: Sequence[tuple[bytes, bytes]], entered: Sequence[tuple[bytes, bytes]], moved: int) -> bytes:
    """The fields as indices, after `moved` entries more came into the table."""
    last = _FIRST_DYNAMIC + len(entered) - 1 + moved
    return b"".join(_static(pair) or _integer(last - entered.index(pair), 7, 0x80) for pair in fields)


def _static(pair: tuple[bytes, bytes]) -> bytes:
    number = _STATIC.get(pair)
    return b"" if number is None else _integer(number, 7, 0x80)


def _literal(kind: int, name: bytes, value: bytes) -> bytes:
    """A field in full. Kind 0x40 enters the table, kind 0 does not. Without Huffman's code, as grpcio sends it."""
    known = _STATIC_NAMES.get(name)
    named = _integer(known or 0, 6 if kind else 4, kind)
    return named + (b"" if known else _integer(len(name), 7) + name) + _integer(len(value), 7) + value


def _size(name: bytes, value: bytes) -> int:
    return len(name) + len(value) + _ENTRY_OVERHEAD


def _integer(value: int, bits: int, first: int = 0) -> bytes:
    """RFC 7541, 5.1."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    value -= most
    groups = bytearray((first | most,))
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
