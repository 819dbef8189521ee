"""Peers without processes of their own: a small HTTP server in a thread that runs the model, rightly or not."""

from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import cast

import numpy as np

from penstock_bench.peers.base import PeerFailed, ProtocolName, RunningPeer
from penstock_bench.peers.bodies import raw
from penstock_bench.peers.models import Array, BenchModel, ModelSet, Rows, make

Answer = Callable[[BenchModel, Rows], list[Array]]


def right(model: BenchModel, rows: Rows) -> list[Array]:
    return model.expected(rows)


def wrong(model: BenchModel, rows: Rows) -> list[Array]:
    """Off by one."""
    return [cast("Array", np.add(values, 1, dtype=values.dtype)) for values in model.expected(rows)]


def iris(folder: Path) -> BenchModel:
    return make("iris", folder)


class HttpServer:
    """Answers rows as our programs of HTTP peers do."""

    def __init__(self, model: BenchModel, answer: Answer) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                row = np.frombuffer(data, np.float32).reshape(1, *model.shape)
                body = b"".join(values.tobytes() for values in answer(model, row))
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """In silence."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.port: int = self._server.server_address[1]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass
class FakePeer:
    """A peer whose server is in this process. Writes down what is done with it."""

    name: str
    diary: list[str] = field(default_factory=list)
    cannot_prepare: str = ""
    cannot_start: str = ""
    answer: Answer = right
    default: bool = True
    interrupt_at: int = 0
    """The start, counted from 1, in which Ctrl-C comes; 0: none."""
    protocol: ProtocolName = "HTTP/1.1"
    remark: str = "a fake"
    starts: int = 0
    server: HttpServer | None = None

    @property
    def title(self) -> str:
        return self.name.upper()

    def prepare(self) -> None:
        self.diary.append(f"prepare {self.name}")
        if self.cannot_prepare:
            raise PeerFailed(self.cannot_prepare)

    def start(self, models: ModelSet) -> RunningPeer:
        self.diary.append(f"start {self.name}")
        self.starts += 1
        if self.starts == self.interrupt_at:
            raise KeyboardInterrupt
        if self.cannot_start:
            raise PeerFailed(self.cannot_start)
        self.server = HttpServer(models.only, self.answer)
        return RunningPeer("127.0.0.1", self.server.port, (), self.remark, raw("/"))

    def stop(self) -> None:
        if self.server is not None:
            self.diary.append(f"stop {self.name}")
            self.server.close()
            self.server = None

    def remove(self) -> None:
        self.diary.append(f"remove {self.name}")
