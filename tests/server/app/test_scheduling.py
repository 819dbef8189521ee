"""Scheduling as clients meet it: real servers, real gRPC, and models that wait at a gate until the test opens it."""

import asyncio
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families

from penstock_client import NO_RETRIES, Client, InferenceError
from penstock_proto import open_inference_pb2 as pb
from penstock_scheduler import Statistics
from penstock_server.app.server import PenstockServer
from penstock_server.app.settings import Compat, ServerSettings
from penstock_server.transports.base import TransportSettings
from tests.golden.serving import loop_in_thread, running
from tests.server.backends.python_models import source

SECONDS = 60.0
"""After which a test has failed."""


class Gate:
    """What a gated model meets: it tells of each batch, and waits until it may go on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        """Rows of X, in the order in which the batches were begun."""
        self.running = 0
        self.most_running = 0
        self._changed = threading.Condition()
        self._passes = 0

    def enter(self, rows: Sequence[int]) -> None:
        """Called by the model."""
        with self._changed:
            self.batches.append(list(rows))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._passes, SECONDS)
            self._passes -= 1
            self.running -= 1

    def open(self, batches: int = 1000) -> None:
        """Let so many batches through."""
        with self._changed:
            self._passes += batches
            self._changed.notify_all()

    def wait_for_batches(self, count: int) -> None:
        """Until so many have been begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.batches) >= count, SECONDS)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """The gate of all models of a test, which find it as a module."""
    module = type(sys)("gate_of_the_test")
    gate = Gate()
    module.__dict__["gate"] = gate
    sys.modules["gate_of_the_test"] = module
    yield gate
    gate.open()
    del sys.modules["gate_of_the_test"]


GATED = source(
    """
    from gate_of_the_test import gate
    gate.enter(inputs["X"][:, 0].tolist())
    return {"Y": inputs["X"]}
    """
)
IDENTITY = source('return {"Y": inputs["X"]}')
TENSORS = """
    input { name: "X" data_type: TYPE_INT32 dims: -1 }
    output { name: "Y" data_type: TYPE_INT32 dims: -1 }
"""


class Repository:
    """The models of a test."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, name: str, config: str, *, code: str = GATED, tensors: str = TENSORS, **parameters: str) -> None:
        written = "".join(
            f'parameters {{ key: "{key}" value {{ string_value: "{text}" }} }}\n' for key, text in parameters.items()
        )
        (self.root / name / "1").mkdir(parents=True)
        (self.root / name / "1/model.py").write_text(code)
        (self.root / name / "config.pbtxt").write_text(f'backend: "python"\n{tensors}\n{config}\n{written}')


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


class Served:
    """A server under test and what clients need of it."""

    def __init__(self, server: PenstockServer, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self._loop = loop
        self.address = f"127.0.0.1:{server.port}"

    def on_loop(self, what: Callable[[], Any]) -> Any:
        """Call something where the server lives."""

        async def called() -> Any:
            return what()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(SECONDS)

    def statistics(self, model: str = "m") -> Statistics:
        driver = self.server.models.find(model).driver
        return cast(Statistics, self.on_loop(driver.statistics))

    def until(self, condition: Callable[[Statistics], bool], model: str = "m") -> None:
        """Wait until something is so; it takes as long as messages need."""
        for _ in range(100_000):
            if condition(self.statistics(model)):
                return
        raise AssertionError(f"it never came to be: {self.statistics(model)}")

    def until_queued(self, count: int) -> None:
        self.until(lambda statistics: statistics.queued == count)


Serve = Callable[..., AbstractContextManager[Served]]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with loop_in_thread() as loop:
        yield loop


@pytest.fixture
def serve(repository: Repository, loop: asyncio.AbstractEventLoop) -> Serve:
    """Serves the repository as it is then."""

    @contextmanager
    def served(**settings: Any) -> Iterator[Served]:
        defaults = ServerSettings(
            source=repository.root, transport=TransportSettings(port=0), metrics_port=None, drain_seconds=SECONDS
        )
        with running(replace(defaults, **settings), loop) as server:
            yield Served(server, loop)

    return served


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for calls that wait."""
    with ThreadPoolExecutor(16) as pool:
        yield pool


def column(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int32).reshape(-1, 1)


def ask(client: Client, *values: int, model: str = "m", **options: Any) -> list[int]:
    """The rows of Y for these rows of X."""
    result = client.infer(model, {"X": column(*values)}, timeout=SECONDS, **options)
    return [int(value) for value in result["Y"].reshape(-1)]


def failure(future: "Future[list[int]]") -> InferenceError:
    error = future.exception(SECONDS)
    assert isinstance(error, InferenceError), error
    return error


# ── parts ─────────────────────────────────────────────────────────────────────────────────────────


def test_three_hundred_rows_on_a_model_that_takes_64(repository: Repository, serve: Serve, gate: Gate) -> None:
    """With either client: one request, five batches, one answer with its rows in order."""
    repository.add("m", "max_batch_size: 64 instance_group { count: 2 kind: KIND_CPU } dynamic_batching {}")
    gate.open()
    values = list(range(300))
    with serve() as served:
        with Client(served.address) as client:
            assert ask(client, *values) == values
        sent = triton.InferInput("X", [300, 1], "INT32")
        sent.set_data_from_numpy(column(*values))
        with triton.InferenceServerClient(served.address) as other:
            result = other.infer("m", [sent])
            assert result is not None
            answer = result.as_numpy("Y")
        assert answer is not None
        assert answer.reshape(-1).tolist() == values
        assert sorted(map(len, gate.batches)) == [44, 44] + [64] * 8
        statistics = served.server.models.find("m").driver.counters
        assert (statistics.success.count, statistics.inference_count, statistics.execution_count) == (2, 600, 10)


def test_strings_in_parts(repository: Repository, serve: Serve) -> None:
    """Elements of any length, found again in their rows."""
    tensors = TENSORS.replace("INT32", "STRING").replace("dims: -1", "dims: 2")
    repository.add("m", "max_batch_size: 4 dynamic_batching {}", code=IDENTITY, tensors=tensors)
    words = np.array([[b"x" * row, b"\0%d" % row] for row in range(11)], object)
    with serve() as served, Client(served.address) as client:
        assert client.infer("m", {"X": words})["Y"].tolist() == words.tolist()


# ── order ─────────────────────────────────────────────────────────────────────────────────────────


def test_priorities(repository: Repository, serve: Serve, gate: Gate, pool: ThreadPoolExecutor) -> None:
    """The `priority` parameter: 1 goes before 2, however late it came."""
    repository.add("m", "max_batch_size: 1 dynamic_batching { priority_levels: 2 default_priority_level: 2 }")
    with serve() as served, Client(served.address) as client:
        calls = [pool.submit(ask, client, 0)]
        gate.wait_for_batches(1)
        for count, (value, priority) in enumerate([(1, 0), (2, 2), (3, 1)], start=1):
            calls.append(pool.submit(ask, client, value, parameters={"priority": priority}))
            served.until_queued(count)
        gate.open()
        assert [call.result(SECONDS) for call in calls] == [[0], [1], [2], [3]]
    assert gate.batches == [[0], [3], [1], [2]]


def test_tenants(repository: Repository, serve: Serve, gate: Gate, pool: ThreadPoolExecutor) -> None:
    """The metadata key that the operator has named tells whose a request is."""
    repository.add(
        "m", "max_batch_size: 1 dynamic_batching {}", tenant_weights="gold=1,free=1", known_tenants_only="true"
    )
    with serve(tenant_key="X-Tenant") as served, Client(served.address, retries=NO_RETRIES) as client:
        calls = [pool.submit(ask, client, 0, metadata={"x-tenant": "gold"})]
        gate.wait_for_batches(1)
        for count, value in enumerate((1, 2, 3), start=1):
            calls.append(pool.submit(ask, client, value, metadata={"x-tenant": "gold"}))
            served.until_queued(count)
        calls.append(pool.submit(ask, client, 9, metadata={"x-tenant": "free"}))
        served.until_queued(4)
        for metadata in ({"x-tenant": "lead"}, {}):
            with pytest.raises(InferenceError, match="the tenant is not known to this model"):
                ask(client, 7, metadata=metadata)
        gate.open()
        for call in calls:
            call.result(SECONDS)
    assert gate.batches.index([9]) <= 2, "who has used less goes first"


# ── timeouts ──────────────────────────────────────────────────────────────────────────────────────

REJECTING = """
    max_batch_size: 1
    dynamic_batching {
        default_queue_policy { default_timeout_microseconds: 3600000000 allow_timeout_override: true }
    }
"""


@pytest.mark.parametrize(
    ("config", "compat", "status", "text"),
    [
        (
            "max_batch_size: 1 dynamic_batching {}",
            Compat.NONE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "[request id: 7] the deadline passed before the request could run",
        ),
        (
            REJECTING,
            Compat.NONE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "[request id: 7] the request's time in the queue is up",
        ),
        (REJECTING, Compat.TRITON, grpc.StatusCode.UNAVAILABLE, "Request timeout expired"),
    ],
    ids=["deadline", "fixed", "triton"],
)
def test_the_timeout_parameter(
    repository: Repository,
    serve: Serve,
    gate: Gate,
    pool: ThreadPoolExecutor,
    config: str,
    compat: Compat,
    status: grpc.StatusCode,
    text: str,
) -> None:
    """In microseconds; what is said when it is up depends on whose dialect is spoken."""
    repository.add("m", config)
    with serve(compat=compat) as served, triton.InferenceServerClient(served.address) as client:
        sent = triton.InferInput("X", [1, 1], "INT32")
        sent.set_data_from_numpy(column(1))
        blocker = pool.submit(client.infer, "m", [sent])
        gate.wait_for_batches(1)
        with pytest.raises(triton.InferenceServerException) as caught:
            client.infer("m", [sent], request_id="7", timeout=3000)
        assert caught.value.status() == f"StatusCode.{status.name}"
        assert caught.value.message() == text
        gate.open()
        blocker.result(SECONDS)


def dropped(statistics: Statistics) -> int:
    """How many requests were given up in the queue."""
    return sum(sum(one.dropped.values()) + one.cancelled for one in statistics.classes.values())


def test_a_clients_deadline_is_the_requests(
    repository: Repository, serve: Serve, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    """When it has passed nobody waits for an answer, and the request is not run."""
    repository.add("m", "max_batch_size: 1 dynamic_batching {}")
    with serve() as served, Client(served.address, retries=NO_RETRIES) as client:
        blocker = pool.submit(ask, client, 0)
        gate.wait_for_batches(1)
        patience = 0.05
        while not dropped(served.statistics()):  # until one came as far as the queue
            with pytest.raises(InferenceError) as caught:
                client.infer("m", {"X": column(1)}, timeout=patience)
            assert caught.value.status is grpc.StatusCode.DEADLINE_EXCEEDED
            patience *= 3
        served.until_queued(0)
        gate.open()
        assert blocker.result(SECONDS) == [0]
        assert ask(client, 2) == [2]
    assert gate.batches == [[0], [2]]


# ── overload ──────────────────────────────────────────────────────────────────────────────────────

SMALL_QUEUE = "max_batch_size: 1 dynamic_batching { default_queue_policy { max_queue_size: 1 } }"


def fill(served: Served, client: Client, gate: Gate, pool: ThreadPoolExecutor) -> "list[Future[list[int]]]":
    """One request that runs, one that waits: the queue is full."""
    calls = [pool.submit(ask, client, 0)]
    gate.wait_for_batches(1)
    calls.append(pool.submit(ask, client, 1))
    served.until_queued(1)
    return calls


def test_a_full_queue_pushes_back(repository: Repository, serve: Serve, gate: Gate, pool: ThreadPoolExecutor) -> None:
    """With the time that the queue takes by what batches have cost of late, in milliseconds."""
    repository.add("m", SMALL_QUEUE)
    with serve() as served, Client(served.address, retries=NO_RETRIES) as client:
        served.on_loop(lambda: served.server.models.find("m").driver.scheduler.cost.seed(1, 0.025))
        calls = fill(served, client, gate, pool)
        error = failure(pool.submit(ask, client, 2, request_id="7"))
        assert error.status is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.message == "[request id: 7] Exceeds maximum queue size"
        assert error.pushback == "25"
        gate.open()
        assert [call.result(SECONDS) for call in calls] == [[0], [1]]


def test_a_client_that_is_pushed_back_comes_again(
    repository: Repository, serve: Serve, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    """Penstock's own does so by itself, when the server has said."""
    repository.add("m", SMALL_QUEUE)
    with serve() as served, Client(served.address) as client:
        served.on_loop(lambda: served.server.models.find("m").driver.scheduler.cost.seed(1, 0.5))
        calls = fill(served, client, gate, pool)
        began = time.monotonic()
        calls.append(pool.submit(ask, client, 2))
        served.until(lambda statistics: sum(statistics.refused.values()) > 0)
        gate.open()
        assert [call.result(SECONDS) for call in calls] == [[0], [1], [2]]
        assert time.monotonic() >= began + 0.5, "not before its time"


def test_a_full_queue_in_tritons_words(
    repository: Repository, serve: Serve, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    """UNAVAILABLE, with the same text and no time to come back."""
    repository.add("m", SMALL_QUEUE)
    with serve(compat=Compat.TRITON) as served, Client(served.address, retries=NO_RETRIES) as client:
        calls = fill(served, client, gate, pool)
        error = failure(pool.submit(ask, client, 2, request_id="7"))
        assert error.status is grpc.StatusCode.UNAVAILABLE
        assert (error.message, error.pushback) == ("[request id: 7] Exceeds maximum queue size", None)
        gate.open()
        for call in calls:
            call.result(SECONDS)


def test_models_that_share_the_machine(
    repository: Repository, serve: Serve, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    """With `max_running` 1 one batch runs at a time, whosever it is."""
    for name in ("m", "n"):
        repository.add(name, "max_batch_size: 1 instance_group { count: 2 kind: KIND_CPU } dynamic_batching {}")
    with serve(max_running=1) as served, Client(served.address) as client:
        calls = [pool.submit(ask, client, number, model=model) for number in range(4) for model in ("m", "n")]
        served.until(lambda statistics: statistics.queued + statistics.running == 4)
        served.until(lambda statistics: statistics.queued + statistics.running == 4, "n")
        assert served.statistics().running + served.statistics("n").running == 1
        gate.open()
        assert [call.result(SECONDS) for call in calls] == [[number] for number in range(4) for _ in "mn"]
    assert gate.most_running == 1


# ── lengths ───────────────────────────────────────────────────────────────────────────────────────


def test_length_buckets(repository: Repository, serve: Serve, gate: Gate, pool: ThreadPoolExecutor) -> None:
    """Requests of several lengths run together; each gets back as many elements as it has sent."""
    code = source(
        """
        from gate_of_the_test import gate
        gate.enter([*inputs["X"].shape, int(inputs["MASK"].sum())])
        return {"Y": inputs["X"] * 2 + 1 - inputs["MASK"]}
        """
    )
    mask = 'input { name: "MASK" data_type: TYPE_INT32 dims: -1 optional: true }'
    repository.add(
        "m",
        "max_batch_size: 4 dynamic_batching {}",
        code=code,
        tensors=TENSORS + mask,
        length_buckets="4,8",
        length_mask_input="MASK",
    )

    def double(client: Client, *values: int) -> list[int]:
        row = np.array([values], np.int32)
        return [int(value) for value in client.infer("m", {"X": row}, timeout=SECONDS)["Y"].reshape(-1)]

    with serve() as served, Client(served.address, retries=NO_RETRIES) as client:
        calls = [pool.submit(double, client, 7)]
        gate.wait_for_batches(1)
        calls += [pool.submit(double, client, *range(length)) for length in (2, 3, 4, 6)]
        served.until_queued(4)
        gate.open()
        assert [call.result(SECONDS) for call in calls] == [
            [14], [0, 2], [0, 2, 4], [0, 2, 4, 6], [0, 2, 4, 6, 8, 10],
        ]  # fmt: skip
        assert served.statistics().padding_elements == 3 + 2 + 1 + 0 + 2
        with pytest.raises(InferenceError) as caught:
            double(client, *range(9))
        assert caught.value.status is grpc.StatusCode.INVALID_ARGUMENT
        assert "the request is longer than the largest of the model's length buckets" in caught.value.message
        with pytest.raises(InferenceError) as caught:
            client.infer("m", {"X": np.zeros((1, 3), np.int32), "MASK": np.zeros((1, 2), np.int32)})
        assert caught.value.status is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.message == "the inputs of model 'm' must have one length, not 2, 3"
    assert sorted(gate.batches) == [[1, 4, 1], [1, 8, 6], [3, 4, 9]]


# ── what is told ──────────────────────────────────────────────────────────────────────────────────


def test_server_timing_is_told_to_who_asks(repository: Repository, serve: Serve, gate: Gate) -> None:
    """As trailing metadata; its parts are the whole."""
    repository.add("m", "max_batch_size: 4 dynamic_batching {}", allowed_batch_sizes="2,4")
    gate.open()
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[column(1).tobytes()])
    request.inputs.add(name="X", datatype="INT32", shape=[1, 1])
    with serve() as served, grpc.insecure_channel(served.address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        _, call = infer.with_call(request, metadata=(("penstock-timing", "1"),))
        trailers = dict(call.trailing_metadata())
        timing = trailers["server-timing"]
        assert isinstance(timing, str)
        *parts, batch = timing.split(", ")
        assert batch == 'batch;desc="2 idle"'
        durations = {part.split(";dur=")[0]: float(part.split(";dur=")[1]) for part in parts}
        assert list(durations) == ["queue", "assembly", "compute", "reply", "total"]
        assert sum(durations.values()) == pytest.approx(2 * durations["total"], abs=0.003)
        _, call = infer.with_call(request, timeout=SECONDS)
        assert "server-timing" not in dict(call.trailing_metadata())
        served.on_loop(lambda: served.server.models.find("m").driver.scheduler.drain())
        with pytest.raises(grpc.RpcError) as caught:
            infer.with_call(request, metadata=(("penstock-timing", "1"),), timeout=SECONDS)
        failed = cast(grpc.Call, caught.value)
        assert failed.code() is grpc.StatusCode.UNAVAILABLE
        assert str(dict(failed.trailing_metadata())["server-timing"]).startswith("total;dur=")


_LABELS = ("model", "version", "class", "reason", "le", "code", "cache")


def scrape(served: Served) -> dict[tuple[str, tuple[str, ...]], float]:
    """All samples, by name and the values of their labels."""
    url = f"http://127.0.0.1:{served.server.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=SECONDS) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    keyed = {
        (sample.name, tuple(sample.labels[name] for name in _LABELS if name in sample.labels)): sample.value
        for sample in samples
    }
    assert len(keyed) == len(samples), "no sample twice"
    return keyed


def test_metrics_add_up(repository: Repository, serve: Serve, gate: Gate, pool: ThreadPoolExecutor) -> None:
    """Every request is in one count, every batch in another, and histograms have as many as were counted."""
    repository.add(
        "m", "max_batch_size: 6 dynamic_batching {}", allowed_batch_sizes="2,6", length_buckets="2", tensors=TENSORS
    )
    with serve(metrics_port=0, max_queued_rows=16) as served, Client(served.address, retries=NO_RETRIES) as client:
        idle = scrape(served)
        calls = [pool.submit(ask, client, 0)]
        gate.wait_for_batches(1)
        calls.append(pool.submit(ask, client, *range(13)))
        served.until_queued(1)
        busy = scrape(served)
        refused = pool.submit(ask, client, *range(4))
        assert failure(refused).status is grpc.StatusCode.RESOURCE_EXHAUSTED
        late = pool.submit(ask, client, 5, parameters={"timeout": 1000})
        assert failure(late).status is grpc.StatusCode.DEADLINE_EXCEEDED
        gate.open()
        for call in calls:
            call.result(SECONDS)
        done = scrape(served)
    m = ("m", "1")
    assert busy["nv_inference_pending_request_count", m] == 1
    assert busy["penstock_queued_rows", m] == 13
    assert busy["penstock_queued_bytes", m] == 13 * 4
    assert busy["penstock_batches_running", m] == 1
    assert (
        done["penstock_queued_rows", m] == done["penstock_queued_bytes", m] == done["penstock_batches_running", m] == 0
    )
    assert done["nv_inference_request_success", m] == 2
    assert done["nv_inference_count", m] == 14
    assert done["nv_inference_exec_count", m] == 4
    assert done["penstock_requests_refused_total", (*m, "queue_full")] == 1
    # Before it was queued, if this machine was slow.
    expired = done["penstock_requests_refused_total", (*m, "expired")]
    assert expired + done["penstock_requests_dropped_total", (*m, "interactive", "expired")] == 1
    assert done["penstock_requests_cancelled_total", (*m, "interactive")] == 0
    fired = {key: value for key, value in done.items() if key[0] == "penstock_batches_started_total"}
    assert sum(fired.values()) == 4
    assert done["penstock_padding_rows_total", m] == 1 + 0 + 0 + 1
    assert done["penstock_padding_elements_total", m] == 14
    assert done["penstock_queue_seconds_count", (*m, "interactive")] == 2
    assert done["penstock_queue_seconds_sum", (*m, "interactive")] > 0
    assert done["penstock_compute_seconds_count", m] == done["penstock_batch_rows_count", m] == 4
    assert done["penstock_batch_rows_sum", m] == 14
    buckets = [done["penstock_batch_rows_bucket", (*m, bound)] for bound in ("1", "2", "4", "8", "+Inf")]
    assert buckets == [2, 2, 2, 4, 4]
    assert idle.keys() <= done.keys(), "no metric goes, and no bucket"
    assert all(value == 0 for key, value in idle.items() if key[0].startswith("penstock_batch_rows"))
