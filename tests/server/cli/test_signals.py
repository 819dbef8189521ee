"""How a server ends: it drains within a bound, whatever its models are doing.

The models here wait at a gate: a FIFO, which they read and the test writes. So a request is in flight for exactly as
long as a test wants, and no test waits for a time to pass.
"""

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import pytest

from penstock_client import NO_RETRIES, Client, InferenceError, InferResult
from tests.server.cli.processes import Server, serving
from tests.server.cli.test_serve import get

MODEL = """
    import logging
    from pathlib import Path
    from penstock_server.backends.python import PythonModel

    class Gated(PythonModel):
        def load(self, context):
            self.gate = Path(context.parameters["gate"])
            if context.parameters["where"] == "load":
                self.wait()

        def infer(self, inputs, batch):
            self.wait()
            return {"Y": inputs["X"] * 2}

        def wait(self):
            logging.getLogger("gated").warning("waiting at the gate")
            self.gate.read_text()
"""


class Gate:
    """A repository with a model that waits, and what lets it go on."""

    def __init__(self, folder: Path, where: str) -> None:
        self._fifo = folder / "gate"
        os.mkfifo(self._fifo)
        self.repository = folder / "models"
        version = self.repository / "gated/1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(dedent(MODEL))
        parameters = "".join(
            f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
            for key, value in {"gate": self._fifo, "where": where}.items()
        )
        (version.parent / "config.pbtxt").write_text(
            'input { name: "X" data_type: TYPE_INT32 dims: [ 1 ] }\n'
            f'output {{ name: "Y" data_type: TYPE_INT32 dims: [ 1 ] }}\n{parameters}'
        )

    def open(self) -> None:
        """Let the model that waits, and must be waiting, go on."""
        self._fifo.write_text("go on")


@pytest.fixture
def gate(tmp_path: Path, request: pytest.FixtureRequest) -> Gate:
    """A model that waits in `infer`, or where the test's parameter says."""
    return Gate(tmp_path, getattr(request, "param", "infer"))


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Threads for requests that are under way while the test goes on."""
    with ThreadPoolExecutor(1) as threads:
        yield threads


def request(server: Server, threads: ThreadPoolExecutor) -> Future[InferResult]:
    """A request that the model is executing."""
    target = server.target

    def ask() -> InferResult:
        with Client(target, timeout=100.0, retries=NO_RETRIES) as client:
            return client.infer("gated", {"X": [21]})

    answer = threads.submit(ask)
    server.until("message", "waiting at the gate")
    return answer


def wait_until_refused(target: str) -> None:
    """Connect again and again until the system refuses."""
    host, _, port = target.rpartition(":")
    while True:
        try:
            socket.create_connection((host, int(port))).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            pass  # came in while the door was closing


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_at_once_with_0(iris: Path, number: signal.Signals) -> None:
    """SIGTERM of a supervisor and Ctrl-C alike; the log says why."""
    with serving(iris) as server:
        server.until("ready")
        server.signal(number)
        assert server.ends() == 0
        assert server.messages[-1] == f"{number.name}: draining"
        assert server.rest == []


def test_a_request_in_flight_is_answered(gate: Gate, threads: ThreadPoolExecutor) -> None:
    """Meanwhile the server is not ready and takes nobody in; then it ends with 0."""
    with serving(gate.repository) as server:
        answer = request(server, threads)
        server.signal(signal.SIGTERM)
        server.until("message", "SIGTERM: draining")
        wait_until_refused(server.target)
        assert get(f"{server.http}/v2/health/ready")[0] == 503
        assert not answer.done()
        gate.open()
        assert answer.result()["Y"].tolist() == [42]
        assert server.ends() == 0


def test_what_takes_longer_than_the_drain_is_cut_off(gate: Gate, threads: ThreadPoolExecutor) -> None:
    """The client hears of it, the log says so, and the status is 1: something was not answered."""
    with serving(gate.repository, "--drain-seconds", 0.1) as server:
        answer = request(server, threads)
        server.signal(signal.SIGTERM)
        assert server.ends() == 1
        assert any("the drain took too long" in message for message in server.messages)
        with pytest.raises(InferenceError, match=r"UNAVAILABLE|CANCELLED"):
            answer.result()


def test_a_second_signal_ends_it_at_once(gate: Gate, threads: ThreadPoolExecutor) -> None:
    """Who presses Ctrl-C twice means it; the status says that it was no orderly end."""
    with serving(gate.repository) as server:
        answer = request(server, threads)
        server.signal(signal.SIGINT)
        server.until("message", "SIGINT: draining")
        server.signal(signal.SIGINT)
        assert server.ends() == 1
        assert server.messages[-1] == "second signal: ending at once"
        with pytest.raises(InferenceError, match="UNAVAILABLE"):
            answer.result()


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["load"], indirect=True)
def test_a_server_that_still_loads_ends_within_a_bound(gate: Gate) -> None:
    """A load cannot be interrupted and may take for ever; nobody waits for an answer yet, so it ends with 0."""
    with serving(gate.repository) as server:
        server.until("message", "waiting at the gate")
        server.signal(signal.SIGTERM)
        assert server.ends() == 0
        assert server.messages[-1] == "a model is still being loaded: ending without it"


@pytest.mark.parametrize("gate", ["load"], indirect=True)
def test_a_load_that_ends_in_time_is_waited_for(gate: Gate) -> None:
    """Then the process ends in the orderly way, and nothing is left behind."""
    with serving(gate.repository, patience={"penstock_server.app.run._LOADING_SECONDS": 100.0}) as server:
        server.until("message", "waiting at the gate")
        server.signal(signal.SIGTERM)
        server.until("message", "SIGTERM: draining")
        gate.open()
        assert server.ends() == 0
        assert not any("ending without it" in message for message in server.messages)
        assert server.rest == []
