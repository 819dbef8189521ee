"""Header blocks: the caches against the hpack library, block by block."""

import random
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import pytest
from hpack import Decoder, Encoder, HPACKError
from hpack.hpack import encode_integer
from hpack.table import HeaderTable
from hypothesis import given
from hypothesis import strategies as st

from penstock_server.http2.errors import ConnectionFault, ErrorCode, StreamFault
from penstock_server.http2.fields import Headers, check_request
from penstock_server.http2.headers import HeaderBlock, HeaderDecoder
from penstock_server.http2.limits import Limits
from tests.server.http2.peers import REQUEST, VARYING, literal

# What grpcio 1.85.1 sent on one connection, recorded: three calls, one with a timeout of 30 s, two more with the same
# (rounded), two with metadata of their own, and three with timeouts that differ.
GRPCIO = [
    bytes.fromhex(each)
    for each in (
        "40053a706174682a2f696e666572656e63652e47525043496e666572656e6365536572766963652f4d6f64656c496e666572"
        "400a3a617574686f726974790f3132372e302e302e313a34373739378386400c636f6e74656e742d74797065106170706c69"
        "636174696f6e2f677270634002746508747261696c6572734014677270632d6163636570742d656e636f64696e6717696465"
        "6e746974792c206465666c6174652c20677a6970400a757365722d6167656e7430677270632d707974686f6e2f312e38352e"
        "3120677270632d632f35382e302e3020286c696e75783b2063687474703229",
        "c3c28386c1c0bfbe",
        "c3c28386c1c0bfbe",
        "c3c28386c1c0bf400c677270632d74696d656f75740633303130306dbf",
        "c4c38386c2c1c0bebf",
        "c4c38386c2c1c0bebf",
        "c4c38386c2c1c0bebf000c782d726571756573742d69640130",
        "c4c38386c2c1c0bebf000c782d726571756573742d6964053132333435",
        "c4c38386c2c1c0400c677270632d74696d656f7574043330316dc0",
        "c5c48386c3c2c1400c677270632d74696d656f7574043331316dc1",
        "c6c58386c4c3c2400c677270632d74696d656f7574043332316dc2",
    )
]


def decoder(limits: Limits | None = None) -> HeaderDecoder[Headers]:
    return HeaderDecoder(lambda headers: headers, VARYING, limits or Limits())


Outcome = tuple[str, Headers, bytes | None]


def expected(library: Decoder, block: bytes) -> Outcome:
    """What the library and the rules of RFC 9113 say."""
    try:
        headers = [(name, value) for name, value in library.decode(block, raw=True)]
    except HPACKError:
        return "undecodable", [], None
    try:
        check_request(headers)
    except StreamFault:
        return "malformed", [], None
    timeouts = [value for name, value in headers if name == VARYING]
    return "fine", [header for header in headers if header[0] != VARYING], timeouts[-1] if timeouts else None


def actual(caches: HeaderDecoder[Headers], block: bytes) -> Outcome:
    try:
        head, varying, _ = caches.request(block)
    except ConnectionFault:
        return "undecodable", [], None
    except StreamFault:
        return "malformed", [], None
    return "fine", head, varying


def hold_against_library(blocks: Iterable[bytes]) -> HeaderDecoder[Headers]:
    """Decode both ways, up to the first block that ends a connection, and compare tables as well."""
    caches, library = decoder(), Decoder(4 * Limits().header_list_bytes)
    for block in blocks:
        want = expected(library, block)
        assert actual(caches, block) == want, block.hex()
        if want[0] == "undecodable":
            break
        table = deepcopy(caches._table)
        table.add_all(VARYING, caches._values)  # what was foretold is put there later
        assert table.dynamic_entries == library.header_table.dynamic_entries
        assert table.used == library.header_table._current_size
        if not caches._values:
            assert caches._used == table.used
            assert caches._live == bytes([caches._numbers.get(entry, 0) for entry in table.dynamic_entries])
    return caches


def test_what_grpcio_sends() -> None:
    """Recorded blocks: the heads are right, and those that follow a known form do not go to the library."""
    caches = hold_against_library(GRPCIO)
    assert (caches.hits, caches.template_hits, caches.misses) == (2, 4, 5)


class Client:
    """An encoder that may use everything that HPACK has, right or wrong, by the choices of a random generator."""

    def __init__(self, seed: int, wrong: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.wrong = wrong
        self.inserted: list[tuple[bytes, bytes]] = []
        self.encoder = Encoder()
        self.paths = [b"/a.B/C", b"/a.B/D"]

    def blocks(self, count: int) -> list[bytes]:
        return [self.block() for _ in range(count)]

    def block(self) -> bytes:
        fields = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", self.random.choice(self.paths)),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"user-agent", b"grpc/1.%d" % self.random.randrange(3)),
        ]
        for name, share in ((VARYING, 0.7), (b"x-id", 0.2), (b"content-length", 0.05), (VARYING, 0.03)):
            if self.random.random() < share:
                fields.append((name, b"%d" % self.random.randrange(10 if self.random.random() < 0.2 else 10**6)))
        if self.random.random() < 0.05:
            fields.append((b"x-long", bytes(self.random.choices(b"abc", k=self.random.randrange(4200)))))
        if self.random.random() < self.wrong:
            fields.append(self.random.choice([(b"Upper", b"x"), (b"a", b" x"), (b":path", b"/"), (VARYING, b"1\n")]))
        if self.random.random() < 0.01:
            self.encoder.header_table_size = self.random.choice([0, 200, 4096])
        style = self.random.random()
        if style < 0.3:  # only the library's way: everything indexed, names too, in Huffman's code
            block = self.encoder.encode(fields, huffman=self.random.random() < 0.5)
        else:
            block = b"".join(self.field(name, value) for name, value in fields)
            if self.encoder.header_table.resized:
                block = self.encoder.encode([]) + block
        if self.random.random() < self.wrong / 4:
            at = self.random.randrange(len(block))
            block = block[:at] + self.random.randbytes(self.random.randrange(3)) + block[at + 1 :]
        return block

    def field(self, name: bytes, value: bytes) -> bytes:
        table = self.encoder.header_table
        found = table.search(name, value)
        choice = self.random.random()
        if found is not None and found[2] is not None and name != VARYING and choice < 0.95:
            index = encode_integer(found[0], 7)
            index[0] |= 0x80
            return bytes(index)
        huffman = self.random.random() < 0.3
        if choice < 0.1:
            return literal(name, value, self.random.choice((0x00, 0x10)))
        if choice < 0.2 and found is not None:
            return bytes(encode_integer(found[0], 4)) + literal(b"", value)[2:]
        if choice < 0.6:
            table.add(name, value)
            return literal(name, value, 0x40)
        return self.encoder.add((name, value), False, huffman)


@pytest.mark.parametrize("seed", range(20))
def test_caches_equal_the_library(seed: int) -> None:
    """A long connection whose table is turned over many times: indices of two bytes, evictions, sizes that change."""
    caches = hold_against_library(Client(seed).blocks(300))
    assert caches.template_hits > 15


@pytest.mark.parametrize("seed", range(60))
def test_caches_equal_the_library_on_nonsense(seed: int) -> None:
    """Malformed lists and broken blocks among them, until the connection dies."""
    hold_against_library(Client(seed, wrong=0.1).blocks(200))


class LikeGrpcio:
    """An encoder of the kind of grpcio's: indices, what was evicted anew, and each timeout as a literal."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.encoder = Encoder()
        self.version = 1

    def block(self) -> bytes:
        if self.random.random() < 0.02:
            self.version += 1
        fields = [*REQUEST, (b"user-agent", b"grpc/1.%d" % self.version)]
        timeout_at = self.random.choice((5, 5, 5, 5, 5, 5, 7, 3))
        before = self.encoder.encode(fields[:timeout_at], huffman=False)
        if self.random.random() < 0.05:
            return before + self.encoder.encode(fields[timeout_at:], huffman=False)
        timeout = b"%dm" % self.random.choice((30, self.random.randrange(10**5), 10 ** self.random.randrange(140)))
        self.encoder.header_table.add(VARYING, timeout)
        return before + literal(VARYING, timeout, 0x40) + self.encoder.encode(fields[timeout_at:], huffman=False)


class Watched(HeaderDecoder[Headers]):
    """Counts the blocks of which the form was made."""

    forms = 0

    def _form(self, block: bytes) -> Any:
        self.forms += 1
        return super()._form(block)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_foretold_equals_the_library(seed: int) -> None:
    """Timeouts that differ, of any length, in changing places; entries come and are evicted."""
    client = LikeGrpcio(seed)
    hold_against_library([client.block() for _ in range(400)])


@pytest.mark.parametrize("seed", range(100))
def test_what_is_nearly_foretold_equals_the_library(seed: int) -> None:
    """At the end a block that differs from the one that comes next in a byte, or in its length."""
    client = LikeGrpcio(seed)
    blocks = [client.block() for _ in range(client.random.randrange(3, 90))]
    last, at = blocks[-1], client.random.randrange(len(blocks[-1]))
    if client.random.random() < 0.5:
        near = last[:at] + bytes((last[at] ^ 1 << client.random.randrange(8),)) + last[at + 1 :]
    else:
        near = last[:at] + last[at + 1 :] if client.random.random() < 0.5 else last[:at]
    hold_against_library([*blocks[:-1], near, client.block()])


@pytest.mark.parametrize("seed", range(60))
def test_a_foretold_block_means_what_it_means_now(seed: int) -> None:
    """Between calls with timeouts of their own: other insertions, by requests and trailers, of entries like those that
    are meant, so that an index too high or too low is another path."""
    chance = random.Random(seed)
    encoder = Encoder()
    table = encoder.header_table
    caches, library = decoder(), Decoder(4 * Limits().header_list_bytes)
    paths = [b"/%d" % number for number in range(12)]
    for path in paths:
        block = b"\x83\x86" + literal(b":path", path, 0x40)
        table.add(b":path", path)
        assert actual(caches, block) == expected(library, block)
    at = 66
    same = b"\x83\x86\xc2"
    for _ in range(150):
        timeout = b"%dm" % chance.randrange(10**4)
        if chance.random() < 0.05:
            at = chance.randrange(62, 74)
        inserted = literal(VARYING, timeout, 0x40), (VARYING, timeout)
        if chance.random() < 0.1:
            inserted = literal(b"x-a", timeout, 0x40), (b"x-a", timeout)
        if chance.random() < 0.07:
            trailers = literal(b"x-t", timeout, 0x40)
            assert caches.trailers(trailers) == library.decode(trailers, raw=True)
            table.add(b"x-t", timeout)
        if at > 126 or at - 61 > len(table.dynamic_entries):
            break
        block = b"\x83\x86" + bytes((0x80 | at,)) + inserted[0]
        want = expected(library, block)
        assert actual(caches, block) == want
        if want[0] == "undecodable":
            break
        table.add(*inserted[1])
        if chance.random() < 0.3:  # a block as it was before the last one, which means another path now
            same = b"\x83\x86" + bytes((0x80 | at,))
        assert actual(caches, same) == expected(library, same)
        at += chance.choice((1, 1, 1, 1, 1, 1, 0, 2))


def test_a_foretold_block_behind_one_that_empties_the_table() -> None:
    """An entry larger than the table does: what the next indices would have meant is gone."""
    caches = HeaderDecoder(lambda headers: headers, b"t", Limits())

    def call(path: bytes, value: bytes = b"") -> None:
        caches.request(b"\x83\x86" + path + (literal(b"t", value, 0x40) if value else b""))

    caches.request(b"\x3f\x7f\x83\x86" + literal(b":path", b"/a") + literal(b"t", b"1", 0x40))  # 158 bytes from here on
    call(literal(b":path", b"/a", 0x40))
    call(b"\xbe")
    call(b"\xbe", b"2")
    call(b"\xbf", b"3")
    assert caches._step is not None
    call(b"\xc0", b"4" * 126)
    assert not caches._table.dynamic_entries
    with pytest.raises(ConnectionFault):
        call(b"\xc1", b"5")


@pytest.mark.parametrize("size", [1, 4, 120])
def test_what_is_foretold_comes_to_an_end(size: int) -> None:
    """A client that goes on and on with indices higher by one: up to those of two bytes, or that were evicted."""
    start = b"".join(literal(name, value, 0x40) for name, value in REQUEST)
    heads = [bytes(0xC3 - at + number for at in range(6)) for number in range(61)]
    timeouts = [b"%0*d" % (size, number % 10) for number in range(61)]
    caches, library = decoder(), Decoder(4 * Limits().header_list_bytes)
    assert actual(caches, start) == expected(library, start)
    for head, timeout in zip(heads, timeouts, strict=True):
        block = head + literal(VARYING, timeout, 0x40)
        want = expected(library, block)
        assert actual(caches, block) == want
        if want[0] == "undecodable":
            break
    else:
        pytest.fail("it never ended")
    assert caches.template_hits > 15


@pytest.mark.parametrize("value", [b" 1", b"1\n", b"", b"1" * 127, b"1" * 200, b"\xff", b"1_m"])
def test_a_value_that_is_not_foretold(value: bytes) -> None:
    """Of characters that it may not have, of a length that takes two bytes, or merely odd."""
    start = b"".join(literal(name, each, 0x40) for name, each in REQUEST)
    heads = [bytes(0xC3 - at + number for at in range(6)) for number in range(5)]
    values = [b"1m", b"2m", b"3m", value, b"4m"]
    hold_against_library(
        [start, *(head + literal(VARYING, each, 0x40) for head, each in zip(heads, values, strict=True))]
    )


def test_a_step_is_not_known_by_its_ends_alone() -> None:
    """A value of 127 bytes, whose length takes two, that ends like a block with a shorter one does."""
    heads = [*REQUEST[:4], REQUEST[5]]
    start, table = b"".join(literal(name, each, 0x40) for name, each in REQUEST), HeaderTable()

    def begin() -> bytes:
        for field in REQUEST:
            table.add(*field)
        return start

    def index(field: tuple[bytes, bytes]) -> bytes:
        found = table.search(*field)
        assert found is not None
        return bytes((0x80 | found[0],))

    def call(value: bytes, *, with_type: bool) -> bytes:
        head = b"".join(map(index, heads))
        table.add(VARYING, value)
        return head + literal(VARYING, value, 0x40) + (index(REQUEST[4]) if with_type else b"")

    short, longer = [b"1m", b"2m", b"3m"], [b"4m", b"5m", b"6m"]
    blocks = [begin(), *(call(value, with_type=True) for value in short)]
    tail = blocks[-1][-1:]
    blocks += [begin(), *(call(value, with_type=False) for value in longer)]
    blocks += [begin(), *(call(value, with_type=False) for value in longer[:2])]
    blocks += [call(b"1" * 126 + tail, with_type=False), call(b"7m", with_type=True)]
    hold_against_library(blocks)


@pytest.mark.parametrize("value", [b"1\n2", b"1" * 3000])
def test_a_list_that_is_refused_has_moved_the_indices_all_the_same(value: bytes) -> None:
    """Its timeout is malformed, or too long, and in the table: the next block with these indices means another path."""
    blocks = [
        b"\x83\x86" + literal(b":path", b"/first", 0x40),
        b"\x83\x86" + literal(b":path", b"/second", 0x40),
        *(b"\x83\x86" + bytes((0xBF + number,)) + literal(VARYING, b"%dm" % number, 0x40) for number in range(4)),
        b"\x83\x86\xc3" + literal(VARYING, value, 0x40),
        b"\x83\x86\xc3" + literal(VARYING, b"9m", 0x40),
    ]
    caches, library = decoder(Limits(header_list_bytes=2000)), Decoder(1 << 16)
    for block in blocks[:6]:
        assert actual(caches, block) == expected(library, block)
    assert caches._step is not None
    assert actual(caches, blocks[6])[0] == "malformed"
    library.decode(blocks[6], raw=True)
    assert actual(caches, blocks[7]) == expected(library, blocks[7])


def test_what_is_remembered_is_bounded() -> None:
    """Long lists, and steps of many kinds, are worth no memory."""
    caches = decoder()
    for number in range(300):
        caches.request(
            b"".join(literal(name, each) for name, each in REQUEST) + literal(b"token", b"%03d" % number * 800)
        )
    assert not caches._accepted
    for count in range(60):
        head = b"\x83\x86" + b"\x84" + b"\x90" * count  # :path is /, and so many times accept-encoding
        for number in range(3):
            caches.request(head + literal(VARYING, b"%dm" % number, 0x40))
    assert 1 < len(caches._steps) <= 8
    assert max(len(step.head) for step in caches._steps.values()) < 50


def test_a_foretold_list_is_measured_too() -> None:
    """Its timeout may make it too long."""
    size = sum(32 + len(name) + len(value) for name, value in REQUEST) + 32 + len(VARYING)
    caches = decoder(Limits(header_list_bytes=size + 3))
    caches.request(b"".join(literal(name, each, 0x40) for name, each in REQUEST))
    for number, timeout in enumerate((b"1m", b"2m", b"33m")):
        caches.request(bytes(0xC3 - at + number for at in range(6)) + literal(VARYING, timeout, 0x40))
    with pytest.raises(StreamFault):
        caches.request(bytes(0xC6 - at for at in range(6)) + literal(VARYING, b"444m", 0x40))


def test_most_timeouts_are_foretold() -> None:
    """As long as indices are of one byte. Evictions, and what comes again after them, cost a form now and then."""
    decoder = Watched(lambda headers: headers, VARYING, Limits())
    encoder = Encoder()
    for number in range(1000):
        before = encoder.encode(REQUEST[:5], huffman=False)
        encoder.header_table.add(VARYING, b"%du" % (20_000_000 + number))
        block = before + literal(VARYING, b"%du" % (20_000_000 + number), 0x40)
        decoder.request(block + encoder.encode(REQUEST[5:], huffman=False))
    assert decoder.forms < 250
    assert decoder.template_hits > 900


PIECES = st.one_of(
    st.integers(0x80, 0xFE).map(lambda byte: bytes((byte,))),
    st.integers(0, 140).map(lambda more: b"\xff" + bytes(encode_integer(more, 8))),
    st.builds(literal, st.sampled_from([b"a", VARYING, b"te"]), st.binary(max_size=3), st.sampled_from([0, 16, 64])),
    st.builds(lambda index, value: bytes((index, len(value))) + value, st.integers(0, 127), st.binary(max_size=60)),
    st.binary(max_size=3),
)


@given(st.lists(st.lists(PIECES, max_size=5).map(b"".join), max_size=30))
def test_any_blocks(blocks: list[bytes]) -> None:
    """Blocks of any pieces, behind what makes them a request."""
    start = b"".join(literal(name, value, 0x40) for name, value in REQUEST)
    hold_against_library([start, *(b"\x83\x86\x84" + block for block in blocks)])


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=200), st.binary(max_size=300)), max_size=6))
def test_what_we_send_is_decoded_by_the_library(fields: Sequence[tuple[bytes, bytes]]) -> None:
    """A header block is its fields, and leaves the reader's table alone."""
    library = Decoder()
    block = HeaderBlock(fields)
    assert list(library.decode(block.block, raw=True)) == list(fields)
    assert list(library.decode(block.with_table_size_update().block, raw=True)) == list(fields)
    assert not library.header_table.dynamic_entries


def test_common_fields_are_short() -> None:
    """What the static table has is a byte, and its names are not spelled out."""
    assert HeaderBlock([(b":status", b"200")]).block == b"\x88"
    assert HeaderBlock([(b"content-type", b"a")]).block == b"\x0f\x10\x01a"


def test_a_long_block_goes_out_in_continuations() -> None:
    """No frame is larger than the smallest limit that a peer may have."""
    block = HeaderBlock([(b"a", b"x" * 40_000)])
    parts = block.parts(b"\0\0\0\x05", True)
    assert [len(part) for part in parts[2::3]] == [16_384, 16_384, len(block.block) - 32_768]
    assert [part[3:5] for part in parts[::3]] == [b"\x01\x01", b"\x09\x00", b"\x09\x04"]
    assert set(parts[1::3]) == {b"\0\0\0\x05"}
    assert sum(len(part) for part in parts) == block.size


def test_one_interpretation_for_many_blocks() -> None:
    """With nothing but the varying field new, a head is interpreted once and is the same object."""
    caches = hold_against_library(GRPCIO[:3])
    first, second, third = (caches.request(block) for block in (GRPCIO[2], GRPCIO[2], GRPCIO[3]))
    assert first[0] is second[0] is not third[0]
    caches = hold_against_library(GRPCIO[:8])
    first, second, third = (caches.request(block) for block in GRPCIO[8:])
    assert first[0] is second[0] is third[0]
    assert [first[1], second[1], third[1]] == [b"301m", b"311m", b"321m"]


def test_a_block_means_another_once_the_table_has_moved() -> None:
    """The same bytes, before and behind an insertion that came by a template."""
    base = b"\x83\x86\x84"
    one, two = (base + literal(b"x", value, 0x40) for value in (b"1", b"2"))
    caches = hold_against_library([one, base + b"\xbe", base + b"\xbe", base + b"\xbe", two, base + b"\xbe"])
    assert (caches.hits, caches.template_hits) == (2, 1)


def test_a_table_size_update_is_no_literal() -> None:
    """A block that reads as a literal as well, were its first byte one."""
    update = b"\x20\x04\x01/\x86\x83\x0f\x10\x0d" + b"a" * 13
    other = b"\x83\x86\x84" + literal(b"x", b"y", 0x40)
    hold_against_library([other, update, b"\x3f\xe1\x1f" + other, update, b"\x3f\xe1\x1f" + other, update])


def test_caches_are_bounded() -> None:
    """However many different blocks come, what is remembered stays small."""
    caches, huffman = decoder(), Encoder()
    base = b"\x83\x86\x84"
    for number in range(400):
        value = b"%d" % number
        caches.request(base + literal(b"x", value))
        caches.request(base + literal(b"x" + value, value, 0x40))
        caches.request(base + literal(b"x" + value, value) + b"\xbe")
        caches.request(base + literal(VARYING, value * 9))
        caches.request(base + huffman.encode([(b"y", value, True)]))
        assert len(caches.blocks) <= 128
        assert len(caches._templates) <= 128
        assert len(caches._numbers) <= 192
        assert len(caches._huffman) <= 128


@pytest.mark.parametrize("at_once", [True, False])
def test_a_list_that_is_too_long(at_once: bool) -> None:
    """It ends its stream, also by way of a template; one that is far too long ends the connection."""
    caches = decoder(Limits(header_list_bytes=400))
    base = b"\x83\x86\x84"
    if not at_once:
        caches.request(base + literal(VARYING, b"1"))
    with pytest.raises(StreamFault) as caught:
        caches.request(base + literal(VARYING, b"1" * 300))
    assert caught.value.code == ErrorCode.ENHANCE_YOUR_CALM
    assert caches.request(base + literal(VARYING, b"2"))[1] == b"2"
    with pytest.raises(ConnectionFault) as fault:
        caches.request(base + literal(b"a", b"1" * 1600))
    assert fault.value.code == ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("limit", [400, 401])
def test_a_list_is_measured_by_its_template_too(limit: int) -> None:
    """With another value of the varying field the list has another length: 400 bytes are as many as may be."""
    caches = decoder(Limits(header_list_bytes=400))
    base = b"\x83\x86\x84"
    caches.request(base + literal(VARYING, b""))
    value = b"1" * (limit - sum(32 + size for size in (11, 11, 6, 12)))
    if limit == 400:
        assert caches.request(base + literal(VARYING, value))[1] == value
    else:
        with pytest.raises(StreamFault):
            caches.request(base + literal(VARYING, value))
    assert caches.template_hits == 1


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ([(b":path", b"/a")], [(b":path", b"a")]),
        ([(b":path", b"/a"), (b"te", b"trailers")], [(b":path", b"/a"), (b"te", b"gzip")]),
        ([(b":path", b"/a"), (b"content-length", b"1")], [(b":path", b"/a"), (b"content-length", b"x")]),
        ([(b":path", b"/a"), (b"x", b"y")], [(b":path", b"/a"), (b"x", b"y\n")]),
        ([(b":path", b"/a"), (VARYING, b"1")], [(b":path", b"/a"), (VARYING, b"1\n")]),
    ],
)
def test_a_value_that_is_wrong_is_found_by_way_of_a_template(right: Headers, wrong: Headers) -> None:
    """A list of a known form is checked for what its new values may break."""
    caches = decoder()
    for fields in (right, right):
        caches.request(b"\x83\x86" + b"".join(literal(name, value, 0x40) for name, value in fields))
    with pytest.raises(StreamFault):
        caches.request(b"\x83\x86" + b"".join(literal(name, value, 0x40) for name, value in wrong))
    assert caches.template_hits == 2


def test_a_bomb_of_indices() -> None:
    """A small block that stands for a huge list is stopped by the library (4 KiB, referred to 1,000 times)."""
    caches = decoder()
    big = b"\x83\x86\x84" + literal(b"a", b"x" * 4000, 0x40)
    caches.request(big)
    with pytest.raises(ConnectionFault) as caught:
        caches.request(b"\x83\x86\x84" + b"\xbe" * 1000)
    assert caught.value.code == ErrorCode.ENHANCE_YOUR_CALM
