"""Fuzzes the HTTP/2 connection with atheris (libFuzzer, guided by the coverage of the code).

    make fuzz                                    for a minute
    python tests/fuzz/http2.py -max_total_time=3600 [corpus folder]

An input is what a client sends after its preface and SETTINGS, behind eight bytes that say how to cut it and how the
handler behaves. Whatever it is:

* no exception leaves the connection, and the handler's calls keep their order (`Recorder` looks);
* what goes out is whole frames, ours are none that only a client may send, and nothing follows a last GOAWAY;
* the bytes that are held are accounted for: none are left when the connection has ended;
* cut into other reads the input means the same.
"""

import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT)]

atheris: Any = import_module("atheris")  # a group of its own in pyproject.toml, so perhaps not there for type checkers

with atheris.instrument_imports(include=["penstock_server.http2"]):
    from penstock_server.http2.connection import ConnectionSettings
    from penstock_server.http2.errors import ErrorCode
    from penstock_server.http2.frames import PREFACE, FrameType, Setting, settings_frame, window_update
    from penstock_server.http2.limits import Limits
    from penstock_server.http2.streams import Stream

from tests.server.http2.peers import RESPONSE, TRAILERS, VARYING, Recorder, parsed  # noqa: E402
from tests.server.http2.test_headers import GRPCIO  # noqa: E402
from tests.server.http2.test_splitting import BROKEN  # noqa: E402

BEGIN = PREFACE + settings_frame({Setting.INITIAL_WINDOW_SIZE: 20})
SETTINGS = ConnectionSettings(
    stream_window=65_535,
    connection_window=65_535,
    output_bytes=1000,
    varying=VARYING,
    limits=Limits(concurrent_streams=5, header_list_bytes=1000),
)


class Server(Recorder):
    """Answers what has ended: at once, in pieces that do not fit, or not at all, by the stream's id and `behaviour`."""

    def __init__(self, behaviour: int) -> None:
        super().__init__(SETTINGS)
        self.behaviour = behaviour

    def answer(self) -> None:
        for stream in list(self.connection.streams.values()):
            if self.streams[stream.id].ended:
                self._answer(stream)

    def _answer(self, stream: Stream) -> None:
        how = (self.behaviour >> stream.id % 16) & 3
        if how == 0:
            self.connection.respond(stream, RESPONSE, (b"\0\0\0\0\x05", b"hello"), TRAILERS)
        elif how == 1:
            self.connection.send_headers(stream, RESPONSE)
            self.connection.send_data(stream, (bytes(100), memoryview(bytes(50))))
            self.connection.end(stream, TRAILERS)
        elif how == 2:
            self.connection.reset(stream, ErrorCode.INTERNAL_ERROR)


def one_input(data: bytes) -> None:
    behaviour, step, talk = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big"), data[8:]
    pieces = Server(behaviour)
    pieces.receive(BEGIN)
    # Reads of some bytes each, but not so many of them that they are all that is done.
    size = max(1 + step % 4096, len(talk) // 50)
    out = b""
    for at in range(0, len(talk), size):
        pieces.receive(talk[at : at + size])
        pieces.answer()
        out += pieces.written()
    whole = Recorder(SETTINGS)
    whole.receive(BEGIN + talk)
    silent = Recorder(SETTINGS)
    silent.receive(BEGIN)
    buffer = bytearray(size)
    for at in range(0, len(talk), size):
        piece = talk[at : at + size]
        buffer[: len(piece)] = piece
        silent.connection.receive(memoryview(buffer)[: len(piece)], 0.0)
    assert silent.told() == whole.told()
    check_output(out + pieces.written())
    pieces.connection.lost()
    assert pieces.connection.statistics().streams == 0
    assert pieces.connection._inbound.unconsumed == pieces.connection._queued_bytes == 0


def check_output(out: bytes) -> None:
    frames = list(parsed(out))
    assert not [each for each in frames if each.kind in (FrameType.PRIORITY, FrameType.PUSH_PROMISE)]
    assert not [each for each in frames[:-1] if each.kind is FrameType.GOAWAY]


def main() -> None:
    with tempfile.TemporaryDirectory() as corpus:
        talk = BROKEN[len(PREFACE) :]
        for at in range(0, len(talk), 4000):
            Path(corpus, f"talk{at}").write_bytes(bytes(8) + talk[at : at + 4000])
        calls = b"".join(_headers(2 * at + 1, block) for at, block in enumerate(GRPCIO))
        Path(corpus, "grpcio").write_bytes(bytes(8) + calls)
        Path(corpus, "windows").write_bytes(b"\x55" * 8 + _headers(1, GRPCIO[0], 5) + window_update(1, 100))
        folders = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
        atheris.Setup([sys.argv[0], "-max_len=8000", "-timeout=20", *options, *folders, corpus], one_input)
        atheris.Fuzz()


def _headers(stream_id: int, block: bytes, flags: int = 4) -> bytes:
    return len(block).to_bytes(3, "big") + bytes((1, flags)) + stream_id.to_bytes(4, "big") + block


if __name__ == "__main__":
    main()
