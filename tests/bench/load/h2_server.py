"""The other end of a channel: the `h2` library as the server."""

from collections.abc import Sequence
from typing import Any, TypeVar

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event
from h2.settings import SettingCodes

from penstock_bench.load.channel import Channel
from penstock_bench.load.headers import blocks, request_fields
from penstock_proto.open_inference_pb2 import ModelInferResponse, ModelStreamInferResponse

HEADERS = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0"), ("grpc-message", "")]
E = TypeVar("E", bound=Event)


def header_blocks(table_size: int) -> Sequence[Any]:
    return [blocks(request_fields("/p", "h"), table_size=table_size)]


class Server:
    """h2's side of a connection, and the channel at the other end."""

    def __init__(self, channel: Channel, settings: dict[SettingCodes | int, int] | None = None) -> None:
        self.channel = channel
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.events: list[Event] = []
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings(settings)
        self.exchange()
        self.exchange()

    def exchange(self, now: float = 2.0) -> None:
        """Carry what both have to say."""
        said = b"".join(self.channel.output)
        self.channel.output = []
        self.events += self.h2.receive_data(said)
        answer = self.h2.data_to_send()
        if answer:
            self.channel.receive(answer, now)

    def all(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def body(self, stream: int) -> bytes:
        return b"".join(event.data for event in self.all(DataReceived) if event.stream_id == stream and event.data)

    def answer(self, stream: int, message: bytes = b"right", trailers: Sequence[tuple[str, str]] = OK) -> None:
        self.h2.send_headers(stream, HEADERS)
        self.h2.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message)
        self.h2.send_headers(stream, list(trailers), end_stream=True)


def said(request_id: str = "", error: str = "", *raw: bytes) -> bytes:
    """An answer on a stream, in gRPC's framing."""
    answer = ModelInferResponse(model_name="m", model_version="1", id=request_id, raw_output_contents=raw)
    response = ModelStreamInferResponse(error_message=error, infer_response=answer)
    message = response.SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message
