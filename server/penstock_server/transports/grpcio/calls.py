"""The seam's callbacks as grpc.aio's coroutines: one for a unary call, two for a stream."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeAlias, cast

import grpc
from grpc import aio

from penstock_server.errors import Failure, Trailers, failure_of
from penstock_server.service.seam import Parts, RequestHead, Stream, StreamHandler, Unary
from penstock_server.status import Status
from penstock_server.transports.base import status_message

# In quotes: these classes are generic only in their type stubs.
Context: TypeAlias = "aio.ServicerContext[bytes, bytes]"
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}
"""grpc's codes by number, which is all that our statuses are."""

_RECEIVE_WINDOW = 16
"""Messages that a stream's handler may have that it has not given back."""
_END_SECONDS = 0.005
"""How long an end is doubted. To read after the peer has given up looks like its end, and some ten microseconds later
grpc.aio cancels the call."""
_SEND_WINDOW = 16
"""Messages that may wait to be written before the handler is asked to stop."""


class Calls:
    """The calls in flight: how many there are, and when there are none."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.total = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._readers: set[asyncio.Task[object]] = set()  # of unary calls whose message has not come

    async def reading(self, context: Context) -> object:
        """Read a unary call's message, as somebody who may be sent away until it has come."""
        task = asyncio.current_task()
        assert task is not None
        self._readers.add(task)
        try:
            return await context.read()
        except (aio.UsageError, aio.InternalError):
            raise asyncio.CancelledError from None  # the peer is gone
        finally:
            self._readers.discard(task)

    def send_readers_away(self) -> None:
        """End the unary calls that have not asked anything yet."""
        for task in self._readers:
            task.cancel()

    def began(self) -> None:
        self.in_flight += 1
        self.total += 1
        self._idle.clear()

    def ended(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until no call is in flight."""
        await self._idle.wait()


def _head(method: str, context: Context) -> RequestHead:
    # None without a deadline, whatever its type says.
    remaining = cast("float | None", context.time_remaining())
    return RequestHead(
        method=method,
        metadata=tuple(context.invocation_metadata() or ()),
        deadline=inf if remaining is None else time.monotonic() + remaining,
        peer=context.peer(),
    )


async def _abort(context: Context, failure: Failure, trailers: Trailers = ()) -> None:
    # Abort works by raising; no `try` around it may catch that.
    code, message = _STATUS_CODES[failure.status], status_message(failure.message)
    try:
        await context.abort(code, message, failure.trailers + trailers)
    except aio.InternalError:
        # The call has ended meanwhile, by its deadline say: there is nobody to tell, and nothing to log.
        raise asyncio.CancelledError from None


def unary_handler(method: Unary, path: str, calls: Calls) -> Handler:
    """A unary method for grpc.aio.

    To grpc.aio it takes a stream of requests, of which it reads one: of a unary call that ends without a whole
    message the library would never tell anybody, and the client would wait for its deadline.
    """

    async def handle(_: object, context: Context) -> bytes:
        calls.began()
        try:
            outcome, trailers = await _read_and_call(method, path, context, calls)
        finally:
            calls.ended()
        if isinstance(outcome, Failure):
            # Abort raises, and what this frame names lives as long as the traceback: no message is among it.
            await _abort(context, outcome, trailers)
            raise AssertionError("abort raises")
        if trailers:
            context.set_trailing_metadata(trailers)
        return b"".join(outcome)

    return grpc.stream_unary_rpc_method_handler(handle)


async def _read_and_call(method: Unary, path: str, context: Context, calls: Calls) -> tuple[Parts | Failure, Trailers]:
    message: object = await calls.reading(context)
    if message is aio.EOF:
        return Failure(Status.INTERNAL, "the call ended before a whole message had come"), ()
    answered: asyncio.Future[tuple[Parts | Failure, Trailers]] = asyncio.get_running_loop().create_future()

    def reply(outcome: Parts | Failure, trailers: Trailers = (), /) -> None:
        if not answered.done():  # it is when the client has gone
            answered.set_result((outcome, trailers))

    try:
        cancel = method.call(_head(path, context), cast("bytes", message), reply)
    except (Exception, asyncio.CancelledError) as error:
        # Methods do not raise. If one does, the client must not see it; and with a CancelledError that
        # escapes from here it would wait for ever.
        return failure_of(error, during=path), ()
    del message  # the method has it; a cancelled call's traceback must not keep it
    try:
        return await answered
    except asyncio.CancelledError:  # the client has gone, or its deadline has passed
        cancel()
        raise


def stream_handler(method: Stream, path: str, calls: Calls) -> Handler:
    """A method with streams for grpc.aio, whichever sides stream: on the wire they look the same."""

    async def handle(_: object, context: Context) -> None:
        calls.began()
        try:
            failure = await _StreamCall(method, path, context).run()
        finally:
            calls.ended()
        if failure is not None:
            await _abort(context, failure)

    return grpc.stream_stream_rpc_method_handler(handle)


class _StreamCall:
    """One call: the sink of its handler, a coroutine that writes and a task that reads."""

    def __init__(self, method: Stream, path: str, context: Context) -> None:
        self._method = method
        self._path = path
        self._context = context
        self._handler: StreamHandler | None = None
        self._outgoing: deque[bytes] = deque()
        self._wake_writer = asyncio.Event()
        self._credit = asyncio.Semaphore(_RECEIVE_WINDOW)
        self._stopped_handler = False  # it was told to wait for on_writable
        self._finished = False
        self._failure: Failure | None = None

    # The sink.

    def send(self, parts: Parts) -> bool:
        if not self._finished:
            self._outgoing.append(b"".join(parts))
            self._wake_writer.set()
        self._stopped_handler = len(self._outgoing) >= _SEND_WINDOW
        return not self._stopped_handler

    def consumed(self, messages: int = 1) -> None:
        for _ in range(messages):
            self._credit.release()

    def finish(self, failure: Failure | None = None) -> None:
        if not self._finished:
            self._finished = True
            self._failure = failure
            self._wake_writer.set()

    # The coroutines.

    async def run(self) -> Failure | None:
        """Serve the call to its end. Returns what it failed with."""
        try:
            self._handler = self._method.open(_head(self._path, self._context), self)
        except (Exception, asyncio.CancelledError) as error:
            return failure_of(error, during=self._path)
        reader = asyncio.ensure_future(self._guarded(self._read))
        try:
            await self._guarded(self._write)
        finally:
            reader.cancel()
            if not self._finished:
                self._finished = True
                self._tell(self._handler.on_cancel)
        return self._failure

    def _tell(self, what: Callable[..., None], *about: bytes) -> None:
        """Call the handler. As methods, handlers do not raise; what one raises all the same ends the stream."""
        try:
            what(*about)
        except (Exception, asyncio.CancelledError) as error:
            self.finish(failure_of(error, during=self._path))

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        # Not a coroutine, which would never be awaited in a task that is cancelled before it has begun.
        try:
            await work()
        except (aio.UsageError, aio.InternalError):
            # The peer is gone: reads and writes fail in these ways, and the handler hears of it in `run`.
            self._wake_writer.set()
        except Exception as error:
            self.finish(failure_of(error, during=self._path))

    async def _read(self) -> None:
        assert self._handler is not None
        while not self._finished:
            await self._credit.acquire()
            message: object = await self._context.read()
            if self._finished:
                return
            if message is aio.EOF:
                await asyncio.sleep(_END_SECONDS)  # this task is cancelled meanwhile if it was none
                if not self._finished:
                    self._tell(self._handler.on_end)
                return
            assert isinstance(message, bytes)
            self._tell(self._handler.on_message, message)

    async def _write(self) -> None:
        assert self._handler is not None
        while True:
            while self._outgoing:
                await self._context.write(self._outgoing.popleft())
                if self._stopped_handler and not self._outgoing and not self._finished:
                    self._stopped_handler = False
                    self._tell(self._handler.on_writable)
            if self._finished:
                return
            self._wake_writer.clear()
            await self._wake_writer.wait()
