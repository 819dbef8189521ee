"""What only the wire transport has to be held to: peers that break the rules or only just keep them, times, and memory.

What it does for clients that behave is in test_behaviour.py, which holds all transports.
"""

import asyncio
import dataclasses
import gc
import select
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from math import inf
from pathlib import Path
from typing import Any, Protocol

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from penstock_server.errors import Failure
from penstock_server.http2.errors import ErrorCode
from penstock_server.service.seam import (
    Buffer,
    Cancel,
    Methods,
    Reply,
    RequestHead,
    Unary,
    nothing_to_cancel,
)
from penstock_server.status import Status
from penstock_server.transports.base import TlsSettings, TransportSettings
from penstock_server.transports.wire import WireTransport
from penstock_server.transports.wire.calls import with_deadline
from penstock_server.transports.wire.driver import Driver, peer_name
from penstock_server.transports.wire.hub import Hub, Member
from penstock_server.transports.wire.limits import WireLimits
from tests.server.transports.methods import Conversation, Conversations, Slow, echo, failing
from tests.server.transports.peer import Peer, framed

ECHO, CALL, STREAM = "/test.Test/Echo", "/test.Test/Call", "/test.Test/Stream"
MIB = 1 << 20
QUICK = WireLimits(look=0.02, linger=0.2)


class Serve(Protocol):
    """A transport that listens until the test ends, and a way to connect to it."""

    async def __call__(self, methods: Methods, limits: WireLimits = ..., **settings: Any) -> WireTransport: ...


async def no_connections(transport: WireTransport) -> None:
    """Wait until the server has noticed that all are gone."""
    while transport.statistics().connections:  # noqa: ASYNC110 - the transport has no event for it
        await asyncio.sleep(0)


def members(transport: WireTransport) -> list[Member]:
    """The server's connections, to be looked at as if it were later."""
    assert transport._hub is not None
    return transport._hub.members


Connect = Callable[..., Any]
_PORTS: dict[WireTransport, int] = {}


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    served: list[WireTransport] = []

    async def serve(methods: Methods, limits: WireLimits = QUICK, **settings: Any) -> WireTransport:
        transport = WireTransport(methods, TransportSettings(port=0, **settings), limits)
        _PORTS[transport] = await transport.start()
        served.append(transport)
        return transport

    yield serve
    for transport in served:
        await transport.stop(0.0)
        assert transport.statistics().calls_in_flight == 0
        assert transport.statistics().held_bytes == 0
        assert transport.statistics().connections == 0
        del _PORTS[transport]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    peers: list[Peer] = []

    async def connect(transport: WireTransport, **options: Any) -> Peer:
        peers.append(await Peer.to(_PORTS[transport], **options))
        return peers[-1]

    yield connect
    for peer in peers:
        await peer.close()


# ── calls ─────────────────────────────────────────────────────────────────────────────────────────


async def test_bodies_byte_by_byte(serve: Serve, connect: Connect) -> None:
    """A message may come in any number of frames, with the end on its own."""
    peer = await connect(await serve({ECHO: Unary(echo)}))
    stream = peer.call(ECHO)
    for byte in framed(b"hello"):
        peer.send(stream, bytes([byte]))
    peer.send(stream, b"", end=True)
    assert await peer.end(stream) == (0, "")
    assert peer.body(stream) == framed(b"hello")


async def test_a_message_larger_than_every_window(serve: Serve, connect: Connect) -> None:
    """Its bytes are given back while it comes in, and the answer waits for the client's windows."""
    limits = dataclasses.replace(QUICK, stream_window=65_535, connection_window=65_535)
    transport = await serve({ECHO: Unary(echo), STREAM: Conversations(_echo_one).stream}, limits)
    message = bytes(range(256)) * 4096
    for path in (ECHO, STREAM):
        peer = await connect(transport, window=65_535)
        stream = peer.call(path)
        await peer.send_all(stream, framed(message), end=True)
        assert await peer.end(stream) == (0, "")
        assert peer.body(stream) == framed(message)
    assert transport.statistics().received_bytes == 2 * (len(message) + 5)


def _echo_one(conversation: Conversation) -> None:
    def answer(message: bytes) -> None:
        conversation.sink.consumed()
        conversation.sink.send([message])
        conversation.sink.finish()

    conversation.on_each = answer


@pytest.mark.parametrize(
    ("timeout", "status"), [("x", 13), ("123456789S", 13), ("-1S", 13), ("0n", 4), ("0H", 4), ("1H", 0)]
)
async def test_timeouts_at_the_door(serve: Serve, connect: Connect, timeout: str, status: int) -> None:
    """What is none is refused, and none at all has passed; the method does not see either."""
    slow = Slow()
    peer = await connect(await serve({ECHO: Unary(echo), CALL: slow.unary}))
    fields = (("grpc-timeout", timeout),)
    if status:
        assert (await peer.end(peer.call(CALL, framed(b"x"), fields)))[0] == status
        assert not slow.heads
    assert (await peer.end(peer.call(ECHO, framed(b"x"), fields)))[0] == status
    stream = peer.call(ECHO, None, fields)  # a request in two pieces
    if not status:
        peer.send(stream, framed(b"x"), end=True)
    assert (await peer.end(stream))[0] == status


async def test_the_server_keeps_deadlines_by_itself(serve: Serve, connect: Connect) -> None:
    """Of clients that do not: a call that runs, one whose message is missing, and a stream."""
    slow, conversations = Slow(), Conversations()
    peer = await connect(await serve({CALL: slow.unary, STREAM: conversations.stream}))
    fields = (("grpc-timeout", "30m"),)
    streams = [peer.call(CALL, framed(b"x"), fields), peer.call(CALL, None, fields), peer.call(STREAM, None, fields)]
    late = peer.call(CALL, framed(b"y"), (("grpc-timeout", "1H"),))
    for stream in streams:
        assert await peer.end(stream) == (4, "Deadline Exceeded")
    assert slow.news.events == ["call", "call", "cancel 0"]
    assert conversations.open[0].news.events == ["cancel"]
    slow.replies[0]([b"too late"])
    slow.replies[1]([b"in time"])
    assert await peer.end(late) == (0, "")


async def test_deadlines_in_any_order(serve: Serve, connect: Connect) -> None:
    """The earliest first, whenever it was set and on whichever connection."""
    slow = Slow()
    transport = await serve({CALL: slow.unary})
    peers = {ms: await connect(transport) for ms in (90, 10, 50)}
    streams = {ms: peer.call(CALL, framed(b"%d" % ms), (("grpc-timeout", f"{ms}m"),)) for ms, peer in peers.items()}
    for ms in (10, 50, 90):
        assert (await peers[ms].end(streams[ms]))[0] == 4
    cancelled = [int(event.removeprefix("cancel ")) for event in slow.news.events if event != "call"]
    # Each deadline counts from when its call came, which may have been later for the shorter one.
    assert cancelled == sorted(range(3), key=lambda number: slow.heads[number].deadline)


async def test_trailers_end_a_request(serve: Serve, connect: Connect) -> None:
    """As END_STREAM on data does."""
    peer = await connect(await serve({ECHO: Unary(echo)}))
    stream = peer.call(ECHO)
    peer.send(stream, framed(b"x"))
    peer.h2.send_headers(stream, [("some", "trailer")], end_stream=True)
    peer.flush()
    assert await peer.end(stream) == (0, "")


@pytest.mark.parametrize("path", [ECHO, STREAM])
async def test_a_response_over_the_limit(serve: Serve, connect: Connect, path: str) -> None:
    """Is not sent; its handler hears that the stream is over."""

    def large(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
        reply([bytes(1000), b"x"])
        return nothing_to_cancel

    def talk(conversation: Conversation) -> None:
        def answer(message: bytes) -> None:
            for size in (1000, 1001, 5):
                conversation.sink.send([bytes(size)])

        conversation.on_each = answer

    conversations = Conversations(talk)
    peer = await connect(await serve({ECHO: Unary(large), STREAM: conversations.stream}, max_message_bytes=1000))
    stream = peer.call(path, framed(b"x"))
    assert await peer.end(stream) == (8, "SERVER: Sent message larger than max (1001 vs. 1000)")
    assert peer.body(stream) == (b"" if path == ECHO else framed(bytes(1000)))
    assert [each.news.events[-1] for each in conversations.open] == ([] if path == ECHO else ["cancel"])


@pytest.mark.parametrize("trailers", [(("Bad Key", "x"),), (("k", "line\nbreak"),), (("grpc-status", "0"),)])
async def test_trailers_that_must_not_be_sent(
    serve: Serve, connect: Connect, trailers: tuple[tuple[str, str], ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Are an error of the service: INTERNAL, and in the log."""

    def call(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
        reply([message], trailers)
        return nothing_to_cancel

    methods = {ECHO: Unary(call), CALL: failing(Failure(Status.NOT_FOUND, "no", trailers))}
    peer = await connect(await serve(methods))
    for path in methods:
        status, text = await peer.end(peer.call(path, framed(b"x")))
        assert status == 13
        assert text.startswith("internal error (error id ")
    assert "the sending of trailers" in caplog.text


@pytest.mark.parametrize(
    ("fields", "body", "status"),
    [
        ((), b"", 13),
        ((), framed(b"a")[:-1], 13),
        ((), framed(b"a") + framed(b"b"), 13),
        ((), framed(b"a", 1), 13),
        ((), framed(b"a", 2), 13),
        ((("grpc-encoding", "gzip"),), framed(b"a", 1), 13),
        ((("grpc-encoding", "snappy"),), framed(b"a"), 12),
        ((("k-bin", "!"),), framed(b"a"), 13),
    ],
)
async def test_requests_that_are_wrong(
    serve: Serve, connect: Connect, fields: tuple[tuple[str, str], ...], body: bytes, status: int
) -> None:
    """Are answered, in one piece or in two, and the connection goes on."""
    slow = Slow()
    peer = await connect(await serve({CALL: slow.unary, ECHO: Unary(echo)}))
    assert (await peer.end(peer.call(CALL, body, fields)))[0] == status
    stream = peer.call(CALL, None, fields)
    if not peer.ended(stream):
        peer.send(stream, body, end=True)
    assert (await peer.end(stream))[0] == status
    assert not slow.heads
    assert await peer.end(peer.call(ECHO, framed(b"x"))) == (0, "")


async def test_a_stream_has_its_turn(serve: Serve, connect: Connect) -> None:
    """A handler that has much to say stops for the others after some messages, and goes on in the next turn."""
    limits = dataclasses.replace(QUICK, turn_messages=3)
    asked: list[int] = []

    def talk(conversation: Conversation) -> None:
        left = list(range(10))

        def go_on() -> None:
            asked.append(len(left))
            while left:
                if not conversation.sink.send([b"%d" % left.pop(0)]):
                    return
            conversation.sink.finish()

        conversation.on_each = lambda message: go_on()
        conversation.on_room = go_on

    peer = await connect(await serve({STREAM: Conversations(talk).stream}, limits))
    stream = peer.call(STREAM, framed(b"go"))
    assert await peer.end(stream) == (0, "")
    assert peer.body(stream) == b"".join(framed(b"%d" % number) for number in range(10))
    assert asked == [10, 7, 4, 1]


@pytest.mark.parametrize("path", ["/no/such", STREAM])
async def test_an_end_waits_for_the_end_of_its_request(serve: Serve, connect: Connect, path: str) -> None:
    """A client that is still sending is heard out, for a moment: grpc.aio's would report another error."""
    streams: Methods = {STREAM: Conversations(lambda c: c.sink.finish(Failure(Status.UNIMPLEMENTED, "no"))).stream}
    patient = await serve({**streams, ECHO: Unary(echo)}, dataclasses.replace(QUICK, early_end=60.0))
    peer = await connect(patient)
    stream = peer.call(path)
    peer.send(stream, framed(b"x"))
    assert await peer.end(peer.call(ECHO, framed(b"x"))) == (0, "")
    assert not peer.ended(stream)
    peer.send(stream, framed(b"y"), end=True)
    assert (await peer.end(stream))[0] == 12
    never = peer.call(path)
    assert await peer.end(peer.call(ECHO, framed(b"x"))) == (0, "")
    await patient.stop(0.0)
    assert (await peer.end(never))[0] == 12
    hasty = await connect(await serve(streams, dataclasses.replace(QUICK, early_end=0.01)))
    assert (await hasty.end(hasty.call(path)))[0] == 12


async def test_a_window_is_given_back_as_messages_are_consumed(serve: Serve, connect: Connect) -> None:
    """Not as they are received: the peer's own window stops it."""
    limits = dataclasses.replace(QUICK, stream_window=65_535)
    conversations = Conversations()
    peer = await connect(await serve({STREAM: conversations.stream}, limits))
    stream = peer.call(STREAM)
    message = framed(bytes(6 * 1024 - 5))
    for _ in range(10):
        peer.send(stream, message)
    conversation = await conversations.first()
    await conversation.news.has("message", 10)
    peer.h2.ping(b"12345678")
    peer.flush()
    await peer.until(lambda: any(type(event).__name__ == "PingAckReceived" for event in peer.events))
    assert peer.h2.local_flow_control_window(stream) == 65_535 - 10 * len(message)
    conversation.sink.consumed(9)
    await peer.until(lambda: peer.h2.local_flow_control_window(stream) == 65_535 - len(message))
    conversation.sink.finish()
    assert await peer.end(stream) == (0, "")


async def test_messages_that_wait_for_their_handler(serve: Serve, connect: Connect) -> None:
    """They came in one read, more than it may have at once: what it gives back is all that fetches them."""
    conversations = Conversations()
    peer = await connect(await serve({STREAM: conversations.stream}, dataclasses.replace(QUICK, window_messages=4)))
    stream = peer.call(STREAM)
    peer.send(stream, framed(b"x") * 9)
    peer.flush()
    conversation = await conversations.first()
    await conversation.news.has("message", 4)
    for count in (8, 9):
        conversation.sink.consumed(4)
        await conversation.news.has("message", count)
    conversation.sink.finish()
    assert await peer.end(stream) == (0, "")


async def test_handing_back_too_much(serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """Is a mistake of the handler, which ends its stream."""
    conversations = Conversations(lambda conversation: conversation.sink.consumed(1))
    peer = await connect(await serve({STREAM: conversations.stream}))
    assert (await peer.end(peer.call(STREAM)))[0] == 13
    assert "1 messages consumed of 0" in caplog.text


# ── one write a turn ──────────────────────────────────────────────────────────────────────────────


class Recorder(asyncio.Transport):
    """What a connection writes, call by call."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 5)})
        self.writes: list[bytes] = []
        self.reading: list[bool] = []

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.writes.append(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None: ...

    def pause_reading(self) -> None:
        self.reading.append(False)

    def resume_reading(self) -> None:
        self.reading.append(True)


async def requests(count: int, path: str) -> bytes:
    """A whole client's bytes."""
    from h2.config import H2Configuration
    from h2.connection import H2Connection

    from tests.server.transports.peer import HEADERS

    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    for number in range(count):
        client.send_headers(2 * number + 1, [(":path", path), *HEADERS])
        client.send_data(2 * number + 1, framed(b"%d" % number), end_stream=True)
    return client.data_to_send()


def received(driver: Driver, data: bytes) -> None:
    """A read."""
    driver.get_buffer(-1)[: len(data)] = data
    driver.buffer_updated(len(data))


async def test_one_write_for_all_that_a_read_asked() -> None:
    """However many requests lie in it."""
    hub = Hub({ECHO: Unary(echo)}, TransportSettings(), WireLimits())
    driver, transport = Driver(hub), Recorder()
    driver.connection_made(transport)
    transport.writes.clear()
    received(driver, await requests(50, ECHO))
    assert len(transport.writes) == 1
    assert all(framed(b"%d" % number) in transport.writes[0] for number in range(50))
    hub.end()


async def test_one_write_for_all_replies_of_a_batch() -> None:
    """For each connection, in the loop's next pass."""
    slow = Slow()
    hub = Hub({CALL: slow.unary}, TransportSettings(), WireLimits())
    pairs = [(Driver(hub), Recorder()) for _ in range(3)]
    for driver, transport in pairs:
        driver.connection_made(transport)
        received(driver, await requests(10, CALL))
        transport.writes.clear()
    for reply, message in zip(slow.replies, slow.messages, strict=True):
        reply([message])
    assert [transport.writes for _, transport in pairs] == [[], [], []]
    await asyncio.sleep(0)
    assert [len(transport.writes) for _, transport in pairs] == [1, 1, 1]
    hub.end()


async def test_nothing_is_written_while_the_peer_does_not_read() -> None:
    """And all of it afterwards."""
    hub = Hub({ECHO: Unary(echo)}, TransportSettings(), WireLimits())
    driver, transport = Driver(hub), Recorder()
    driver.connection_made(transport)
    transport.writes.clear()
    driver.pause_writing()
    received(driver, await requests(5, ECHO))
    assert transport.writes == []
    driver.resume_writing()
    await asyncio.sleep(0)
    assert len(transport.writes) == 1
    hub.end()


@pytest.mark.parametrize("padding", [0, 150_000])
async def test_a_long_turn_is_the_last_in_a_pass(padding: int) -> None:
    """Behind a full read there is more, and the loop would go on with it before it comes to the neighbours."""

    def call(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
        until = time.monotonic() + 0.003
        while time.monotonic() < until:
            pass
        reply([b"done"])
        return nothing_to_cancel

    hub = Hub({CALL: Unary(call)}, TransportSettings(), WireLimits())
    driver, transport = Driver(hub), Recorder()
    driver.connection_made(transport)
    more = b"".join(b"\0\x40\0\x63\0\0\0\0\0" + bytes(16_384) for _ in range(padding // 16_384))  # of no known type
    received(driver, await requests(1, CALL) + more)
    assert transport.reading == ([False] if padding else [])
    await asyncio.sleep(0)
    assert transport.reading == ([False, True] if padding else [])
    hub.end()


async def test_what_was_not_fetched_goes_with_the_connection() -> None:
    """At once: a connection is a circle, and the collector looks at objects and not at how large they are."""
    hub = Hub({ECHO: Unary(echo)}, TransportSettings(), WireLimits())
    driver, transport = Driver(hub), Recorder()
    driver.connection_made(transport)
    driver.pause_writing()
    received(driver, await requests(5, ECHO))
    assert driver.http2.output
    driver.connection_lost(None)
    assert driver.http2.output == []
    hub.end()


# ── times ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [CALL, STREAM])
@pytest.mark.parametrize("start", [framed(bytes(1000))[:500], b"\0\0"], ids=["half a message", "half a prefix"])
async def test_a_message_that_does_not_come_whole(serve: Serve, connect: Connect, path: str, start: bytes) -> None:
    """Is waited for, but not for ever; its neighbours do not notice."""
    limits = dataclasses.replace(QUICK, message=0.05)
    conversations = Conversations()
    peer = await connect(await serve({CALL: Slow().unary, ECHO: Unary(echo), STREAM: conversations.stream}, limits))
    stream = peer.call(path)
    peer.send(stream, framed(b"whole") * (path == STREAM) + start)
    assert await peer.end(stream) == (4, "the message took too long to come")
    assert [each.news.events for each in conversations.open] == ([["message", "cancel"]] if path == STREAM else [])
    assert await peer.end(peer.call(ECHO, framed(b"x"))) == (0, "")


async def test_a_large_message_has_more_time(serve: Serve, connect: Connect) -> None:
    """In proportion to its size; and a stream between two messages has all the time it wants."""
    limits = dataclasses.replace(QUICK, message=0.02, message_rate=100)
    conversations = Conversations()
    peer = await connect(await serve({CALL: Slow().unary, STREAM: conversations.stream}, limits))
    large = peer.call(CALL)
    peer.send(large, framed(bytes(10_000))[:50])
    quiet = peer.call(STREAM)
    peer.send(quiet, framed(b"x"))
    small = peer.call(CALL)
    peer.send(small, framed(b"x")[:5])
    assert (await peer.end(small))[0] == 4
    for _ in range(2):  # two rounds of looks later
        again = peer.call(CALL)
        peer.send(again, framed(b"x")[:5])
        assert (await peer.end(again))[0] == 4
    assert not peer.ended(large)
    assert not peer.ended(quiet)


@pytest.mark.parametrize("sent", [b"", b"PRI * HT", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"])
async def test_a_connection_that_does_not_begin(serve: Serve, sent: bytes) -> None:
    """Is closed with a reason."""
    transport = await serve({ECHO: Unary(echo)}, dataclasses.replace(QUICK, half_frame=0.05))
    reader, writer = await asyncio.open_connection("127.0.0.1", _PORTS[transport])
    writer.write(sent)
    assert b"in time" in await reader.read()
    writer.close()
    assert transport.statistics().connections_closed["enhance_your_calm"] == 1


async def test_half_a_frame(serve: Serve, connect: Connect) -> None:
    """Likewise, on a connection that had begun well."""
    transport = await serve({ECHO: Unary(echo)})
    peer = await connect(transport)
    assert await peer.end(peer.call(ECHO, framed(b"x"))) == (0, "")
    peer.writer.write(b"\0\0")
    (member,) = members(transport)
    while member.http2.waiting_since is None:  # noqa: ASYNC110 - the transport has no event for it
        await asyncio.sleep(0)
    member.look(time.monotonic() + QUICK.half_frame + 1)
    await peer.closed()
    assert peer.goaway() == (ErrorCode.ENHANCE_YOUR_CALM, "what has begun to come did not come whole in time")


async def test_a_silent_peer_that_lives(serve: Serve, connect: Connect) -> None:
    """Is asked now and then, and stays."""
    transport = await serve({ECHO: Unary(echo)}, dataclasses.replace(QUICK, silence=0.02, pong=60.0))
    peer = await connect(transport)
    await peer.until(lambda: peer.pings() >= 3)
    assert transport.statistics().connections == 1
    assert not peer.lost


async def test_a_silent_peer_that_is_dead(serve: Serve, connect: Connect) -> None:
    """Is noticed, and its calls are cancelled."""
    slow = Slow()
    transport = await serve({CALL: slow.unary})
    peer = await connect(transport)
    peer.call(CALL, framed(b"x"))
    await slow.news.has("call")
    (member,) = members(transport)
    silent = time.monotonic() + QUICK.silence + 1
    member.look(silent)
    member.look(silent + QUICK.pong - 1)
    assert transport.statistics().connections == 1
    member.look(silent + QUICK.pong + 1)
    await slow.news.has("cancel 0")  # the peer reads nothing meanwhile, and so answers nothing
    assert transport.statistics().connections == 0


async def test_peers_that_have_gone_take_nobodys_turn() -> None:
    """Thousands that connect and leave do not put off the times of those that stay."""
    hub = Hub({ECHO: Unary(echo)}, TransportSettings(), WireLimits(look=3600.0))
    drivers = [Driver(hub) for _ in range(80)]
    for driver in drivers:
        driver.connection_made(Recorder())
    hub._look()  # one in eight: the others are still to be looked at
    for driver in drivers[1:]:
        driver.connection_lost(None)
    drivers[0].http2.last_received -= 3600.0
    drivers[0].http2.waiting_since = None
    hub._look()
    assert drivers[0]._pinged_at != inf
    hub.end()


async def test_a_peer_that_does_not_read(serve: Serve, connect: Connect) -> None:
    """Although it sends: what is written to it must get somewhere."""

    def pour(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
        reply([bytes(16 * MIB)])
        return nothing_to_cancel

    transport = await serve({CALL: Unary(pour), ECHO: Unary(echo)}, dataclasses.replace(QUICK, blocked=0.1))
    peer = await connect(transport, window=64 * MIB)
    peer.call(CALL, framed(b"x"))
    other = await connect(transport)
    while transport.statistics().connections > 1:
        if not peer.writer.is_closing():
            peer.h2.ping(b"12345678")
            peer.flush()
        assert await other.end(other.call(ECHO, framed(b"x"))) == (0, "")
    # The kernel does not go on for the server: it would hold what is not read for minutes.
    poll = select.poll()
    poll.register(peer.writer.get_extra_info("socket").fileno(), 0)
    while not poll.poll(0):
        assert await other.end(other.call(ECHO, framed(b"x"))) == (0, "")


# ── memory ────────────────────────────────────────────────────────────────────────────────────────


async def test_connections_are_bounded(serve: Serve, connect: Connect) -> None:
    """One too many is told why; a place that becomes free can be had."""
    transport = await serve({ECHO: Unary(echo)}, max_connections=2)
    first, second = await connect(transport), await connect(transport)
    third = await connect(transport)
    await third.closed()
    assert third.goaway() == (ErrorCode.ENHANCE_YOUR_CALM, "the server has as many connections as it may")
    assert transport.statistics().connections_refused == 1
    await first.close()
    while transport.statistics().connections > 1:
        assert await second.end(second.call(ECHO, framed(b"x"))) == (0, "")
    fourth = await connect(transport)
    assert await fourth.end(fourth.call(ECHO, framed(b"x"))) == (0, "")
    assert transport.statistics().connections_total == 4


@pytest.mark.parametrize("path", [CALL, STREAM])
async def test_half_sent_messages_are_bounded_together(serve: Serve, connect: Connect, path: str) -> None:
    """Over all connections, by what has come and not by what was announced."""
    limits = dataclasses.replace(QUICK, stream_window=65_535, early_end=0.0)
    methods: Methods = {CALL: Slow().unary, ECHO: Unary(echo), STREAM: Conversations().stream}
    transport = await serve(methods, limits, max_held_bytes=4 * MIB)
    calls: list[tuple[Peer, int]] = []
    for _ in range(8):
        peer = await connect(transport)
        stream = peer.call(path)
        await peer.send_all(stream, framed(bytes(16 * MIB))[:MIB])
        calls.append((peer, stream))
        assert transport.statistics().held_bytes <= 4 * MIB
    ends: list[tuple[int, str]] = []
    for peer, stream in calls:
        await peer.end(peer.call(ECHO, framed(b"x")))
        if peer.ended(stream):
            ends.append(await peer.end(stream))
    assert set(ends) == {(8, "the server holds as many bytes of messages that come in as it may")}
    assert 4 <= len(ends) <= 6
    for peer, _ in calls:
        await peer.close()
    await no_connections(transport)
    assert transport.statistics().held_bytes == 0


@pytest.mark.parametrize("path", [CALL, STREAM])
async def test_a_call_that_ends_holds_nothing(serve: Serve, connect: Connect, path: str) -> None:
    """While its connection goes on."""
    limits = dataclasses.replace(QUICK, stream_window=65_535)
    transport = await serve({CALL: Slow().unary, STREAM: Conversations().stream}, limits)
    peer = await connect(transport)
    stream = peer.call(path)
    await peer.send_all(stream, framed(bytes(2 * MIB))[:MIB])
    other = await connect(transport)
    while transport.statistics().held_bytes < MIB - 65_535:
        assert (await other.end(other.call("/no/such", b"")))[0] == 12
    peer.h2.reset_stream(stream)
    peer.flush()
    while transport.statistics().held_bytes:
        assert (await other.end(other.call("/no/such", b"")))[0] == 12
    assert transport.statistics().connections == 2


async def test_who_holds_most_goes_first(serve: Serve, connect: Connect) -> None:
    """Answers that nobody reads are held too. Its neighbours stay."""

    def pour(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
        reply([bytes(MIB)])
        return nothing_to_cancel

    transport = await serve({CALL: Unary(pour), ECHO: Unary(echo)}, max_held_bytes=8 * MIB)
    neighbour = await connect(transport)
    greedy = await connect(transport, window=65_535)
    for _ in range(20):
        greedy.call(CALL, framed(b"x"))
    await greedy.writer.drain()
    while not transport.statistics().connections_shed:
        assert await neighbour.end(neighbour.call(ECHO, framed(b"x"))) == (0, "")
    await greedy.closed()
    assert greedy.goaway() == (ErrorCode.ENHANCE_YOUR_CALM, "the server holds too much for this connection")
    assert await neighbour.end(neighbour.call(ECHO, framed(b"x"))) == (0, "")


async def test_what_a_handler_holds_is_bounded(serve: Serve, connect: Connect) -> None:
    """By the stream's window, whether messages are many or large."""
    conversations = Conversations()
    transport = await serve({STREAM: conversations.stream})
    peer = await connect(transport)
    stream = peer.call(STREAM)
    sending = asyncio.ensure_future(peer.send_all(stream, framed(bytes(100_000)) * 100))
    conversation = await conversations.first()
    await conversation.news.has("message", 10)
    conversation.on_each = lambda message: conversation.sink.consumed()
    assert transport.statistics().held_bytes <= 2 * MIB
    conversation.sink.consumed(10)
    await conversation.news.has("message", 100)
    await sending


async def test_connections_leave_nothing_behind(serve: Serve, connect: Connect) -> None:
    """Not even a deadline that is hours away."""
    slow = Slow()
    transport = await serve({CALL: slow.unary})
    for number in range(100):
        peer = await connect(transport)
        peer.call(CALL, framed(b"x"), (("grpc-timeout", "9H"),))
        await slow.news.has("call", number + 1)
        await peer.close()
    await no_connections(transport)
    slow.replies.clear()
    gc.collect()
    drivers = [each for each in gc.get_objects() if isinstance(each, Driver)]
    assert len(drivers) <= 80


# ── the end ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_drain_is_told_twice(serve: Serve, connect: Connect) -> None:
    """First with the highest stream, so that what is on its way is served; then with the last that is."""
    slow = Slow()
    transport = await serve({CALL: slow.unary}, dataclasses.replace(QUICK, goaway=60.0, linger=60.0))
    peer = await connect(transport)
    first = peer.call(CALL, framed(b"1"))
    await slow.news.has("call")
    stopping = asyncio.ensure_future(transport.stop(120))
    while b"draining" not in peer.waiting:  # noqa: ASYNC110 - reading would answer
        await asyncio.sleep(0)
    on_its_way = peer.call(CALL, framed(b"2"))
    await slow.news.has("call", 2)
    await peer.until(lambda: [e for e in peer.events if type(e).__name__ == "ConnectionTerminated"][1:])
    last = [e.last_stream_id for e in peer.events if type(e).__name__ == "ConnectionTerminated"]
    assert last == [2**31 - 1, on_its_way]
    for reply, message in zip(slow.replies, slow.messages, strict=True):
        reply([message])
    assert await peer.end(first) == await peer.end(on_its_way) == (0, "")
    await peer.closed()
    await stopping


async def test_a_peer_that_does_not_hear_of_the_drain(serve: Serve, connect: Connect) -> None:
    """Has as much time as the others, and no more calls."""
    slow = Slow()
    transport = await serve({CALL: slow.unary}, dataclasses.replace(QUICK, goaway=0.05))
    peer = await connect(transport)
    peer.call(CALL, framed(b"1"))
    await slow.news.has("call")
    began = time.monotonic()
    await transport.stop(0.3)
    assert time.monotonic() >= began + 0.3
    assert slow.news.events[-1] == "cancel 0"


async def test_an_idle_peer_does_not_hold_up_the_end(serve: Serve, connect: Connect) -> None:
    """Whether it closes its side or not."""
    transport = await serve({ECHO: Unary(echo)}, dataclasses.replace(QUICK, goaway=0.05, linger=0.05))
    peer = await connect(transport)
    await asyncio.wait_for(transport.stop(3600), 60)
    await peer.closed()


async def test_the_last_answer_is_not_lost(serve: Serve, connect: Connect) -> None:
    """A client that still sends while the server closes reads its answer all the same."""
    transport = await serve({ECHO: Unary(echo)}, dataclasses.replace(QUICK, goaway=60.0, linger=60.0))
    peer = await connect(transport)
    message = bytes(500_000)
    stream = peer.call(ECHO)
    await peer.send_all(stream, framed(message), end=True)
    stopping = asyncio.ensure_future(transport.stop(120))
    assert await peer.end(stream) == (0, "")
    assert peer.body(stream) == framed(message)
    await peer.closed()
    await stopping


# ── small things ──────────────────────────────────────────────────────────────────────────────────


async def test_localhost_has_one_port_for_all_its_addresses(serve: Serve) -> None:
    """A client takes the first that it likes."""
    transport = await serve({ECHO: Unary(echo)}, host="localhost")
    port = _PORTS[transport]
    for family, *_, address in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM):
        _, writer = await asyncio.open_connection(str(address[0]), port, family=family)
        writer.close()


async def test_tls_without_h2(serve: Serve, tmp_path: Path) -> None:
    """A TLS client that has not agreed to speak HTTP/2 is not spoken to; nor is one with an old TLS."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    transport = await serve({ECHO: Unary(echo)}, tls=TlsSettings(certificate, key))

    def context() -> ssl.SSLContext:
        made = ssl.create_default_context()
        authority.configure_trust(made)
        return made

    good = context()
    good.set_alpn_protocols(["h2"])
    peer = await Peer.to(_PORTS[transport], ssl=good, server_hostname="localhost")
    assert await peer.end(peer.call(ECHO, framed(b"x"))) == (0, "")
    await peer.close()
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await _nothing_said(_PORTS[transport], context())
    old = context()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await _nothing_said(_PORTS[transport], old)


async def _nothing_said(port: int, context: ssl.SSLContext) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    try:
        if not await reader.read():
            raise ConnectionError
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (("127.0.0.1", 5), "ipv4:127.0.0.1:5"),
        (("::1", 5, 0, 0), "ipv6:%5B::1%5D:5"),
        (("fe80::1%eth0", 5, 0, 2), "ipv6:%5Bfe80::1%25eth0%5D:5"),
        (None, ""),
        ("/some/socket", ""),
    ],
)
def test_peers_are_named_as_grpc_names_them(address: object, name: str) -> None:
    """Logs and limits that know one form need not learn another."""
    assert peer_name(address) == name


@given(st.floats(0, 1e9))
def test_a_head_with_a_deadline(deadline: float) -> None:
    """Is the head, and nothing else changed."""
    head = RequestHead("/a/b", (("k", "v"),), inf, "ipv4:1.2.3.4:5")
    assert dataclasses.astuple(with_deadline(head, deadline)) == ("/a/b", (("k", "v"),), deadline, "ipv4:1.2.3.4:5")
    assert head.deadline == inf
