"""Streams with very many messages, whose client is slower than the model: nothing is lost, and memory is flat.

The server is a process of its own, so that its memory is its own. What it may hold for such a stream: the requests in
flight (256 or 16 MiB, and 16 for which a window was given already), their answers, and what the transport has read
ahead. All of that is there at the first stall; from then on, nothing may grow.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import psutil
import pytest

from penstock_proto import open_inference_pb2 as pb
from tests.server.app.slow_client import SlowClient
from tests.server.app.stream_models import request, value, write_models
from tests.server.cli.processes import Server, serving

IN_FLIGHT = 256 + 16
GROWTH = 4 << 20
"""Bytes of noise. Of 100,000 messages, it would be noticed if one in ten stayed, or 50 bytes of each."""
PAD = 1000
COUNTS = [("wire", 100_000), ("grpcio", 10_000)]
"""Of messages. grpcio takes ten times as long for one."""

_browser = build_opener(ProxyHandler({}))


class Watch:
    """What a server held at some stalls of its client."""

    def __init__(self, server: Server, every: int) -> None:
        self._every = every
        self._process = psutil.Process(server.process.pid)
        self._metrics = f"{server.http}/metrics"
        self._stalls = 0
        self.resident: list[int] = []
        self.in_flight: list[int] = []
        self.nbytes: list[int] = []

    def look(self) -> None:
        """At a stall: at every so many."""
        self._stalls += 1
        if self._stalls % self._every:
            return
        self.resident.append(self._process.memory_info().rss)
        self.in_flight.append(self.metric("penstock_stream_requests"))
        self.nbytes.append(self.metric("penstock_inflight_bytes") + self.metric("penstock_transport_held_bytes"))

    def metric(self, name: str) -> int:
        with _browser.open(self._metrics, timeout=5.0) as response:
            lines = response.read().decode().splitlines()
        (line,) = [each for each in lines if each.startswith(f"{name} ")]
        return int(float(line.split()[1]))


@pytest.fixture
def server(tmp_path: Path, transport: str) -> Iterator[Server]:
    write_models(tmp_path, "twice", "pour")
    with serving(tmp_path, "--transport", transport) as server:
        yield server


def talk(server: Server, watch: Watch, messages: Iterable[bytes]) -> Iterator[pb.ModelStreamInferResponse]:
    """The answers of a slow client, which must end well, after stalls all along."""
    client = SlowClient(server.until("grpc_port")["grpc_port"], watch.look)
    size = 0
    for answer in client.talk(messages):
        size += len(answer) + 5
        yield pb.ModelStreamInferResponse.FromString(answer)
    client.close()
    assert client.status == "0"
    assert client.stalls >= size // 65_535


@pytest.mark.slow
@pytest.mark.parametrize(("transport", "count"), COUNTS)
def test_many_requests_and_a_slow_client(server: Server, count: int) -> None:
    """The client is not read from while it does not read. Every answer comes, in the order of the requests."""
    watch = Watch(server, every=count // 10_000)
    expected = iter(range(count))
    for answer in talk(server, watch, (request("twice", n, str(n), PAD) for n in range(count))):
        n = next(expected)
        assert (answer.infer_response.id, value(answer)) == (str(n), 2 * n)
    assert next(expected, None) is None
    assert max(watch.in_flight) <= IN_FLIGHT
    assert max(watch.nbytes) <= IN_FLIGHT * (PAD + 100) + (2 << 20), "and what the transport has read ahead"
    assert max(watch.resident) - watch.resident[0] < GROWTH
    assert watch.metric("penstock_stream_requests") == watch.metric("penstock_inflight_bytes") == 0


@pytest.mark.slow
@pytest.mark.parametrize(("transport", "count"), COUNTS)
def test_many_responses_and_a_slow_client(server: Server, count: int) -> None:
    """The generator waits for the client, which gets every response, in their order."""
    watch = Watch(server, every=count // 10_000)
    expected = iter(range(count))
    for answer in talk(server, watch, [request("pour", count)]):
        assert value(answer) == next(expected)
    assert next(expected, None) is None
    assert max(watch.in_flight) == 1
    assert max(watch.resident) - watch.resident[0] < GROWTH
    assert watch.metric("penstock_stream_requests") == watch.metric("penstock_inflight_bytes") == 0
