"""`penstock serve --workers 2` as operators start it: two servers that look like one, and go on when one dies."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from penstock_client import NO_RETRIES, Client, InferenceError
from penstock_server.cli import main
from penstock_server.examples import REPOSITORY
from tests.server.cli import processes
from tests.server.cli.conftest import Ear
from tests.server.cli.processes import Server, penstock
from tests.server.cli.test_serve import get
from tests.server.cli.test_signals import Gate, wait_until_refused

pytestmark = pytest.mark.slow  # each of them starts processes that start processes

IRIS = REPOSITORY / "iris/1/model.onnx"
FLOWER = {"X": [[5.1, 3.5, 1.4, 0.2]]}
PATIENCE = {
    "penstock_server.app.workers.supervisor._ANSWER_SECONDS": 50.0,
    "penstock_server.metrics.http._ANSWER_SECONDS": 55.0,
}
"""A worker that has no processor for a while is no silent one here."""


def serving(*arguments: object) -> AbstractContextManager[Server]:
    """Two workers."""
    return processes.serving(*arguments, "--workers", 2, patience=PATIENCE)


def client_of(server: Server) -> Client:
    """A client with a connection of its own, and so with a worker by chance."""
    options = {"grpc.use_local_subchannel_pool": 1}
    return Client(server.target, timeout=60.0, retries=NO_RETRIES, options=options)


def ask(server: Server, count: int) -> None:
    """So many requests, each on a new connection."""
    for _ in range(count):
        with client_of(server) as client:
            assert client.infer("model", FLOWER)["label"].tolist() == [[0]]


def answered(server: Server) -> float:
    """How many requests the metrics have counted."""
    return total(server, "nv_inference_request_success")


def total(server: Server, name: str) -> float:
    """The only number of this metric."""
    status, text = get(f"{server.http}/metrics")
    assert status == 200
    (line,) = (line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
    return float(line.split()[-1])


def workers(server: Server) -> dict[int, int]:
    """The process of each worker that was told of last."""
    server.until("ready")
    return {record["worker"]: record["pid"] for record in server.records if "serves" in record}


@pytest.fixture(scope="module")
def pair() -> Iterator[Server]:
    """Two workers with the iris model, for tests that only ask."""
    with serving(IRIS) as server:
        server.until("ready")
        yield server


# ── two that look like one ────────────────────────────────────────────────────────────────────────


def test_the_startup_is_told_once_and_each_worker_by_its_number(pair: Server) -> None:
    """As a single server tells it, with the number of workers; the workers' own lines say whose they are."""
    assert [record["workers"] for record in pair.records if "grpc_port" in record] == [2]
    assert len([message for message in pair.messages if message.startswith("serving model 'model' version 1")]) == 1
    loaded = [record["worker"] for record in pair.records if "is ready (" in record["message"]]
    assert sorted(loaded) == [1, 2]
    assert pair.messages[-1] == "the server is ready"
    assert {record["level"] for record in pair.records} == {"info"}


def test_both_answer_and_are_counted_together(pair: Server) -> None:
    """Over many connections each gets some; the metrics have all, the statistics of a connection its worker's."""
    before = answered(pair)
    count = 17 - int(before) % 2  # an odd number in all, so that two workers never have equally many
    with ExitStack() as stack:
        clients = [stack.enter_context(client_of(pair)) for _ in range(count)]
        for client in clients:
            client.infer("model", FLOWER)
        parts = {client.statistics("model")[0].inference_count for client in clients}
    assert answered(pair) == before + count
    assert len(parts) == 2
    assert sum(parts) == before + count
    assert get(f"{pair.http}/v2/health/ready")[0] == 200


def test_the_supervisor_has_loaded_no_server(pair: Server) -> None:
    """It stays small, and no fault of gRPC or of a model is its own. Its code is all that it maps."""
    mapped = Path(f"/proc/{pair.process.pid}/maps").read_text()
    assert "msgspec" in mapped
    assert not [library for library in ("grpc", "numpy", "onnxruntime", "uvloop") if library in mapped]


@pytest.mark.parametrize("more", [(), ("--workers", 2)])
def test_the_port_is_refused_to_another_server(pair: Server, more: tuple[object, ...]) -> None:
    """In the words of a single server, before any model is loaded; also to one that would share it."""
    port = pair.until("grpc_port")["grpc_port"]
    done = penstock("serve", IRIS, "--grpc-port", port, "--metrics-port", 0, *more)
    assert done.returncode == 2
    assert done.stderr == f"penstock: cannot listen on 127.0.0.1:{port}: Address already in use\n"


# ── workers that die ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_ends_is_replaced(number: signal.Signals) -> None:
    """By violence or because somebody wants it anew: new connections are served all the time, nothing is uncounted."""
    with serving(IRIS) as server:
        pid = workers(server)[1]
        ask(server, 8)
        assert answered(server) == 8
        os.kill(pid, number)
        server.until("message", "replaced at once")
        ready = get(f"{server.http}/v2/health/ready")[0]
        asked = datetime.now(UTC)
        assert get(f"{server.http}/v2/health/live")[0] == 200
        ask(server, 8)
        assert answered(server) == 16
        again = server.until("message", "worker 1 serves again")
        assert again["pid"] != pid
        assert ready == 503 or datetime.fromisoformat(again["time"]) <= asked
        assert get(f"{server.http}/v2/health/ready")[0] == 200
        ask(server, 8)
        assert answered(server) == 24
        server.signal(signal.SIGTERM)
        assert server.ends() == 0


def test_models_that_cannot_be_served_end_it_as_a_single_server(tmp_path: Path, said: Ear) -> None:
    """With the same sentence and status, once, whatever each worker has logged of it."""
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"this is no model")
    for source, status in ((bad, 1), (tmp_path / "empty", 2)):
        (tmp_path / "empty").mkdir(exist_ok=True)
        ports = ("--grpc-port", 0, "--metrics-port", 0)
        assert main.run(["serve", str(source), *map(str, ports)]) == status
        sentence = said().err.splitlines()[-1]
        together = penstock("serve", source, *ports, "--workers", 2)
        assert together.returncode == status
        assert sentence.startswith("penstock: ")
        assert together.stderr.splitlines()[-1] == sentence
        assert together.stderr.count("penstock: ") == 1


# ── the end ───────────────────────────────────────────────────────────────────────────────────────


def test_what_both_have_accepted_is_answered(tmp_path: Path) -> None:
    """SIGTERM while each worker runs a request and has others waiting: all are answered, and the status is 0."""
    gate = Gate(tmp_path, "infer")
    with serving(gate.repository) as server, ThreadPoolExecutor(16) as threads, ExitStack() as stack:
        server.until("ready")
        clients = [stack.enter_context(client_of(server)) for _ in range(16)]
        answers = [threads.submit(client.infer, "gated", {"X": [21]}, timeout=100.0) for client in clients]
        while (total(server, "penstock_batches_running"), total(server, "penstock_calls_in_flight")) != (2, 16):
            pass
        server.signal(signal.SIGTERM)
        server.until("message", "SIGTERM: draining")
        wait_until_refused(server.target)
        assert get(f"{server.http}/v2/health/ready")[0] == 503
        while wait(answers, timeout=0.001).not_done:
            let_through(tmp_path / "gate")
        assert [answer.result()["Y"].tolist() for answer in answers] == [[42]] * 16
        assert server.ends() == 0


def let_through(gate: Path) -> None:
    """Whoever waits at the gate now, if anybody does."""
    try:
        end = os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return
    os.close(end)


def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    """Workers with it, whatever they are doing; the log ends, so nobody is left who could write into it."""
    gate = Gate(tmp_path, "infer")
    with serving(gate.repository) as server, ThreadPoolExecutor(1) as threads:
        server.until("ready")
        with client_of(server) as client:
            answer = threads.submit(client.infer, "gated", {"X": [21]})
            server.until("message", "waiting at the gate")
            server.signal(signal.SIGINT)
            server.until("message", "SIGINT: draining")
            server.signal(signal.SIGINT)
            assert server.ends() == 1
            with pytest.raises(InferenceError, match="UNAVAILABLE"):
                answer.result()


def test_workers_do_not_outlive_their_supervisor() -> None:
    """It is killed without a chance to tell them: they drain and end, and with the last one the log and the port."""
    with serving(IRIS) as server:
        server.until("ready")
        server.signal(signal.SIGKILL)
        assert server.ends() == -signal.SIGKILL
        assert server.messages.count("the supervisor is gone: draining") == 2
        wait_until_refused(server.target)
