"""Calls that do not become whole, and what failed calls leave behind."""

import asyncio
import gc
import struct
import tracemalloc

import grpc
import pytest
from grpc import aio

from penstock_server.errors import Failure
from penstock_server.service.seam import Buffer, Cancel, Reply, RequestHead, Unary, nothing_to_cancel
from penstock_server.status import Status
from penstock_server.transports.base import TransportSettings
from penstock_server.transports.grpcio import GrpcioTransport
from tests.server.transports.test_hostile_path import END_STREAM, HEADERS, call_with_path

CALL = "/test/Call"


def _refuse(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
    reply(Failure(Status.INVALID_ARGUMENT, "no"))
    return nothing_to_cancel


@pytest.mark.parametrize("body", [b"", b"\0\0\0", b"\0\0\0\0\x05abc"], ids=["nothing", "a cut prefix", "a cut message"])
async def test_a_call_that_ends_without_a_whole_message_is_answered(body: bytes) -> None:
    """grpc.aio itself would never answer it, and the client would wait for its deadline."""
    transport = GrpcioTransport({CALL: Unary(_refuse)}, TransportSettings(port=0))
    port = await transport.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(call_with_path(CALL.encode(), body))
        async with asyncio.timeout(60):
            while True:
                length, kind, flags, stream = struct.unpack(">IBBI", b"\0" + await reader.readexactly(9))
                await reader.readexactly(length)
                if stream == 1 and kind == HEADERS and flags & END_STREAM:
                    break  # the status
        assert transport.statistics().calls_in_flight == 0
    finally:
        writer.close()
        await transport.stop(0)


async def test_failed_calls_keep_nothing_of_their_messages() -> None:
    """Not until the garbage collector comes by either: an exception's traceback keeps what its frames name."""
    transport = GrpcioTransport({CALL: Unary(_refuse)}, TransportSettings(port=0))
    port = await transport.start()
    size = 4 << 20
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CALL)
            message = bytes(size)
            for _ in range(10):
                with pytest.raises(aio.AioRpcError) as failure:
                    await call(message, timeout=60)
                assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                del failure
            held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
        await transport.stop(0)
    assert held < 4 * size
