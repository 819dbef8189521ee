"""A whole server: from models on disk to answers on a socket, and to the end of the last call."""

import asyncio
import http.client
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import grpc
import numpy as np
import pytest

from penstock_proto import byte_tensors, health_pb2, reflection_v1_pb2
from penstock_proto import open_inference_pb2 as pb
from penstock_proto.datatypes import DATATYPES, DataType
from penstock_server.app.server import PenstockServer, onnx_threads
from penstock_server.app.settings import Compat, TransportName
from penstock_server.errors import BindError, LoadError
from tests.server.app.conftest import Caller, Start, settings_for
from tests.server.backends import onnx_graphs
from tests.server.backends.python_models import IDENTITY, write

V2 = "/inference.GRPCInferenceService"
INFER = f"{V2}/ModelInfer"
CHECK = "/grpc.health.v1.Health/Check"
FP32 = DATATYPES["FP32"]


def add_python(root: Path, name: str, infer: str = IDENTITY, *, load: str = "pass", config: str = "") -> None:
    """A model X FP32 [-1, 2] to Y of the same, of at most 4 rows."""
    write(root / name / "1/model.py", infer, load=load)
    (root / name / "config.pbtxt").write_text(
        f"""
        max_batch_size: 4
        input {{ name: "X" data_type: TYPE_FP32 dims: 2 }}
        output {{ name: "Y" data_type: TYPE_FP32 dims: 2 }}
        {config}
        """
    )


def add_onnx(root: Path, name: str, content: bytes) -> None:
    path = root / name / "1/model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def request(model: str, *rows: Sequence[float], name: str = "X") -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=model, id="7")
    message.inputs.add(name=name, datatype="FP32", shape=[len(rows), len(rows[0])])
    message.raw_input_contents.append(np.array(rows, "<f4").tobytes())
    return message


def values(response: pb.ModelInferResponse) -> list[list[float]]:
    (output,) = response.outputs
    flat = np.frombuffer(response.raw_output_contents[0], "<f4")
    return [[float(value) for value in row] for row in flat.reshape(output.shape)]


# ── models, good and bad ──────────────────────────────────────────────────────────────────────────


async def test_a_repository_is_served(start: Start, tmp_path: Path) -> None:
    """ONNX beside Python, with a configuration and without one."""
    add_python(tmp_path, "doubler", 'return {"Y": inputs["X"] * 2}')
    add_onnx(tmp_path, "identity", onnx_graphs.identity(FP32, "rows", 2))
    server = await start(tmp_path)
    assert server.state.ready
    async with Caller(server.port) as call:
        doubled = await call(INFER, request("doubler", [1, 2], [3, 4]), pb.ModelInferResponse)
        assert values(doubled) == [[2, 4], [6, 8]]
        assert (doubled.model_name, doubled.model_version, doubled.id) == ("doubler", "1", "7")
        assert values(await call(INFER, request("identity", [1, 2]), pb.ModelInferResponse)) == [[1, 2]]
        ready = await call(f"{V2}/ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)
        assert ready.ready


async def test_bad_models_do_not_keep_good_ones_from_being_served(start: Start, tmp_path: Path) -> None:
    """Each says so where it is asked; the server is live and not ready. Nothing of the reasons gets out."""
    add_python(tmp_path, "good")
    add_python(tmp_path, "raises", load="raise ValueError('/srv/secret')")
    add_onnx(tmp_path, "garbage", b"no model")
    (tmp_path / "misconfigured/1").mkdir(parents=True)
    (tmp_path / "misconfigured/config.pbtxt").write_text("max_batch_size: many")
    server = await start(tmp_path, metrics_port=0)
    async with Caller(server.port) as call:
        assert values(await call(INFER, request("good", [1, 2]), pb.ModelInferResponse)) == [[1, 2]]
        ends = {name: await call.end(INFER, request(name, [1, 2])) for name in ("raises", "garbage", "misconfigured")}
        not_ready = "Request for unknown model: '{}' version 1 is not at ready state"
        assert ends == {
            "raises": (grpc.StatusCode.UNAVAILABLE, not_ready.format("raises")),
            "garbage": (grpc.StatusCode.UNAVAILABLE, not_ready.format("garbage")),
            "misconfigured": (
                grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'misconfigured' has no available versions",
            ),
        }  # fmt: skip
        assert (await call(f"{V2}/ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse)).live
        assert not (await call(f"{V2}/ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)).ready
        health = await call(CHECK, health_pb2.HealthCheckRequest(), health_pb2.HealthCheckResponse)
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("good", "raises"):
            ready = await call(f"{V2}/ModelReady", pb.ModelReadyRequest(name=name), pb.ModelReadyResponse)
            assert ready.ready is (name == "good")
        index = await call(f"{V2}/RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
        assert {model.name: model.state for model in index.models} == {
            "good": "READY", "raises": "UNAVAILABLE", "garbage": "UNAVAILABLE", "misconfigured": "UNAVAILABLE",
        }  # fmt: skip
        assert "secret" not in str(index)
        assert str(tmp_path) not in str(index)
    assert await asyncio.to_thread(http_status, server.metrics_port, "/v2/health/ready") == 503
    assert await asyncio.to_thread(http_status, server.metrics_port, "/v2/health/live") == 200


def http_status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


ANYTHING = """
    max_batch_size: 8
    input {{ name: "X" data_type: {type} dims: -1 }}
    output {{ name: "Y" data_type: {type} dims: -1 }}
"""


def raw_and_typed(datatype: DataType) -> tuple[bytes, list[object]]:
    """Two rows of two elements, as they travel and as typed contents."""
    if not datatype.itemsize:
        elements = [b"", b"\0\xff", "ä".encode(), b"long" * 100]
        return byte_tensors.pack(elements), list(elements)
    if datatype.name == "BOOL":
        return b"\1\0\0\1", [True, False, False, True]
    numbers = np.array([0, 1, 2, 3], datatype.numpy)
    return numbers.tobytes(), numbers.tolist()


async def test_every_datatype_in_every_form(start: Start, tmp_path: Path) -> None:
    """Raw and typed, through a model that gives back what it gets; always raw on the way back."""
    for datatype in DATATYPES.values():
        write(tmp_path / datatype.name.lower() / "1/model.py", IDENTITY)
        (tmp_path / datatype.name.lower() / "config.pbtxt").write_text(ANYTHING.format(type=datatype.config_name))
    server = await start(tmp_path)
    async with Caller(server.port) as call:
        for datatype in DATATYPES.values():
            raw, typed = raw_and_typed(datatype)
            for form in ("raw", "typed"):
                message = pb.ModelInferRequest(model_name=datatype.name.lower())
                tensor = message.inputs.add(name="X", datatype=datatype.name, shape=[2, 2])
                if form == "raw":
                    message.raw_input_contents.append(raw)
                elif datatype.contents is not None:
                    getattr(tensor.contents, datatype.contents).extend(typed)
                else:  # FP16 and BF16 have no typed form
                    continue
                response = await call(INFER, message, pb.ModelInferResponse)
                (output,) = response.outputs
                assert (output.name, output.datatype, list(output.shape)) == ("Y", datatype.name, [2, 2])
                assert list(response.raw_output_contents) == [raw], (datatype.name, form)
                assert not output.HasField("contents")


# ── settings ──────────────────────────────────────────────────────────────────────────────────────


async def test_reflection_is_there_if_it_is_wanted(start: Start, tmp_path: Path) -> None:
    """By default it is not."""
    add_python(tmp_path, "m")
    path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    question = reflection_v1_pb2.ServerReflectionRequest(list_services="")
    for wanted in (False, True):
        server = await start(tmp_path, reflection=wanted)
        async with Caller(server.port) as call:
            if not wanted:
                assert (await call.end(path, question))[0] is grpc.StatusCode.UNIMPLEMENTED
                continue
            response = await call(path, question, reflection_v1_pb2.ServerReflectionResponse)
            names = [service.name for service in response.list_services_response.service]
            assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(names)


async def test_the_dialect_is_chosen_by_the_operator(start: Start, tmp_path: Path) -> None:
    """Seen in the server's name."""
    add_python(tmp_path, "m")
    for compat, name in ((Compat.NONE, "penstock"), (Compat.TRITON, "triton")):
        server = await start(tmp_path, compat=compat)
        async with Caller(server.port) as call:
            metadata = await call(f"{V2}/ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
            assert metadata.name == name


async def test_batch_sizes_that_nobody_gave(start: Start, tmp_path: Path) -> None:
    """Triton's default in a repository, 64 for a single file, and the operator's word before either."""
    add_onnx(tmp_path, "m", onnx_graphs.identity(FP32, "rows", 2))
    for source, chosen, expected in (
        (tmp_path, None, 4), (tmp_path, 9, 9), (tmp_path / "m/1/model.onnx", None, 64),
        (tmp_path / "m/1/model.onnx", 9, 9),
    ):  # fmt: skip
        server = await start(source, max_batch_size=chosen)
        (version,) = server.models.versions()
        assert version.spec.max_batch_size == expected


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────

GATED = """
    import shared
    shared.arrived.release()
    assert shared.gate.wait(60)
    return {"Y": inputs["X"]}
"""


def make_gate(shared: ModuleType) -> threading.Event:
    """What gated models wait at; `shared.arrived` counts those who do."""
    gate = threading.Event()
    shared.__dict__.update(gate=gate, arrived=threading.Semaphore(0))
    return gate


async def arrives(shared: ModuleType) -> None:
    """A model has come to the gate."""
    assert await asyncio.to_thread(shared.arrived.acquire, True, 60)


async def until(condition: Callable[[], bool], call: Caller) -> None:
    """Ask the server for something else until a condition holds there."""
    while not condition():
        await call(f"{V2}/ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse)


async def test_a_full_server_says_so(start: Start, tmp_path: Path, shared: ModuleType) -> None:
    """By the rows of a queue and by the bytes of all requests; whoever was let in is answered."""
    gate = make_gate(shared)
    add_python(tmp_path, "gated", GATED)
    server = await start(tmp_path, max_queued_rows=2)
    async with Caller(server.port) as call:
        running = asyncio.ensure_future(call(INFER, request("gated", [0, 0]), pb.ModelInferResponse))
        await arrives(shared)
        queued = [asyncio.ensure_future(call(INFER, request("gated", [n, n]), pb.ModelInferResponse)) for n in (1, 2)]
        (version,) = server.models.versions()
        await until(lambda: version.driver.statistics().queued == 2, call)
        refused = await call.end(INFER, request("gated", [3, 3]))
        assert refused == (grpc.StatusCode.RESOURCE_EXHAUSTED, "[request id: 7] Exceeds maximum queue size")
        gate.set()
        answers = [values(await each) for each in (running, *queued)]
        assert answers == [[[0, 0]], [[1, 1]], [[2, 2]]]


async def test_a_deadline_that_passes_in_the_queue(start: Start, tmp_path: Path, shared: ModuleType) -> None:
    """Takes the request out of it, long before the model could have had it."""
    gate = make_gate(shared)
    add_python(tmp_path, "gated", GATED)
    server = await start(tmp_path)
    (version,) = server.models.versions()
    async with Caller(server.port) as call:
        running = asyncio.ensure_future(call(INFER, request("gated", [0, 0]), pb.ModelInferResponse))
        await arrives(shared)
        late = await call.end(INFER, request("gated", [1, 1]), timeout=0.1)
        assert late[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: version.driver.statistics().queued == 0, call)
        gate.set()
        assert values(await running) == [[0, 0]]
    assert version.driver.counters.execution_count == 1


# ── the start and the end ─────────────────────────────────────────────────────────────────────────


def penstock_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("penstock")]


async def test_calls_in_flight_are_answered_before_the_server_stops(
    start: Start, tmp_path: Path, shared: ModuleType
) -> None:
    """Those in a batch and those in the queue; meanwhile nobody new is let in, and probes see it."""
    gate = make_gate(shared)
    add_python(tmp_path, "gated", GATED)
    server = await start(tmp_path, metrics_port=0)
    async with Caller(server.port) as call:
        calls = [asyncio.ensure_future(call(INFER, request("gated", [0, 0]), pb.ModelInferResponse))]
        await arrives(shared)
        calls += [asyncio.ensure_future(call(INFER, request("gated", [n, n]), pb.ModelInferResponse)) for n in (1, 2)]
        (version,) = server.models.versions()
        await until(lambda: version.driver.statistics().queued == 2, call)
        stopping = asyncio.ensure_future(server.stop(60))
        assert await asyncio.to_thread(http_status, server.metrics_port, "/v2/health/ready") == 503
        async with Caller(server.port) as late:
            assert (await late.end(INFER, request("gated", [9, 9])))[0] is grpc.StatusCode.UNAVAILABLE
        assert not stopping.done()
        gate.set()
        assert [values(await each) for each in calls] == [[[0, 0]], [[1, 1]], [[2, 2]]]
        assert await stopping
    assert penstock_threads() == []


async def test_what_takes_too_long_is_cut_off(start: Start, tmp_path: Path, shared: ModuleType) -> None:
    """The client hears of it, and the operator: the drain was not a clean one."""
    gate = make_gate(shared)
    add_python(tmp_path, "gated", GATED)
    server = await start(tmp_path)
    async with Caller(server.port) as call:
        hangs = asyncio.ensure_future(call.end(INFER, request("gated", [0, 0])))
        await arrives(shared)
        assert not await server.stop(0.05)
        assert (await hangs)[0] in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    gate.set()
    for thread in threading.enumerate():
        if thread.name.startswith("penstock"):
            await asyncio.to_thread(thread.join, 60)
    assert penstock_threads() == []


SUMS = 'total = inputs["X"] + inputs["OLD"]; return {"Y": total, "NEW": total}'
STATE = 'state { input_name: "OLD" output_name: "NEW" data_type: TYPE_FP32 dims: 2 }'


def of_sequence(id: int, value: float, *flags: str) -> pb.ModelInferRequest:
    message = request("sums", [value, value])
    message.parameters["sequence_id"].int64_param = id
    for flag in flags:
        message.parameters[flag].bool_param = True
    return message


async def test_a_sequence_may_end_while_the_server_stops(start: Start, tmp_path: Path) -> None:
    """In calls of its own that come later; nothing else is let in, and no sequence begins."""
    add_python(
        tmp_path, "sums", SUMS, config=f"sequence_batching {{ max_sequence_idle_microseconds: 60000000 {STATE} }}"
    )
    add_python(tmp_path, "identity")
    server = await start(tmp_path)
    async with Caller(server.port) as call:
        assert values(await call(INFER, of_sequence(1, 1, "sequence_start"), pb.ModelInferResponse)) == [[1, 1]]
        stopping = asyncio.ensure_future(server.stop(60))
        while not server.state.exiting:  # noqa: ASYNC110 - it begins in the next pass of the loop
            await asyncio.sleep(0)
        assert values(await call(INFER, of_sequence(1, 2), pb.ModelInferResponse)) == [[3, 3]]
        refused = [of_sequence(2, 1, "sequence_start"), request("identity", [1, 2]), request("nobody", [1, 2])]
        for each in refused:
            status, text = await call.end(INFER, each)
            assert (status, "shutting down" in text) == (grpc.StatusCode.UNAVAILABLE, True)
        assert (await call.end(INFER, of_sequence(3, 1)))[0] is grpc.StatusCode.INVALID_ARGUMENT, "it never began"
        assert not stopping.done()
        assert values(await call(INFER, of_sequence(1, 3, "sequence_end"), pb.ModelInferResponse)) == [[6, 6]]
        assert await stopping


@pytest.mark.parametrize(("idle", "grace", "is_clean"), [(100_000, 60.0, True), (3_600_000_000, 0.1, False)])
async def test_a_sequence_that_does_not_end(
    start: Start, tmp_path: Path, idle: int, grace: float, is_clean: bool
) -> None:
    """Is waited for until it is over by its idle time, or the server's time is up: then something was cut off."""
    add_python(tmp_path, "sums", SUMS, config=f"sequence_batching {{ max_sequence_idle_microseconds: {idle} {STATE} }}")
    server = await start(tmp_path)
    async with Caller(server.port) as call:
        await call(INFER, of_sequence(1, 1, "sequence_start"), pb.ModelInferResponse)
        assert await server.stop(grace) is is_clean


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_nothing_stays_behind(tmp_path: Path) -> None:
    """Neither threads nor open files, however often a server starts and stops."""
    add_python(tmp_path, "python", config="instance_group { count: 3 kind: KIND_CPU }")
    add_onnx(tmp_path, "onnx", onnx_graphs.identity(FP32, "rows", 2))
    open_files: list[int] = []
    for _ in range(4):
        server = PenstockServer(settings_for(tmp_path, metrics_port=0))
        await server.start()
        async with Caller(server.port) as call:
            for model in ("python", "onnx"):
                await call(INFER, request(model, [1, 2]), pb.ModelInferResponse)
        assert await server.stop()
        assert penstock_threads() == []
        # The first round opens what grpc and the loop keep for the whole process.
        async with asyncio.timeout(60):  # the client's connections are closed by a thread of grpc's
            while len(open_files) > 1 and len(os.listdir("/proc/self/fd")) > open_files[1]:  # noqa: ASYNC110
                await asyncio.sleep(0)
        open_files.append(len(os.listdir("/proc/self/fd")))
    assert len(open_files) == 4


async def test_a_port_that_is_taken(start: Start, tmp_path: Path) -> None:
    """Is told before models are loaded, and nothing stays behind; for the port of metrics too."""
    add_python(tmp_path, "m")
    first = await start(tmp_path, metrics_port=0)
    threads = penstock_threads()
    for port in (first.port, first.metrics_port):
        second = PenstockServer(settings_for(tmp_path, metrics_port=port))
        with pytest.raises(BindError, match=str(port)):
            await second.start()
    assert penstock_threads() == threads


async def test_nothing_to_serve(tmp_path: Path) -> None:
    """No models, no folder, or a file that is no model."""
    (tmp_path / "notes.txt").write_text("no model")
    for source, told in (
        (tmp_path, "no model in this folder"),
        (tmp_path / "nowhere", "cannot read the model repository"),
        (tmp_path / "notes.txt", "a single model file is an ONNX model"),
    ):
        with pytest.raises(LoadError, match=told):
            await PenstockServer(settings_for(source)).start()


async def test_stopping_what_has_not_started(tmp_path: Path) -> None:
    """Or stopping twice: there is nothing to do."""
    add_python(tmp_path, "m")
    server = PenstockServer(settings_for(tmp_path, metrics_port=0))
    assert await server.stop()
    server = PenstockServer(settings_for(tmp_path, metrics_port=0))
    await server.start()
    assert await server.stop()
    assert await server.stop()


async def test_a_start_that_is_broken_off(tmp_path: Path, shared: ModuleType) -> None:
    """By a signal, say, while a model loads: what had been started is stopped."""
    gate = make_gate(shared)
    wait = "import shared; shared.arrived.release(); assert shared.gate.wait(60)"
    add_python(tmp_path, "first")
    add_python(tmp_path, "second", load=wait)
    server = PenstockServer(settings_for(tmp_path, metrics_port=0))
    starting = asyncio.ensure_future(server.start())
    await arrives(shared)
    starting.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert penstock_threads() == []


async def test_a_server_says_how_it_is(start: Start, transport: TransportName, tmp_path: Path) -> None:
    """In its repr, for the one who debugs it."""
    add_python(tmp_path, "m")
    server = await start(tmp_path)
    assert repr(server) == (
        "<PenstockServer <ServerState ready, 0 watchers>, <Models: 1 of 1 ready>, "
        f"<{transport.value.title()}Transport 127.0.0.1:{server.port}: 0 calls in flight>>"
    )


async def test_a_stop_under_load_leaves_no_call_without_a_reason(start: Start, tmp_path: Path) -> None:
    """Calls that came in before are answered, those after it refused as UNAVAILABLE: none is just cut off.

    By the server as long as it listens; it says itself what gRPC says of one that does not listen any more.
    """
    add_python(tmp_path, "m")
    server = await start(tmp_path)
    ends: Counter[tuple[grpc.StatusCode, str]] = Counter()
    is_busy = asyncio.Event()

    async def ask_until_refused(call: Caller) -> None:
        while True:
            end = await call.end(INFER, request("m", [1, 2]))
            ends[end] += 1
            if ends.total() >= 200:
                is_busy.set()
            if end[0] is not grpc.StatusCode.OK:
                return

    async with Caller(server.port) as one, Caller(server.port) as other:
        asking = [asyncio.ensure_future(ask_until_refused(call)) for call in (one, other) for _ in range(20)]
        await is_busy.wait()
        assert await server.stop()
        await asyncio.gather(*asking)
    refused = (
        grpc.StatusCode.UNAVAILABLE,
        "GRPC server is shutting down and has stopped accepting new requests.",
    )
    assert ends[refused] > 0
    assert {code for code, _ in ends} == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert ends.total() - ends[grpc.StatusCode.OK, ""] == 40


@pytest.mark.parametrize(
    ("cores", "workers", "threads"), [(8, 1, 0), (8, 2, 4), (8, 3, 2), (8, 8, 1), (2, 4, 1), (1, 1, 0)]
)
def test_workers_divide_the_cores(cores: int, workers: int, threads: int) -> None:
    """Rounded down, at least one each; alone, ONNX Runtime decides by itself."""
    assert onnx_threads(cores, workers) == threads
