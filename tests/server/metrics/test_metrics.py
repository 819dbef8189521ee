"""The operators' port, asked over real HTTP; what it tells is read back by Prometheus' own parser."""

import asyncio
import http.client
import logging
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from http import HTTPStatus

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from penstock_server.engine.versions import Models, ServedModel, VersionState
from penstock_server.errors import BindError, Failure
from penstock_server.metrics.collector import PenstockCollector
from penstock_server.metrics.http import MetricsServer, _Server
from penstock_server.service.budget import ByteBudget
from penstock_server.service.seam import TransportStatistics
from penstock_server.service.skeleton import SkeletonStatistics
from penstock_server.service.state import ServerState
from penstock_server.status import Status
from tests.server.engine.puppets import Stage


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: str
    body: str


def fetch(port: int, path: str, method: str = "GET", host: str = "127.0.0.1") -> Answer:
    """One request on a connection of its own. Blocks."""
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return Answer(response.status, response.getheader("Content-Type", ""), response.read().decode())
    finally:
        connection.close()


class Office:
    """A metrics port, and all that it tells of."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.models = Models()
        self.state = ServerState(self.models)
        self.budget = ByteBudget(1000)
        self.transport = TransportStatistics(0, 0)
        self.skeletons = SkeletonStatistics()
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(
            PenstockCollector(self.models, self.state, self.budget, lambda: self.transport, lambda: self.skeletons)
        )
        self.server = MetricsServer(self.registry, self.state, host, 0)

    async def fetch(self, path: str, method: str = "GET", host: str = "127.0.0.1") -> Answer:
        return await asyncio.to_thread(fetch, self.server.port, path, method, host)

    async def samples(self) -> dict[str, float]:
        """All metrics, by name and labels as they are written: `name{k="v"}`."""
        answer = await self.fetch("/metrics")
        assert answer.status == 200
        assert answer.content_type.startswith("text/plain; version=")
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(answer.body):
            assert family.documentation, family.name
            for sample in family.samples:
                labels = ",".join(f'{key}="{value}"' for key, value in sample.labels.items())
                name = f"{sample.name}{{{labels}}}" if labels else sample.name
                assert name not in found, "each is told once"
                found[name] = sample.value
        return found


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    office = Office()
    yield office
    await office.server.close()


# ── health ────────────────────────────────────────────────────────────────────────────────────────


async def test_live_and_ready(office: Office) -> None:
    """200 or 503, as probes want it: live from the start to the drain, ready while it serves all that it should."""

    async def told() -> tuple[int, int]:
        answers = [await office.fetch(f"/v2/health/{what}") for what in ("live", "ready")]
        return answers[0].status, answers[1].status

    assert await told() == (200, 503)
    office.state.start()
    assert await told() == (200, 200)
    office.models.add(ServedModel("bad", failure="broken"))
    assert await told() == (200, 503)
    office.models.add(ServedModel("bad"))
    assert await told() == (200, 200)
    office.state.exit()
    assert await told() == (503, 503)


async def test_a_loop_that_hangs_is_not_live(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """The port answers from a thread of its own, and says so: 503, within a bound."""
    monkeypatch.setattr("penstock_server.metrics.http._ANSWER_SECONDS", 0.05)
    office.state.start()
    answers: list[Answer] = []
    done = threading.Event()

    def probe() -> None:
        answers.extend(fetch(office.server.port, path) for path in ("/v2/health/live", "/v2/health/ready", "/metrics"))
        done.set()

    threading.Thread(target=probe).start()
    assert done.wait(60)  # which is what hangs the loop: this is its thread
    assert [answer.status for answer in answers] == [503, 503, 503]
    monkeypatch.setattr("penstock_server.metrics.http._ANSWER_SECONDS", 60.0)
    assert (await office.fetch("/v2/health/live")).status == 200


# ── metrics ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_server_without_models(office: Office) -> None:
    """Has its own metrics, and they are all there from the start."""
    assert await office.samples() == {
        "penstock_server_ready": 0,
        "penstock_calls_in_flight": 0,
        "penstock_calls_total": 0,
        "penstock_inflight_bytes": 0,
        "penstock_requests_over_memory_total": 0,
        "penstock_streams_open": 0,
        "penstock_stream_requests": 0,
        "penstock_streams_total": 0,
        "penstock_stream_messages_total": 0,
        "penstock_skeletons": 0,
        "penstock_skeleton_bytes": 0,
        "penstock_skeleton_hits_total": 0,
        "penstock_skeleton_misses_total": 0,
        "penstock_skeletons_evicted_total": 0,
        "penstock_transport_restarts_total": 0,
        "penstock_transport_connections": 0,
        "penstock_transport_held_bytes": 0,
        "penstock_transport_accepted_total": 0,
        "penstock_transport_refused_total": 0,
        "penstock_transport_shed_total": 0,
        "penstock_transport_received_bytes_total": 0,
        "penstock_transport_resets_total": 0,
        'penstock_transport_header_blocks_total{cache="hit"}': 0,
        'penstock_transport_header_blocks_total{cache="miss"}': 0,
    }


async def test_what_the_transport_does(office: Office) -> None:
    """Each figure of its statistics under its own name, so no two can be mixed up."""
    office.transport = TransportStatistics(
        calls_in_flight=1,
        calls=2,
        connections=3,
        connections_total=4,
        connections_refused=5,
        connections_shed=6,
        connections_closed={"cancel": 7, "enhance_your_calm": 8},
        held_bytes=9,
        received_bytes=10,
        header_hits=11,
        header_misses=12,
        resets=13,
    )
    samples = await office.samples()
    assert {name: value for name, value in samples.items() if name.startswith("penstock_transport")} == {
        "penstock_transport_restarts_total": 0,
        "penstock_transport_connections": 3,
        "penstock_transport_accepted_total": 4,
        "penstock_transport_refused_total": 5,
        "penstock_transport_shed_total": 6,
        'penstock_transport_closed_total{code="cancel"}': 7,
        'penstock_transport_closed_total{code="enhance_your_calm"}': 8,
        "penstock_transport_held_bytes": 9,
        "penstock_transport_received_bytes_total": 10,
        'penstock_transport_header_blocks_total{cache="hit"}': 11,
        'penstock_transport_header_blocks_total{cache="miss"}': 12,
        "penstock_transport_resets_total": 13,
    }


async def test_what_the_server_does(office: Office) -> None:
    """Its readiness, its calls, the memory that requests take."""
    office.state.start()
    office.transport = TransportStatistics(3, 40, 2)
    office.skeletons = SkeletonStatistics(5, 6000, 70, 8, 9, 10)
    office.budget.take(900)
    office.budget.take(900)
    samples = await office.samples()
    assert samples["penstock_server_ready"] == 1
    assert samples["penstock_calls_in_flight"] == 3
    assert samples["penstock_calls_total"] == 40
    assert samples["penstock_transport_restarts_total"] == 2
    assert samples["penstock_inflight_bytes"] == 900
    assert samples["penstock_requests_over_memory_total"] == 1
    assert (samples["penstock_skeletons"], samples["penstock_skeleton_bytes"]) == (5, 6000)
    assert (samples["penstock_skeleton_hits_total"], samples["penstock_skeleton_misses_total"]) == (70, 8)
    assert samples["penstock_skeletons_evicted_total"] == 9


async def test_what_the_models_do(office: Office) -> None:
    """In Triton's names, so that its dashboards work; counted by requests, rows and batches."""
    stage = Stage(max_queued_rows=3, max_batch_size=2)
    model = ServedModel("puppet", states={1: (VersionState.READY, "")})
    model.serve(stage.version)
    office.models.add(model)
    office.models.add(ServedModel("bad", failure="broken"))
    stage.ask(1)
    stage.ask(2)
    (await stage.next_batch()).finish()
    stage.ask(3)
    (await stage.next_batch()).finish(Failure(Status.INTERNAL, "internal error", unforeseen=True))
    stage.ask(4)
    running = await stage.next_batch()
    stage.ask(5, 6)
    stage.ask(7, 8)
    samples = await office.samples()
    label = '{model="puppet",version="1"}'
    expected = {
        "nv_inference_request_success": 2,
        "nv_inference_request_failure": 1,
        "nv_inference_count": 2,
        "nv_inference_exec_count": 1,
        "nv_inference_pending_request_count": 1,
        "penstock_batches_running": 1,
    }
    assert {name: samples[name + label] for name in expected} == expected
    for part in ("request", "queue", "compute_input", "compute_infer", "compute_output"):
        assert samples[f"nv_inference_{part}_duration_us{label}"] >= 0
    assert samples['penstock_requests_refused_total{model="puppet",reason="queue_full",version="1"}'] == 1
    assert samples['penstock_model_ready{model="puppet"}'] == 1
    assert samples['penstock_model_ready{model="bad"}'] == 0
    running.finish()
    (await stage.next_batch()).finish()
    assert (await office.samples())[f"nv_inference_request_success{label}"] == 4
    await stage.driver.close(0.0)


async def test_times_are_in_microseconds(office: Office) -> None:
    """As their names say."""
    stage = Stage()
    model = ServedModel("puppet", states={1: (VersionState.READY, "")})
    model.serve(stage.version)
    office.models.add(model)
    stage.driver.counters.queue.add(1.5)
    stage.driver.counters.inline_count = 7
    samples = await office.samples()
    assert samples['nv_inference_queue_duration_us{model="puppet",version="1"}'] == 1_500_000
    assert samples['penstock_batches_inline_total{model="puppet",version="1"}'] == 7
    await stage.driver.close(0.0)


# ── the port ──────────────────────────────────────────────────────────────────────────────────────


async def test_an_unknown_path(office: Office) -> None:
    """Says which there are, and nothing of what was asked."""
    for path in ("/", "/metric", "/metrics/", "/v2/health", "/../etc/passwd", "/%0d%0aX:1"):
        answer = await office.fetch(path)
        assert answer.status == 404
        assert answer.body == "there are /metrics, /v2/health/live and /v2/health/ready\n"


async def test_a_query_changes_nothing(office: Office) -> None:
    """Some probes add one against caches."""
    assert (await office.fetch("/v2/health/live?now=1")).status == 200


async def test_a_head_has_no_body(office: Office) -> None:
    """And is as long as it says."""
    answer = await office.fetch("/metrics", "HEAD")
    assert (answer.status, answer.body) == (200, "")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_nothing_can_be_changed(office: Office, method: str) -> None:
    """There is nothing but questions."""
    assert (await office.fetch("/metrics", method)).status == 501


async def test_it_does_not_say_what_it_runs_on(office: Office) -> None:
    """No version of Python, nor of anything."""

    def server_header() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", office.server.port, timeout=60)
        connection.request("GET", "/v2/health/live")
        header = connection.getresponse().getheader("Server", "")
        connection.close()
        return header

    assert (await asyncio.to_thread(server_header)).strip() == "penstock"


class Broken(Collector):
    """A metric that cannot be read."""

    def collect(self) -> Iterable[Metric]:
        raise ValueError("/srv/secret")


async def test_metrics_that_cannot_be_read(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    """Are an error of the server's; its reason is for the log, and health is told all the same."""
    office.registry.register(Broken())
    office.state.start()
    with caplog.at_level(logging.ERROR):
        answer = await office.fetch("/metrics")
    assert (answer.status, answer.body) == (500, "")
    assert "/srv/secret" in caplog.text
    assert (await office.fetch("/v2/health/ready")).status == 200


def test_a_client_that_leaves_is_no_news(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """It goes while its answer is made: a line for whoever debugs, and nothing on standard error."""
    reset_on_close = struct.pack("ii", 1, 0)

    def leave(path: str) -> tuple[HTTPStatus, str, bytes]:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_on_close)
        client.close()
        return HTTPStatus.OK, "text/plain", bytes(32 << 20)  # more than can be written to nobody

    with _Server(("127.0.0.1", 0), leave) as server:
        client = socket.create_connection(("127.0.0.1", server.server_port))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with caplog.at_level(logging.DEBUG):
            server.process_request_thread(*server.get_request())
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.levelno == logging.DEBUG
    assert capfd.readouterr().err == ""


async def test_an_idle_connection_holds_up_nobody(office: Office) -> None:
    """Neither another request nor the end."""
    with socket.create_connection(("127.0.0.1", office.server.port)):
        assert (await office.fetch("/v2/health/live")).status == 200


async def test_a_port_that_is_taken(office: Office) -> None:
    """Is an error that says where."""
    with pytest.raises(BindError, match=rf"cannot listen on 127\.0\.0\.1:{office.server.port}"):
        MetricsServer(office.registry, office.state, "127.0.0.1", office.server.port)


async def test_after_close_nobody_listens() -> None:
    """The port can be had by another."""
    office = Office()
    port = office.server.port
    await office.server.close()
    with pytest.raises(ConnectionRefusedError):
        await office.fetch("/v2/health/live")
    again = MetricsServer(office.registry, office.state, "127.0.0.1", port)
    await again.close()


async def test_ipv6() -> None:
    """An address with colons in it is an address like any other."""
    office = Office("::1")
    assert (await office.fetch("/v2/health/live", host="::1")).status == 200
    await office.server.close()
