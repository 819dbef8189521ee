"""Methods of the seam for a transport to serve: they do what the test says, and note what they are told."""

import asyncio
from collections.abc import Callable

from penstock_server.errors import Failure
from penstock_server.service.seam import (
    Buffer,
    Cancel,
    Parts,
    Reply,
    RequestHead,
    Stream,
    StreamSink,
    Unary,
    nothing_to_cancel,
)


class News:
    """A list that can be waited for."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._came = asyncio.Event()

    def add(self, event: str) -> None:
        self.events.append(event)
        self._came.set()

    async def has(self, event: str, times: int = 1) -> None:
        """Wait until an event has come so many times."""
        while self.events.count(event) < times:
            self._came.clear()
            await self._came.wait()


def echo(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
    """Answers before it returns."""
    reply([message])
    return nothing_to_cancel


def failing(failure: Failure) -> Unary:
    """Always ends like this."""

    def call(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
        reply(failure)
        return nothing_to_cancel

    return Unary(call)


class Slow:
    """A unary method whose calls wait until the test replies."""

    def __init__(self) -> None:
        self.news = News()
        self.heads: list[RequestHead] = []
        self.messages: list[bytes] = []
        self.replies: list[Reply] = []
        self.unary = Unary(self.call)

    def call(self, head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
        number = len(self.replies)
        self.heads.append(head)
        self.messages.append(bytes(message))
        self.replies.append(reply)
        self.news.add("call")
        return lambda: self.news.add(f"cancel {number}")


class Conversation:
    """The handler of one stream: does what it is told to do, and notes all that it hears."""

    def __init__(self, head: RequestHead, sink: StreamSink, news: News) -> None:
        self.head = head
        self.sink = sink
        self.news = news
        self.messages: list[bytes] = []
        self.on_each: Callable[[bytes], None] = lambda message: None
        self.on_room: Callable[[], None] = lambda: None

    def on_message(self, message: Buffer) -> None:
        self.messages.append(bytes(message))
        self.news.add("message")
        self.on_each(bytes(message))

    def on_end(self) -> None:
        self.news.add("end")

    def on_cancel(self) -> None:
        self.news.add("cancel")

    def on_writable(self) -> None:
        self.news.add("writable")
        self.on_room()


class Conversations:
    """A streaming method. `each` is told of every stream as it is opened."""

    def __init__(self, each: Callable[[Conversation], None] = lambda conversation: None) -> None:
        self.news = News()
        self.open: list[Conversation] = []
        self._each = each
        self.stream = Stream(self.call)

    def call(self, head: RequestHead, sink: StreamSink) -> Conversation:
        conversation = Conversation(head, sink, News())
        self.open.append(conversation)
        self._each(conversation)
        self.news.add("open")
        return conversation

    async def first(self) -> Conversation:
        await self.news.has("open")
        return self.open[0]


def echoing(conversation: Conversation) -> None:
    """Sends each message back, and ends when the client does. Takes the sink's word for how much room there is."""
    waiting: list[bytes] = []
    ended = [False]
    room = [True]

    def go_on() -> None:
        while room[0] and waiting:
            room[0] = conversation.sink.send([waiting.pop(0)])
            conversation.sink.consumed()
        if ended[0] and not waiting:
            conversation.sink.finish()

    def hear(message: bytes) -> None:
        waiting.append(message)
        go_on()

    def end() -> None:
        ended[0] = True
        conversation.news.add("end")
        go_on()

    def have_room() -> None:
        room[0] = True
        go_on()

    conversation.on_each = hear
    conversation.on_room = have_room
    conversation.on_end = end  # type: ignore[method-assign]


def parts_of(message: bytes) -> Parts:
    """A message in pieces of several kinds."""
    return [message[:1], memoryview(message)[1:3], b"", memoryview(message)[3:]]
