"""A server that costs next to nothing: what the generator is held against.

It speaks just enough HTTP/2 to answer `ModelInfer` of a model "stub" (one FP32 input `x` of 4, one output `y` of 4) at
the speed of plain Python: for each DATA frame that ends a stream, prebuilt frames with the request's id in them. All
other calls of the protocol are answered by the table in `OTHERS`. It can stall once, and it can die.

It runs in a thread of the test (`serving`), or as a process: `python stub.py [stall_after stall_for]` prints its port.
"""

import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hpack import Decoder

from penstock_proto import model_config_pb2
from penstock_proto import open_inference_pb2 as pb

ID = b"0000000000"
_ANSWER = pb.ModelInferResponse(
    model_name="stub",
    id=ID.decode(),
    outputs=[pb.ModelInferResponse.InferOutputTensor(name="y", datatype="FP32", shape=[1, 4])],
    raw_output_contents=[struct.pack("<4f", 1, 2, 3, 4)],
).SerializeToString()
_TENSOR = pb.ModelMetadataResponse.TensorMetadata
OTHERS = {
    "ServerMetadata": pb.ServerMetadataResponse(name="stub", version="1"),
    "ModelMetadata": pb.ModelMetadataResponse(
        name="stub",
        versions=["1"],
        inputs=[_TENSOR(name="x", datatype="FP32", shape=[-1, 4])],
        outputs=[_TENSOR(name="y", datatype="FP32", shape=[-1, 4])],
    ),
    "ModelConfig": pb.ModelConfigResponse(config=model_config_pb2.ModelConfig(name="stub", max_batch_size=8)),
    "ModelStatistics": pb.ModelStatisticsResponse(),
}


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


_BUSY = 100
"""More answers than are asked for before a load."""
_STATIC = b"\x88\x0f\x10\x10application/grpc"  # status 200 and the content type, without the dynamic table
_OK = b"\x00\x0bgrpc-status\x010"


@dataclass
class Behaviour:
    """What it does besides answering."""

    stall_after: int = 10**12
    """Answers after which everything stands still, once."""
    stall_for: float = 0.0
    service_time: float = 0.0
    """Seconds that each turn of its loop takes: much more than the generator beside it does."""
    drop_at: float = float("inf")
    """Seconds after the start at which it closes one connection that is in use."""
    die_after: int = 10**12
    """Answers after which it closes everything."""
    settings: bytes = b""
    failing: str = ""
    """A gRPC status with which `ModelInfer` is answered instead."""
    failing_after: int = 0
    """Answers of a connection after which it is."""
    blocks: list[bytes] = field(default_factory=list[bytes])
    """The header blocks of `ModelInfer` as they came."""
    record: bool = False


class _Connection:
    """One client."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.rest = b""
        self.preface = True
        self.decoder = Decoder()
        self.paths: dict[int, str] = {}
        self.bodies: dict[int, list[bytes]] = {}
        self.answers = 0
        self.received = 0

    def receive(self, data: bytes) -> bytes:
        data = self.rest + data
        position, out = 0, list[bytes]()
        if self.preface:
            if len(data) < 24:
                self.rest = data
                return b""
            position, self.preface = 24, False
            out.append(_frame(4, 0, 0, self.behaviour.settings) + _frame(8, 0, 0, struct.pack(">I", 2**31 - 1 - 65535)))
        while position + 9 <= len(data):
            first, flags, stream = struct.unpack_from(">IBI", data, position)
            stop = position + 9 + (first >> 8)
            if stop > len(data):
                break
            out.append(self._take(first & 0xFF, flags, stream, data[position + 9 : stop]))
            position = stop
        self.rest = data[position:]
        if self.received > 2**30:
            out.append(_frame(8, 0, 0, struct.pack(">I", self.received)))
            self.received = 0
        return b"".join(out)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        """One frame. Returns what is to be said to it."""
        if kind == 0:
            self.received += len(payload)
            self.bodies.setdefault(stream, []).append(payload)
            given_back = _frame(8, 0, stream, struct.pack(">I", len(payload))) if len(payload) > 1000 else b""
            return given_back + (self._answer(stream) if flags & 1 else b"")
        if kind == 1:
            if self.behaviour.record:
                self.behaviour.blocks.append(payload)
            fields = {str(name): str(value) for name, value in self.decoder.decode(payload)}
            self.paths[stream] = fields[":path"].rpartition("/")[2]
        elif kind == 4 and not flags & 1:
            return _frame(4, 1, 0, b"")
        elif kind == 6 and not flags & 1:
            return _frame(6, 1, 0, payload)
        return b""

    def _answer(self, stream: int) -> bytes:
        path = self.paths.pop(stream)
        body = b"".join(self.bodies.pop(stream))
        if path != "ModelInfer":
            message = OTHERS[path].SerializeToString()
        elif self.behaviour.failing and self.answers >= self.behaviour.failing_after:
            trailers = _STATIC + b"\x00\x0bgrpc-status" + bytes((len(self.behaviour.failing),))
            return _frame(1, 5, stream, trailers + self.behaviour.failing.encode())
        else:
            self.answers += 1
            at = body.find(b"\x1a\x0a", 0, 64)
            message = _ANSWER.replace(ID, body[at + 2 : at + 12]) if at > 0 else _ANSWER.replace(b"\x1a\x0a" + ID, b"")
        framed = b"\0" + struct.pack(">I", len(message)) + message
        return _frame(1, 4, stream, _STATIC) + _frame(0, 0, stream, framed) + _frame(1, 5, stream, _OK)


def serve(listener: socket.socket, behaviour: Behaviour, stop: threading.Event) -> None:
    """Answer until told to stop, or to death."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    connections: dict[int, _Connection] = {}
    stalled = False
    drop_at = time.monotonic() + behaviour.drop_at
    while not stop.is_set():
        ready = selector.select(0.05)
        if ready:
            time.sleep(behaviour.service_time)
        for key, _ in ready:
            if not stalled and sum(one.answers for one in connections.values()) >= behaviour.stall_after:
                time.sleep(behaviour.stall_for)
                stalled = True
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is listener:
                client, _ = listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[client.fileno()] = _Connection(behaviour)
                selector.register(client, selectors.EVENT_READ)
                continue
            try:
                data = sock.recv(65536)
                busy = connections[sock.fileno()].answers > _BUSY
                if busy and time.monotonic() > drop_at:
                    drop_at = float("inf")
                elif data:
                    sock.sendall(connections[sock.fileno()].receive(data))
                    if sum(one.answers for one in connections.values()) < behaviour.die_after:
                        continue
                    stop.set()
            except OSError:
                pass
            selector.unregister(sock)
            sock.close()
    for key in list(selector.get_map().values()):
        if isinstance(key.fileobj, socket.socket):
            key.fileobj.close()
    selector.close()


@contextmanager
def serving(behaviour: Behaviour) -> Generator[int]:
    """The stub in a thread. Yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(listener, behaviour, stop))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        thread.join()
        listener.close()


if __name__ == "__main__":
    own_behaviour = Behaviour()
    if len(sys.argv) == 3:
        own_behaviour = Behaviour(stall_after=int(sys.argv[1]), stall_for=float(sys.argv[2]))
    own = socket.create_server(("127.0.0.1", 0))
    print(own.getsockname()[1], flush=True)
    serve(own, own_behaviour, threading.Event())
