"""What every transport must do, seen by gRPC's own client over a real socket.

The methods behind it are made of nothing but the seam. A transport takes part by its line in `TRANSPORTS`.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from math import inf

import grpc
import pytest
from grpc import aio

from penstock_server.errors import BindError, Failure
from penstock_server.service.seam import (
    Buffer,
    Cancel,
    Reply,
    RequestHead,
    Stream,
    StreamHandler,
    StreamSink,
    Unary,
    nothing_to_cancel,
)
from penstock_server.status import Status
from penstock_server.transports.base import TransportSettings
from tests.server.transports.conftest import TRANSPORTS, MakeTransport, Serve, Served, StreamCall, UnaryCall, channel_to
from tests.server.transports.methods import Conversation, Conversations, Slow, echo, echoing, failing, parts_of

ECHO, CALL = "/test.Test/Echo", "/test.Test/Call"
KIB = 1024


async def error_of(call: "aio.UnaryUnaryCall[bytes, bytes]") -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


async def outcome_of(call: "aio.StreamStreamCall[bytes, bytes]") -> tuple[grpc.StatusCode, str]:
    """How a stream ended, once it has."""
    code = await call.code()
    details: object = await call.details()
    return code, str(details or "")


async def sends(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def received(call: "aio.StreamStreamCall[bytes, bytes]") -> list[bytes]:
    return [message async for message in call]


# ── unary calls ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [0, 1, 5, 100 * KIB, 3000 * KIB])
async def test_messages_of_any_size(serve: Serve, size: int) -> None:
    """There and back, byte by byte; also more than gRPC's own default of 4 MiB for what a client may receive."""
    served = await serve({ECHO: Unary(echo)})
    message = bytes(range(256)) * (size // 256 + 1)
    assert await served.unary(ECHO)(message[:size]) == message[:size]


async def test_a_message_in_pieces_is_one_message(serve: Serve) -> None:
    """Bytes and views, empty ones too."""

    def call(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
        reply(parts_of(bytes(message)))
        return nothing_to_cancel

    served = await serve({CALL: Unary(call)})
    for message in (b"abcdef", b"a", b""):
        assert await served.unary(CALL)(message) == message


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK], ids=lambda s: s.name)
async def test_every_status(serve: Serve, status: Status) -> None:
    """Its number is what counts."""
    served = await serve({CALL: failing(Failure(status, "in words"))})
    error = await error_of(served.unary(CALL)(b""))
    assert (error.code().value[0], error.details()) == (status, "in words")


@pytest.mark.parametrize(
    "message",
    ["", "with\nnew\r\nlines", "ünïcödé € 😀", "100 % of %41", "\0\x1f\x7f", " blanks ", "x" * 4096, "€" * 455],
)
async def test_messages_of_a_failure(serve: Serve, message: str) -> None:
    """Any text arrives as it is."""
    served = await serve({CALL: failing(Failure(Status.NOT_FOUND, message))})
    error = await error_of(served.unary(CALL)(b""))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, message)


@pytest.mark.parametrize(
    "message", ["x" * 4097, "x" * 100_000, "€" * 456, "%" * 5000, "😀" * 100_000], ids=lambda m: m[:1]
)
async def test_a_long_message_is_cut(serve: Serve, message: str) -> None:
    """In full it would exceed what clients accept as headers, and the status would be lost with it."""
    served = await serve({CALL: failing(Failure(Status.NOT_FOUND, message))})
    error = await error_of(served.unary(CALL)(b""))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    details = error.details() or ""
    assert details.endswith("...")
    assert message.startswith(details[:-3])
    assert len(details) > 300


async def test_half_characters_do_not_hang_the_client(serve: Serve) -> None:
    """Nothing that a model can say keeps its answer from being sent."""
    served = await serve({CALL: failing(Failure(Status.ABORTED, "half \ud800 a character"))})
    error = await error_of(served.unary(CALL)(b"", timeout=60))
    assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "half ? a character")


async def test_trailers(serve: Serve) -> None:
    """With a failure and with an answer; text, or bytes under a key that says so."""

    def call(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
        reply([message], (("took", "7"), ("took", "8"), ("raw-bin", b"\0\xff")))
        return nothing_to_cancel

    trailers = (("grpc-retry-pushback-ms", "250"), ("raw-bin", b"\xff\0"))
    failure = Failure(Status.RESOURCE_EXHAUSTED, "full", trailers)
    served = await serve({CALL: Unary(call), ECHO: failing(failure)})
    answer = served.unary(CALL)(b"x")
    assert await answer == b"x"
    came = [pair for pair in await answer.trailing_metadata() or () if pair[0] in ("took", "raw-bin")]
    assert came == [("took", "7"), ("took", "8"), ("raw-bin", b"\0\xff")]
    error = await error_of(served.unary(ECHO)(b""))
    assert dict(error.trailing_metadata() or ()).items() >= dict(trailers).items()


async def test_what_a_method_is_told_of_its_call(serve: Serve) -> None:
    """Its path, its peer, the metadata with binary values as bytes, and no deadline if there is none."""
    slow = Slow()
    served = await serve({CALL: slow.unary})
    metadata = (("plain", "a b"), ("twice", "1"), ("twice", "2"), ("raw-bin", b"\0\xff"))
    call = served.unary(CALL)(b"x", metadata=metadata)
    await slow.news.has("call")
    (head,) = slow.heads
    assert head.method == CALL
    assert head.deadline == inf
    assert "127.0.0.1" in head.peer or "::1" in head.peer
    assert [pair for pair in head.metadata if pair[0] in ("plain", "twice", "raw-bin")] == list(metadata)
    slow.replies[0]([b"y"])
    assert await call == b"y"


async def test_a_deadline_is_told_on_the_monotonic_clock(serve: Serve) -> None:
    """As a time, not as a duration: it does not matter when the method looks."""
    slow = Slow()
    served = await serve({CALL: slow.unary})
    before = time.monotonic()
    call = served.unary(CALL)(b"", timeout=60)
    await slow.news.has("call")
    # On its way it is rounded up, by less than a hundredth.
    assert before + 59 < slow.heads[0].deadline < time.monotonic() + 61
    slow.replies[0]([b""])
    await call


async def test_a_deadline_that_passes_ends_the_call_on_both_sides(serve: Serve) -> None:
    """The client gives up, the method is told, and what it replies afterwards goes nowhere."""
    slow = Slow()
    served = await serve({CALL: slow.unary, ECHO: Unary(echo)})
    patience = 0.05
    while not slow.heads:  # until one came as far as the method
        error = await error_of(served.unary(CALL)(b"", timeout=patience))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        patience *= 3
    await slow.news.has("cancel 0")
    slow.replies[0]([b"too late"])
    assert await served.unary(ECHO)(b"x") == b"x"


async def test_a_client_that_cancels_is_heard(serve: Serve) -> None:
    """Only that call of its connection; the others go on."""
    slow = Slow()
    served = await serve({CALL: slow.unary})
    calls = []
    for number in range(3):
        calls.append(asyncio.ensure_future(_collect(served.unary(CALL)(b"%d" % number))))
        await slow.news.has("call", number + 1)
    calls[1].cancel()
    await slow.news.has("cancel 1")
    slow.replies[1](Failure(Status.INTERNAL, "nobody hears this"))
    for number in (0, 2):
        slow.replies[number]([slow.messages[number]])
        assert await calls[number] == b"%d" % number
    assert slow.news.events.count("cancel 0") == slow.news.events.count("cancel 2") == 0


async def _collect(call: "aio.UnaryUnaryCall[bytes, bytes]") -> bytes:
    return await call


async def test_a_client_that_is_gone_is_heard(serve: Serve) -> None:
    """All its calls are cancelled, and nobody else's."""
    slow = Slow()
    served = await serve({CALL: slow.unary})
    other = channel_to(served.port)
    call: aio.UnaryUnaryMultiCallable[bytes, bytes] = other.unary_unary(CALL)
    lost = [asyncio.ensure_future(_collect(call(b""))) for _ in range(2)]
    await slow.news.has("call", 2)
    stays = asyncio.ensure_future(_collect(served.unary(CALL)(b"")))
    await slow.news.has("call", 3)
    await other.close()
    await slow.news.has("cancel 0")
    await slow.news.has("cancel 1")
    await asyncio.gather(*lost, return_exceptions=True)
    slow.replies[2]([b"here"])
    assert await stays == b"here"


async def test_many_calls_at_once(serve: Serve) -> None:
    """Answered in any order, each to its own caller."""
    slow = Slow()
    served = await serve({CALL: slow.unary})
    calls = [asyncio.ensure_future(_collect(served.unary(CALL)(b"%d" % number))) for number in range(100)]
    await slow.news.has("call", 100)
    assert served.transport.statistics().calls_in_flight == 100
    for message, reply in reversed(list(zip(slow.messages, slow.replies, strict=True))):
        reply([message])
    assert await asyncio.gather(*calls) == [b"%d" % number for number in range(100)]
    assert served.transport.statistics().calls == 100


# ── what must not get through ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/test.Test/Other", "/other.Test/Echo", "/", "/test.Test/Echo/"])
async def test_a_method_that_does_not_exist(serve: Serve, path: str) -> None:
    """UNIMPLEMENTED, whatever the path looks like, as a unary call and as a stream."""
    served = await serve({ECHO: Unary(echo)})
    assert (await error_of(served.unary(path)(b""))).code() is grpc.StatusCode.UNIMPLEMENTED
    assert (await outcome_of(served.stream(path)(sends(b""))))[0] is grpc.StatusCode.UNIMPLEMENTED
    assert await served.unary(ECHO)(b"x") == b"x"


async def test_a_message_over_the_limit(serve: Serve) -> None:
    """Refused before any method sees it, to the byte; the connection goes on."""
    slow = Slow()
    served = await serve({CALL: slow.unary, ECHO: Unary(echo)}, max_message_bytes=1000)
    assert len(await served.unary(ECHO)(bytes(1000))) == 1000
    error = await error_of(served.unary(CALL)(bytes(1001)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert slow.heads == []
    assert await served.unary(ECHO)(b"x") == b"x"


SECRET = "/srv/models/secret.bin"
LEAKS: list[BaseException] = [ValueError(SECRET), asyncio.CancelledError(SECRET), KeyError(SECRET)]


@pytest.mark.parametrize("error", LEAKS, ids=repr)
async def test_what_a_method_raises_stays_in_the_server(
    serve: Serve, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Methods do not raise. If one does, it is neither UNKNOWN nor told, and nobody hangs."""

    def call(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
        raise error

    def open_stream(head: RequestHead, sink: StreamSink) -> StreamHandler:
        raise error

    def fail(*_: object) -> None:
        raise error

    def on_message(conversation: Conversation) -> None:
        conversation.on_each = fail

    def on_end(conversation: Conversation) -> None:
        conversation.on_end = fail  # type: ignore[method-assign]

    def on_writable(conversation: Conversation) -> None:
        conversation.on_room = fail
        while conversation.sink.send([b"more"]):
            pass

    streams = [Stream(open_stream), *(Conversations(each).stream for each in (on_message, on_end, on_writable))]
    served = await serve({"/t/call": Unary(call)} | {f"/t/{number}": each for number, each in enumerate(streams)})
    ends = [(e := await error_of(served.unary("/t/call")(b"", timeout=60))).code(), e.details()]
    for number in range(len(streams)):
        stream = served.stream(f"/t/{number}")(sends(b"x"), timeout=60)
        with contextlib.suppress(aio.AioRpcError):
            await received(stream)
        ends += await outcome_of(stream)
    assert ends[::2] == [grpc.StatusCode.INTERNAL] * 5
    for details in ends[1::2]:
        assert str(details).startswith("internal error (error id ")
    assert caplog.text.count(SECRET) >= 5


async def test_a_handler_that_raises_when_it_is_cancelled(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Has its error in the log; the server goes on."""

    def fail() -> None:
        raise ValueError(SECRET)

    conversations = Conversations(lambda conversation: setattr(conversation, "on_cancel", fail))
    served = await serve({CALL: conversations.stream, ECHO: Unary(echo)})
    call = served.stream(CALL)()
    await call.write(b"1")
    await (await conversations.first()).news.has("message")
    call.cancel()
    while served.transport.statistics().calls_in_flight:
        await served.unary(ECHO)(b"")
    assert SECRET in caplog.text


# ── streams ───────────────────────────────────────────────────────────────────────────────────────


async def test_messages_go_both_ways_in_order(serve: Serve) -> None:
    """Of any size, empty ones too; the client's end is told, and then the server's."""
    conversations = Conversations(echoing)
    served = await serve({CALL: conversations.stream})
    messages = [b"", b"a", bytes(200 * KIB), b"", *(b"%d" % number for number in range(100))]
    call = served.stream(CALL)(sends(*messages))
    assert await received(call) == messages
    assert await outcome_of(call) == (grpc.StatusCode.OK, "")
    assert conversations.open[0].news.events[-1] == "end"
    assert "cancel" not in conversations.open[0].news.events


async def test_a_stream_is_told_of_its_call(serve: Serve) -> None:
    """Before its first message, which may never come."""
    conversations = Conversations()
    served = await serve({CALL: conversations.stream})
    before = time.monotonic()
    call = served.stream(CALL)(metadata=(("k", "v"),), timeout=60)
    await call.wait_for_connection()
    conversation = await conversations.first()
    assert conversation.head.method == CALL
    assert ("k", "v") in conversation.head.metadata
    assert before + 59 < conversation.head.deadline < time.monotonic() + 61
    conversation.sink.finish()
    assert await received(call) == []


async def test_a_server_may_go_on_after_the_client_has_ended(serve: Serve) -> None:
    """A half-closed stream is an open one: this is how a server streams its answer."""
    conversations = Conversations()
    served = await serve({CALL: conversations.stream})
    call = served.stream(CALL)(sends(b"ask"))
    conversation = await conversations.first()
    await conversation.news.has("end")
    for number in range(3):
        assert conversation.sink.send([b"%d" % number, b"!"])
    assert [await call.read() for _ in range(3)] == [b"0!", b"1!", b"2!"]
    conversation.sink.finish()
    assert await call.read() is aio.EOF
    assert await outcome_of(call) == (grpc.StatusCode.OK, "")


async def test_what_was_sent_before_a_failure_arrives(serve: Serve) -> None:
    """First the messages, then the status, with its trailers."""

    def talk(conversation: Conversation) -> None:
        conversation.sink.send([b"one"])
        conversation.sink.send([b"two"])
        conversation.sink.finish(Failure(Status.DATA_LOSS, "ünd\n", (("k", "v"),)))

    served = await serve({CALL: Conversations(talk).stream})
    call = served.stream(CALL)(sends())
    assert [await call.read(), await call.read()] == [b"one", b"two"]
    assert await outcome_of(call) == (grpc.StatusCode.DATA_LOSS, "ünd\n")
    assert dict(await call.trailing_metadata() or ())["k"] == "v"


async def test_a_stream_may_end_while_the_client_still_sends(serve: Serve) -> None:
    """The handler hears nothing more: neither messages, nor an end, nor a cancel."""

    def once(conversation: Conversation) -> None:
        conversation.on_each = lambda message: conversation.sink.finish(Failure(Status.FAILED_PRECONDITION, "enough"))

    conversations = Conversations(once)
    served = await serve({CALL: conversations.stream, ECHO: Unary(echo)})
    call = served.stream(CALL)()
    await call.write(b"1")
    assert await outcome_of(call) == (grpc.StatusCode.FAILED_PRECONDITION, "enough")
    await served.unary(ECHO)(b"")
    assert conversations.open[0].news.events == ["message"]


async def test_a_stream_may_end_before_it_has_begun(serve: Serve) -> None:
    """While it is being opened; the client need not have sent anything."""
    served = await serve({CALL: Conversations(lambda c: c.sink.finish(Failure(Status.UNIMPLEMENTED, "no"))).stream})
    call = served.stream(CALL)()
    assert await outcome_of(call) == (grpc.StatusCode.UNIMPLEMENTED, "no")


async def silent_after_cancel(served: Served, conversation: Conversation) -> None:
    """The handler has heard of the cancel, once, and nothing comes after it."""
    await conversation.news.has("cancel")
    conversation.sink.send([b"nobody reads this"])
    conversation.sink.consumed()
    conversation.sink.finish()
    await served.unary(ECHO)(b"")
    assert conversation.news.events[-1] == "cancel"
    assert conversation.news.events.count("cancel") == 1


async def test_a_client_that_cancels_its_stream_is_heard(serve: Serve) -> None:
    """It has not come to its end. Whatever the handler then still says goes nowhere."""
    conversations = Conversations()
    served = await serve({CALL: conversations.stream, ECHO: Unary(echo)})
    for number in range(10):
        call = served.stream(CALL)()
        await call.write(b"1")
        await conversations.news.has("open", number + 1)
        conversation = conversations.open[number]
        await conversation.news.has("message")
        call.cancel()
        await silent_after_cancel(served, conversation)
        assert conversation.news.events == ["message", "cancel"]


async def test_a_client_that_cancels_its_stream_after_its_end_is_heard(serve: Serve) -> None:
    """First of the end, then of the rest."""
    conversations = Conversations()
    served = await serve({CALL: conversations.stream, ECHO: Unary(echo)})
    call = served.stream(CALL)(sends(b"1"))
    conversation = await conversations.first()
    await conversation.news.has("end")
    call.cancel()
    await silent_after_cancel(served, conversation)
    assert conversation.news.events == ["message", "end", "cancel"]


async def test_a_stream_whose_deadline_passes(serve: Serve) -> None:
    """Ends on both sides."""
    conversations = Conversations()
    served = await serve({CALL: conversations.stream, ECHO: Unary(echo)})
    patience = 0.1
    while not conversations.open:  # until one came as far as the handler
        call = served.stream(CALL)(sends(b"1"), timeout=patience)
        assert (await outcome_of(call))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        patience *= 3
    await silent_after_cancel(served, await conversations.first())


async def test_a_client_that_is_gone_ends_its_streams(serve: Serve) -> None:
    """Also those on which nothing is under way."""
    conversations = Conversations()
    served = await serve({CALL: conversations.stream, ECHO: Unary(echo)})
    other = channel_to(served.port)
    call: StreamCall = other.stream_stream(CALL)
    stream = call()
    await stream.write(b"1")
    conversation = await conversations.first()
    await conversation.news.has("message")
    await other.close()
    await silent_after_cancel(served, conversation)
    assert conversation.news.events == ["message", "cancel"]


async def test_a_stream_with_a_message_over_the_limit(serve: Serve) -> None:
    """Its handler does not see it; it hears that the stream is over."""
    conversations = Conversations()
    served = await serve({CALL: conversations.stream}, max_message_bytes=1000)
    call = served.stream(CALL)(sends(b"1", bytes(1001), b"3"))
    assert (await outcome_of(call))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    conversation = await conversations.first()
    await conversation.news.has("cancel")
    assert conversation.messages in ([], [b"1"])


# ── back-pressure ─────────────────────────────────────────────────────────────────────────────────


async def test_a_slow_reader_stops_the_handler(serve: Serve) -> None:
    """`send` says when to stop, `on_writable` when to go on; nothing is lost, and little is held meanwhile."""
    total, size = 600, 32 * KIB
    sent = [0]

    def pour(conversation: Conversation) -> None:
        def go_on() -> None:
            while sent[0] < total:
                sent[0] += 1
                if not conversation.sink.send([b"%6d" % sent[0], bytes(size - 6)]):
                    return
            conversation.sink.finish()

        conversation.on_room = go_on
        conversation.on_each = lambda message: go_on()

    conversations = Conversations(pour)
    served = await serve({CALL: conversations.stream, ECHO: Unary(echo)})
    call = served.stream(CALL)()
    await call.write(b"go")
    conversation = await conversations.first()
    await conversation.news.has("message")
    other = channel_to(served.port)
    neighbour: aio.UnaryUnaryMultiCallable[bytes, bytes] = other.unary_unary(ECHO)
    for _ in range(30):
        await neighbour(b"")
    await other.close()
    assert sent[0] < total / 2, "the client has read nothing"
    numbers = [int(message[:6]) async for message in call]
    assert numbers == list(range(1, total + 1))
    assert "writable" in conversation.news.events


async def test_a_slow_handler_stops_its_client(serve: Serve) -> None:
    """No more messages come than it has given back room for, and all come in the end."""
    total = 300
    conversations = Conversations()
    served = await serve({CALL: conversations.stream, ECHO: Unary(echo)})
    call = served.stream(CALL)(sends(*(b"%d" % number for number in range(total))))
    conversation = await conversations.first()
    await conversation.news.has("message")

    async def settled() -> int:
        """How many messages have come when no more do: many calls on the same connection have passed them."""
        seen = -1
        while seen < len(conversation.messages):
            seen = len(conversation.messages)
            for _ in range(20):
                await served.unary(ECHO)(b"")
        return seen

    window = await settled()
    assert 0 < window < total / 2
    conversation.sink.consumed(5)
    await conversation.news.has("message", window + 5)
    assert await settled() == window + 5
    conversation.on_each = lambda message: conversation.sink.consumed()
    conversation.sink.consumed(window)
    await conversation.news.has("end")
    assert conversation.messages == [b"%d" % number for number in range(total)]
    conversation.sink.finish()
    assert await outcome_of(call) == (grpc.StatusCode.OK, "")


# ── listening, and the end of it ──────────────────────────────────────────────────────────────────


async def test_a_running_call_is_answered_before_stop_returns(serve: Serve) -> None:
    """And a new one is refused: by its method while the transport becomes quiet, by the transport after that."""
    slow = Slow()

    def refuse(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
        reply(Failure(Status.UNAVAILABLE, "exiting"))
        return nothing_to_cancel

    served = await serve({CALL: slow.unary, "/t/refused": Unary(refuse)})
    call = asyncio.ensure_future(_collect(served.unary(CALL)(b"x")))
    await slow.news.has("call")
    stopping = asyncio.ensure_future(served.transport.stop(30))
    refused = channel_to(served.port)
    late: aio.UnaryUnaryMultiCallable[bytes, bytes] = refused.unary_unary("/t/refused")
    assert (await error_of(late(b""))).code() is grpc.StatusCode.UNAVAILABLE
    await refused.close()
    assert not stopping.done()
    slow.replies[0]([b"y"])
    assert await call == b"y"
    await stopping
    assert len(slow.heads) == 1
    assert "cancel 0" not in slow.news.events


@pytest.mark.parametrize("grace", [0.0, 0.05])
async def test_what_takes_longer_is_cut_off(serve: Serve, grace: float) -> None:
    """When stop returns, every method and every handler has been told, and every client has an answer."""
    slow, conversations = Slow(), Conversations()
    served = await serve({CALL: slow.unary, "/t/stream": conversations.stream})
    call = served.unary(CALL)(b"x")
    stream = served.stream("/t/stream")(sends(b"1"))
    await slow.news.has("call")
    conversation = await conversations.first()
    await conversation.news.has("end")  # grpc.aio's client reports a call that ends while it sends as INTERNAL
    await served.transport.stop(grace)
    assert "cancel 0" in slow.news.events
    assert "cancel" in conversation.news.events
    assert served.transport.statistics().calls_in_flight == 0
    cut_off = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert (await error_of(call)).code() in cut_off
    assert (await outcome_of(stream))[0] in cut_off


async def test_a_stream_may_end_itself_while_the_server_stops(serve: Serve) -> None:
    """It has the same time as everybody."""
    conversations = Conversations(echoing)
    served = await serve({CALL: conversations.stream})
    call = served.stream(CALL)()
    await call.write(b"1")
    assert await call.read() == b"1"
    stopping = asyncio.ensure_future(served.transport.stop(30))
    await call.write(b"2")
    assert await call.read() == b"2"
    await call.done_writing()
    assert await outcome_of(call) == (grpc.StatusCode.OK, "")
    await stopping


async def test_stopping_more_than_once(make_transport: MakeTransport) -> None:
    """Or what was never started: there is nothing to do."""
    transport = make_transport({ECHO: Unary(echo)}, TransportSettings(port=0))
    await transport.stop(1)
    transport = make_transport({ECHO: Unary(echo)}, TransportSettings(port=0))
    await transport.start()
    await transport.stop(1)
    await transport.stop(1)


async def test_a_port_that_is_taken(serve: Serve, make_transport: MakeTransport) -> None:
    """Is an error that says where; two servers never share a port without a word."""
    served = await serve({ECHO: Unary(echo)})
    second = make_transport({}, TransportSettings(port=served.port))
    with pytest.raises(BindError, match=rf"cannot listen on 127\.0\.0\.1:{served.port}"):
        await second.start()
    await second.stop(0)
    assert await served.unary(ECHO)(b"x") == b"x"


async def test_a_port_that_is_shared(serve: Serve, make_transport: MakeTransport) -> None:
    """Only with who wants it shared, too: workers do, and one that ends leaves the port to the others."""
    first = await serve({ECHO: Unary(echo)}, reuse_port=True)
    second = make_transport({ECHO: Unary(echo)}, TransportSettings(port=first.port, reuse_port=True))
    alone = make_transport({}, TransportSettings(port=first.port))
    assert await second.start() == first.port
    with pytest.raises(BindError):
        await alone.start()
    await alone.stop(0)
    await first.transport.stop(0)
    async with channel_to(first.port) as channel:
        call: UnaryCall = channel.unary_unary(ECHO)
        assert await call(b"x") == b"x"
    await second.stop(0)


async def test_an_address_that_is_not_ours(make_transport: MakeTransport) -> None:
    """Likewise."""
    transport = make_transport({}, TransportSettings(host="192.0.2.1", port=0))
    with pytest.raises(BindError, match=r"192\.0\.2\.1"):
        await transport.start()
    await transport.stop(0)


async def test_its_port_can_be_used_again(serve: Serve, make_transport: MakeTransport) -> None:
    """As soon as it has stopped."""
    served = await serve({ECHO: Unary(echo)})
    assert await served.unary(ECHO)(b"x") == b"x"
    await served.transport.stop(0)
    again = make_transport({ECHO: Unary(echo)}, TransportSettings(port=served.port))
    assert await again.start() == served.port
    channel = channel_to(served.port)
    call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ECHO)
    assert await call(b"y") == b"y"
    await channel.close()
    await again.stop(0)


async def test_ipv6(serve: Serve) -> None:
    """An address with colons in it is an address like any other."""
    served = await serve({ECHO: Unary(echo)}, host="::1")
    async with aio.insecure_channel(f"[::1]:{served.port}") as channel:
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ECHO)
        assert await call(b"x") == b"x"


def test_the_suite_has_transports_to_test() -> None:
    """An empty table would make it pass in silence."""
    assert set(TRANSPORTS) == {"grpcio", "wire"}
