"""One peer's bytes must not end the server for the others."""

import socket
import struct

import grpc
from grpc import aio
from hpack import Encoder

from penstock_server.service.seam import Buffer, Cancel, Reply, RequestHead, Unary, nothing_to_cancel
from penstock_server.transports.base import TransportSettings
from penstock_server.transports.grpcio import GrpcioTransport

DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def call_with_path(path: bytes, body: bytes = bytes(5)) -> bytes:
    """A whole connection's bytes: preface, settings and one call, by default with an empty message."""
    head = Encoder().encode(
        [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        ]
    )
    return b"".join(
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            _frame(SETTINGS, 0, 0, b""),
            _frame(HEADERS, END_HEADERS, 1, head),
            _frame(DATA, END_STREAM, 1, body),
        )
    )


def _echo(head: RequestHead, message: Buffer, reply: Reply) -> Cancel:
    reply([message])
    return nothing_to_cancel


async def test_a_path_that_is_no_text_does_not_end_the_server() -> None:
    """grpc.aio's accept loop dies of it; the transport listens again on the same port, and says so."""
    transport = GrpcioTransport({"/test/Echo": Unary(_echo)}, TransportSettings(port=0))
    port = await transport.start()
    cut_off: set[grpc.StatusCode] = set()
    attacker = socket.create_connection(("127.0.0.1", port))
    try:
        for attacks in (1, 2):
            attacker.sendall(call_with_path(b"/\xff\xfe/\xff"))
            async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                echo: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test/Echo")
                while transport.statistics().restarts < attacks:  # until then the old server may answer
                    try:
                        await echo(b"before", wait_for_ready=True, timeout=60)
                    except aio.AioRpcError as error:  # cut off with the old server
                        cut_off.add(error.code())
                assert await echo(b"neighbour", wait_for_ready=True, timeout=60) == b"neighbour"
            attacker.close()
            attacker = socket.create_connection(("127.0.0.1", port))
    finally:
        attacker.close()
        await transport.stop(0)
    assert cut_off <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
