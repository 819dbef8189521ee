"""Header blocks (RFC 7541): those we send are prebuilt, those we receive are mostly recognised instead of decoded.

**Sending** uses no dynamic table, so a block is a constant: `HeaderBlock`.

**Receiving.** The hpack library decodes, at 10 to 20 µs a block, and owns the dynamic table. In front of it stand two
caches, both a connection's own:

1. *Blocks*, `bytes -> result`: after its first calls a client's block is a string of indices. A block means the same as
   long as the dynamic table does, so whatever changes the table empties this cache.
2. *Templates*, for blocks that put something new into the table each time: grpcio sends a `grpc-timeout` as a
   literal with incremental indexing, which moves every index of the next block by one. A block is brought into a
   normal form, in which an index is replaced by a number that stands for the entry's *content*, and the values of
   literals are cut out:

       c3 c2 83 86 c1 c0 bf | 40 0c grpc-timeout 06 30100m | be    on the wire
       #1 #2 03 06 #3 #4 #5 | literal grpc-timeout         | #6    its form, and one value

   Two blocks of one form are the same header list but for those values, whatever the table was. So a hit costs a
   `bytes.translate`, the literal by hand, and an `add` to the library's table, which stays the only one.

   The translation, index to number, follows the table: `_live` has one byte an entry. Entries get a number when a block
   first refers to them, not when they come, since most (timeouts of the past) are never used again; those without have
   0, and a block that refers to one is decoded by the library. Content that was evicted and comes back has its number
   again, so its templates live on. Everything in doubt (long integers, table size updates, any error) goes to the
   library as well, and tests/server/http2/test_headers.py holds the two ways against each other.

   Of the commonest such blocks the next one is foretold (foretold.py). Two comparisons tell, no form is made, and what
   goes into the table waits there until somebody wants to look at it.

What the library has decoded is most likely a list that was accepted before, in other bytes: it is not checked again.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Generic, TypeVar

from hpack import Decoder, HPACKError
from hpack.exceptions import OversizedHeaderListError
from hpack.hpack import encode_integer
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from penstock_server.http2.errors import ConnectionFault, ErrorCode, StreamFault
from penstock_server.http2.fields import SPECIAL, Headers, check_request, check_trailers, check_value, field_size
from penstock_server.http2.foretold import FIRST_DYNAMIC, Step, step_of
from penstock_server.http2.frames import MAX_FRAME_SIZE, Flag, FrameType, opening
from penstock_server.http2.limits import Limits

Head = TypeVar("Head")

TABLE_BYTES = 4096
"""SETTINGS_HEADER_TABLE_SIZE, which we leave at its default."""

_INDEXED = bytes(range(0x81, 0xFF))
"""The indexed fields of one byte: index 1 to 126."""
_BEFORE_DYNAMIC = bytes(0x81) + bytes(range(1, FIRST_DYNAMIC))
_UNKNOWN = bytes(256)

# Numbers in a form. Those of the static table are its indices, 1 to 61.
_LITERAL = b"\x3e"
_INSERTED = _LITERAL + b"I"
_PASSING = _LITERAL + b"L"
_FIRST_NUMBER = 64

_MAX_ENTRIES = 128
"""Of each cache; one that is full is emptied, which is simpler than a turn for each and costs a decode now and then."""
_MAX_CACHED_BLOCK = 1024
_MAX_CACHED_LIST = 2048
_MAX_STEPS = 8
"""That are begun with. Each of them has some 90 behind it at most, until what it refers to is evicted."""
_MAX_LITERALS = 8
_MAX_HUFFMAN = 64


class HeaderBlock:
    """A header block to send, made once and reused: `HeaderBlock([(b":status", b"200"), ...])`.

    Names are lower case and pseudo-header fields come first; nothing is checked. `parts` gives its frames.
    """

    __slots__ = ("block", "end_opening", "opening", "pieces", "size")

    def __init__(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        self._set(b"".join(_encoded(name, value) for name, value in fields))

    def _set(self, block: bytes) -> None:
        self.block = block
        pieces = [block[at : at + MAX_FRAME_SIZE] for at in range(0, len(block), MAX_FRAME_SIZE)] or [b""]
        self.pieces = pieces
        flags = Flag.END_HEADERS if len(pieces) == 1 else 0
        self.opening = opening(len(pieces[0]), FrameType.HEADERS, flags)
        self.end_opening = opening(len(pieces[0]), FrameType.HEADERS, flags | Flag.END_STREAM)
        """Of its first frame: length, type and flags, without and with END_STREAM."""
        self.size = len(block) + 9 * len(pieces)
        """Bytes of its frames."""

    def __repr__(self) -> str:
        return f"<HeaderBlock of {len(self.block)} bytes>"

    def with_table_size_update(self) -> "HeaderBlock":
        """The same block behind a dynamic table size update to zero (RFC 7541, section 4.2)."""
        block = HeaderBlock(())
        block._set(b"\x20" + self.block)
        return block

    def parts(self, wire_id: bytes, end_stream: bool) -> tuple[bytes, ...]:
        """HEADERS, and CONTINUATIONs if the block is that large, for the stream with these four bytes of id."""
        first = (self.end_opening if end_stream else self.opening, wire_id, self.pieces[0])
        if len(self.pieces) == 1:
            return first
        more: list[bytes] = []
        for piece in self.pieces[1:]:
            flags = Flag.END_HEADERS if piece is self.pieces[-1] else 0
            more += opening(len(piece), FrameType.CONTINUATION, flags), wire_id, piece
        return (*first, *more)


def _encoded(name: bytes, value: bytes) -> bytes:
    """A field that touches no dynamic table: an entry of the static one, or a literal without indexing."""
    index, values = HeaderTable.STATIC_TABLE_MAPPING.get(name, (0, {}))
    if value in values:
        whole = encode_integer(values[value], 7)
        whole[0] |= 0x80
        return bytes(whole)
    literal_name = b"" if index else bytes(encode_integer(len(name), 7)) + name
    return bytes(encode_integer(index, 4)) + literal_name + bytes(encode_integer(len(value), 7)) + value


Result = tuple[Head, bytes | None, int]
"""A request's head, the value of the varying field or None, and its content length or -1."""

Literal = tuple[bytes, bytes, bool]
"""Name, value, and whether it goes into the dynamic table."""


_Followed = tuple[bytes, int, tuple[int, ...]]
"""What is known of a table: `_live` and `_used` of `HeaderDecoder`, and the sizes of what a block has inserted."""


class Template(Generic[Head]):
    """What a form stands for."""

    __slots__ = ("headers", "holes", "ordinary", "result", "size", "values", "varying")

    def __init__(self, headers: Headers, holes: list[int], result: Result[Head], varying: bytes) -> None:
        self.headers = headers
        """With the values of the block that it was learnt from."""
        self.holes = holes
        """Where the literals are in `headers`."""
        self.result = result
        self.size = sum(field_size(name, value) for name, value in headers)
        names = [headers[hole][0] for hole in holes]
        self.ordinary = not any(name in SPECIAL or name[:1] == b":" for name in names)
        """The values of its literals need no check but that of their characters."""
        self.values = [headers[hole][1] for hole in holes]
        once = sum(name == varying for name, _ in headers) == 1
        self.varying = names.index(varying) if once and varying in names else -1
        """Which of the literals is the varying field, if it is the only one; else -1."""


class _Table(HeaderTable):
    """The library's dynamic table, which can take in many entries at once."""

    @property
    def used(self) -> int:
        """Bytes in it, as RFC 7541, section 4.1, counts them."""
        return self._current_size

    def add_all(self, name: bytes, values: Sequence[bytes]) -> None:
        """Take in fields of one name, in this order. Each of them must fit into the table."""
        entries = self.dynamic_entries
        entries.extendleft([(name, value) for value in values])
        size = self._current_size + len(values) * field_size(name, b"") + sum(map(len, values))
        while size > self._maxsize:
            size -= field_size(*entries.pop())
        self._current_size = size


class HeaderDecoder(Generic[Head]):
    """Decodes the header blocks of one connection, in their order, each exactly once."""

    def __init__(self, interpret: Callable[[Headers], Head], varying: bytes, limits: Limits) -> None:
        self._interpret = interpret
        self._varying = varying
        self._opening = b"\x40%c%b" % (len(varying), varying)  # of the literal, but for its value
        self._list_bytes = limits.header_list_bytes
        # The library stops inside a block, which ends the connection; a list that is merely too long ends its stream.
        self._library = Decoder(4 * limits.header_list_bytes)
        self._library.max_allowed_table_size = TABLE_BYTES
        self._table = self._library.header_table = _Table()
        self._entries = self._table.dynamic_entries
        # What is known of the library's table: bytes in it, and a number for each entry, the newest first.
        self._used = 0
        self._live = b""
        self._numbers: dict[tuple[bytes, bytes], int] = {}
        self.blocks: dict[bytes, Result[Head]] = {}
        self._templates: dict[bytes, Template[Head]] = {}
        self._huffman: dict[bytes, bytes] = {}
        # Lists that were accepted, without values of the varying field: their heads and content lengths.
        self._accepted: dict[tuple[tuple[bytes, bytes], ...], tuple[Head, int]] = {}
        # What the next block is foretold to be, what it would stand for, how long its value may be, how much may go
        # into the table until it evicts what the block refers to, and values that are still to be put there.
        self._step: Step | None = None
        self._steps: dict[tuple[bytes, bytes], Step] = {}  # those that were begun with
        self._meant: Template[Head] | None = None
        self._longest = 0
        self._spare = 0
        self._values: list[bytes] = []
        self._entry_bytes = field_size(varying, b"")
        self.hits = 0
        self.template_hits = 0
        self.misses = 0

    def __repr__(self) -> str:
        return (
            f"<HeaderDecoder: {len(self.blocks)} blocks, {len(self._templates)} templates,"
            f" {len(self._entries)} entries in the table>"
        )

    def request(self, block: bytes) -> Result[Head]:
        """A request's head, the value of the varying field or None, and its content length or -1.

        ConnectionFault if the block cannot be decoded, StreamFault if it can and the list is malformed or too long.
        """
        step = self._step
        if step is not None and (foretold := self._foretold(step, block)) is not None:
            return foretold
        known = self.blocks.get(block)
        if known is not None:
            self.hits += 1
            return known
        self._settle()
        form = self._form(block) if len(block) <= _MAX_CACHED_BLOCK else None
        if form is None:
            headers = self._decode(block)
            self._follow()
            return self._accept(headers)
        key, literals, pieces, changed = form
        template = self._templates.get(key)
        if template is None:
            return self._learn(block, key, pieces, changed is None)
        self.template_hits += 1
        if changed is None:
            result = self._fill(template, literals)
            self._remember(block, result)
            return result
        for name, value, inserts in literals:
            if inserts:
                self._table.add(name, value)
        self._live, self._used, _ = changed
        self._step = None  # even if the list turns out to be malformed: the indices have moved
        if self.blocks:
            self.blocks.clear()
        result = self._fill(template, literals)
        self._expect(template, block)
        return result

    def trailers(self, block: bytes) -> Headers:
        """A request's trailers; the same faults."""
        self._settle()
        headers = self._decode(block)
        self._follow()
        self._check_size(headers)
        check_trailers(headers)
        return headers

    # -- the library ---------------------------------------------------------------------------------------------------

    def _decode(self, block: bytes) -> Headers:
        self.misses += 1
        try:
            return [(name, value) for name, value in self._library.decode(block, raw=True)]
        except OversizedHeaderListError:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header list is far too long") from None
        except HPACKError:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "a header block cannot be decoded") from None

    def _accept(self, headers: Headers) -> Result[Head]:
        size = self._check_size(headers)
        name = self._varying
        key = tuple([(name, b"") if field[0] == name else field for field in headers])
        known = self._accepted.get(key)
        if known is None:
            content_length = check_request(headers)
            result = self._head(headers, content_length)
            if size <= _MAX_CACHED_LIST:
                if len(self._accepted) >= _MAX_ENTRIES:
                    self._accepted.clear()
                self._accepted[key] = result[0], content_length
            return result
        own = [value for field, value in headers if field == name]
        for value in own:
            check_value(value)
        return known[0], own[-1] if own else None, known[1]

    def _head(self, headers: Headers, content_length: int) -> Result[Head]:
        varying = None
        if self._varying:
            own = [value for name, value in headers if name == self._varying]
            if own:
                varying = own[-1]
                headers = [header for header in headers if header[0] != self._varying]
        return self._interpret(headers), varying, content_length

    def _check_size(self, headers: Headers) -> int:
        size = sum(field_size(name, value) for name, value in headers)
        if size > self._list_bytes:
            # gRPC clients report this code as RESOURCE_EXHAUSTED.
            raise StreamFault(ErrorCode.ENHANCE_YOUR_CALM, "the header list is too long")
        return size

    # -- what was learnt -----------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Look at the table after the library has changed it."""
        self.blocks.clear()
        self._step = None
        self._used = self._table.used
        self._live = bytes([self._numbers.get(entry, 0) for entry in self._entries])

    def _remember(self, block: bytes, result: Result[Head]) -> None:
        if len(self.blocks) >= _MAX_ENTRIES:
            self.blocks.clear()
        self.blocks[block] = result

    def _learn(self, block: bytes, key: bytes, pieces: list[bytes], keeps_table: bool) -> Result[Head]:
        """Decode a block of a form that has no template, and make one."""
        headers = self._decode(block)
        holes, unknown = _positions(pieces)
        for position in unknown:
            self._give_number(headers[position])
        if unknown or not keeps_table:
            self._follow()
        result = self._accept(headers)
        if keeps_table:
            self._remember(block, result)
        # Not where an entry has just got its number: the form has none for it. The next such block will do.
        if not unknown and len(holes) <= _MAX_LITERALS:
            if len(self._templates) >= _MAX_ENTRIES:
                self._templates.clear()
            self._templates[key] = Template(headers, holes, result, self._varying)
        return result

    def _give_number(self, header: tuple[bytes, bytes]) -> None:
        if header in self._numbers:
            return
        if len(self._numbers) >= 256 - _FIRST_NUMBER:
            # A connection that uses that many different entries starts again.
            self._numbers.clear()
            self._templates.clear()
            self._step = None
        self._numbers[header] = _FIRST_NUMBER + len(self._numbers)

    def _fill(self, template: Template[Head], literals: list[Literal]) -> Result[Head]:
        """The template's result with these values in the place of its own."""
        values = [value for _, value, _ in literals]
        if values == template.values:
            return template.result
        head, varying, content_length = template.result
        if template.varying >= 0:
            varying = values[template.varying]
            values[template.varying] = template.values[template.varying]
            if values == template.values and template.size + len(varying) <= self._list_bytes:
                check_value(varying)
                return head, varying, content_length
        headers = template.headers.copy()
        for hole, (name, value, _) in zip(template.holes, literals, strict=True):
            headers[hole] = name, value
        if not template.ordinary:
            return self._accept(headers)
        self._check_size(headers)
        for _, value, _ in literals:
            check_value(value)
        return self._head(headers, content_length)

    # -- what is foretold ----------------------------------------------------------------------------------------------

    def _expect(self, template: Template[Head], block: bytes) -> None:
        """Foretell the next block from one of this template that is decoded, if it can be."""
        step = self._step_of(block) if template.varying == 0 and len(template.holes) == 1 else None
        self._step = step = None if step is None else step.after()
        if step is not None and step.reach > len(self._entries):
            self._step = None  # what it refers to is gone
        elif step is not None:
            self._meant = template
            self._longest = min(0x7E, self._list_bytes - template.size)
            self._spare = self._table.maxsize - sum([field_size(*each) for each in islice(self._entries, step.reach)])

    def _step_of(self, block: bytes) -> Step | None:
        """The step that a block is, if it is one: the same object whenever it comes."""
        size_at = block.find(self._opening) + len(self._opening)
        if size_at >= len(block) or block[size_at] >= 0x7F:
            return None
        around = block[:size_at], block[size_at + 1 + block[size_at] :]
        step = self._steps.get(around)
        if step is None:
            step = step_of(block, self._opening)
            if step is not None:
                if len(self._steps) >= _MAX_STEPS:
                    self._steps.clear()
                self._steps[around] = step
        return step

    def _foretold(self, step: Step, block: bytes) -> Result[Head] | None:
        """What a block stands for if it is this step. None, and nothing is changed, if it is not."""
        begin, template = step.value_at, self._meant
        end = len(block) - len(step.tail)
        value, size = block[begin:end], end - begin
        if not (
            block.startswith(step.head)
            and block.endswith(step.tail)
            and value.isalnum()
            and block[begin - 1] == size <= self._longest
        ):
            return None
        spare = self._spare - self._entry_bytes - size
        if spare < 0 or template is None:
            return None
        self._spare = spare
        self._values.append(value)
        self._step = step.after()
        self.template_hits += 1
        if self.blocks:
            self.blocks.clear()
        return template.result[0], value, template.result[2]

    def _settle(self) -> None:
        """Put into the table what was foretold."""
        if self._values:
            name, values, numbers = self._varying, self._values, self._numbers
            self._table.add_all(name, values)
            live = bytes([numbers.get((name, value), 0) for value in reversed(values)]) + self._live
            self._used, self._live = self._table.used, live[: len(self._entries)]
            values.clear()

    # -- the normal form -----------------------------------------------------------------------------------------------

    def _form(self, block: bytes) -> tuple[bytes, list[Literal], list[bytes], _Followed | None] | None:
        """A block's form, its literals, the form in pieces, and the table after it (None: the same).

        None for what is left to the library, above all everything that is an error. Nothing is changed.
        """
        translation = _translation(self._live)
        changed: _Followed | None = None
        rest = block
        pieces: list[bytes] = []
        literals: list[Literal] = []
        try:
            while rest:
                first = rest[0]
                if first >= 0x80:
                    # Runs of one-byte indices in one go, those of two bytes one by one.
                    tail = rest.lstrip(_INDEXED)
                    if len(tail) < len(rest):
                        pieces.append(rest[: len(rest) - len(tail)].translate(translation))
                        rest = tail
                    else:
                        pieces.append(self._number(rest, changed))
                        rest = rest[2:]
                    continue
                inserts = first >= 0x40
                if first & 0x3F == 0 and rest[1] < 0x7F and rest[split := 2 + rest[1]] < 0x7F:
                    # What grpcio sends, without the calls: a name and a value, both short and not in Huffman's code.
                    at = split + 1 + rest[split]
                    if at > len(rest):
                        return None
                    name, value = rest[2:split], rest[split + 1 : at]
                else:
                    name, value, at = self._literal(rest, 0x3F if inserts else 0x0F, bool(literals))
                literals.append((name, value, inserts))
                pieces.append(b"%b%c%b" % (_INSERTED if inserts else _PASSING, len(name), name))
                if inserts:
                    changed = self._after_insertion(name, value, changed)
                    translation = _translation(changed[0])
                rest = rest[at:]
        except (IndexError, ValueError, OverflowError, HPACKError):
            return None
        return b"".join(pieces), literals, pieces, changed

    # What follows raises IndexError or ValueError for what the library is to look at.

    def _literal(self, rest: bytes, mask: int, has_moved: bool) -> tuple[bytes, bytes, int]:
        """Name and value of the literal at the beginning, and where it ends. `mask` is of its index bits."""
        first = rest[0]
        if first & ~mask & 0x2F:
            raise ValueError(first)  # a table size update
        index = first & mask
        if index == 0:
            name, at = self._string(rest, 1)
        else:
            at = 1
            if index == mask:
                at, index = 2, index + _seven_bits(rest[1])
            if has_moved and index >= FIRST_DYNAMIC:
                raise ValueError(index)  # the literal before may have moved the entries
            name = self._table.get_by_index(index)[0]
        value, at = self._string(rest, at)
        return name, value, at

    def _string(self, data: bytes, at: int) -> tuple[bytes, int]:
        """A string (RFC 7541, section 5.2), and where it ends."""
        first = data[at]
        start = at + 1
        end = start + (first & 0x7F)
        if first & 0x7F == 0x7F:
            end += 1 + _seven_bits(data[start])
            start += 1
        if end > len(data):
            raise IndexError(end)
        string = data[start:end]
        return (self._huffman_decoded(string) if first & 0x80 else string), end

    def _number(self, rest: bytes, changed: _Followed | None) -> bytes:
        """The number of an entry by its index in two bytes, at the beginning; 0 for those there are not."""
        age = 0x7F + _seven_bits(rest[1]) - FIRST_DYNAMIC
        if rest[0] == 0x80:
            raise ValueError(rest[0])
        live = self._live if changed is None else changed[0]
        return live[age : age + 1] or b"\0"

    def _after_insertion(self, name: bytes, value: bytes, changed: _Followed | None) -> _Followed:
        """The table after an insertion that may evict entries (RFC 7541, section 4.4)."""
        live, used, inserted = (self._live, self._used, ()) if changed is None else changed
        if len(inserted) >= _MAX_LITERALS:
            raise ValueError(len(inserted))  # no template would be made of it
        size = 32 + len(name) + len(value)
        room = self._table.maxsize
        if size > room:
            return b"", 0, ()
        used += size
        kept, new = len(live), len(inserted)
        while used > room:
            kept -= 1
            used -= inserted[kept] if kept < new else field_size(*self._entries[kept - new])
        return b"%c%b" % (self._numbers.get((name, value), 0), live[:kept]), used, (size, *inserted)

    def _huffman_decoded(self, value: bytes) -> bytes:
        known = self._huffman.get(value)
        if known is None:
            known = decode_huffman(value)
            if len(value) <= _MAX_HUFFMAN:
                if len(self._huffman) >= _MAX_ENTRIES:
                    self._huffman.clear()
                self._huffman[value] = known
        return known


def _seven_bits(byte: int) -> int:
    if byte > 0x7F:
        raise ValueError(byte)  # the integer goes on
    return byte


def _translation(live: bytes) -> bytes:
    """From indexed fields of one byte to numbers."""
    return (_BEFORE_DYNAMIC + live + _UNKNOWN)[:256]


def _positions(pieces: list[bytes]) -> tuple[list[int], list[int]]:
    """Where in the header list the literals are, and where the entries without a number."""
    holes: list[int] = []
    unknown: list[int] = []
    position = 0
    for piece in pieces:
        if piece[:1] == _LITERAL:
            holes.append(position)
            position += 1
            continue
        unknown += [position + at for at, number in enumerate(piece) if number == 0]
        position += len(piece)
    return holes, unknown
