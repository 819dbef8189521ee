"""From a repository on disk to versions that answer, and what is told of those that do not."""

import asyncio
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from penstock_server.backends.base import Backend
from penstock_server.backends.onnx import OnnxBackend
from penstock_server.backends.python import PythonBackend
from penstock_server.engine.loading import LoadSettings, Prepared, load_model, prepare, why_zeros_fail
from penstock_server.engine.versions import ServedModel, VersionState
from penstock_server.errors import LoadError
from penstock_server.models.repository import ModelSource, scan
from tests.server.backends import onnx_graphs
from tests.server.backends.conformance import FP32
from tests.server.backends.python_models import IDENTITY, source, write

DEFAULTS = LoadSettings()
BACKENDS: dict[str, Backend] = {"onnxruntime": OnnxBackend(), "python": PythonBackend()}

TENSORS = """
    input { name: "X" data_type: TYPE_FP32 dims: 2 }
    output { name: "Y" data_type: TYPE_FP32 dims: 2 }
"""
WARMUP = """
    model_warmup {
        name: "first" batch_size: 2 count: 3
        inputs { key: "X" value { data_type: TYPE_FP32 dims: 2 zero_data: true } }
    }
"""


class Repository:
    """A model repository of Python models, made by the test."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, name: str, text: str = "", *, config: str = "", version: int = 1) -> None:
        write(self.root / name / str(version) / "model.py", IDENTITY)
        if text:
            (self.root / name / str(version) / "model.py").write_text(text)
        (self.root / name / "config.pbtxt").write_text(f"max_batch_size: 8 {TENSORS} {config}")

    def find(self, name: str) -> ModelSource:
        return scan(self.root).models[name]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


@pytest.fixture
def recorded() -> Iterator[list[str]]:
    """A list that models write to: they find it as `recorder.events`."""
    module = type(sys)("recorder")
    events: list[str] = []
    module.__dict__["events"] = events
    sys.modules["recorder"] = module
    yield events
    del sys.modules["recorder"]


def prepared(repository: Repository, name: str = "m", settings: LoadSettings = DEFAULTS) -> Prepared:
    return prepare(repository.find(name), 1, BACKENDS, settings)


async def load(source: ModelSource, settings: LoadSettings = DEFAULTS) -> ServedModel:
    """Load a model; what is served of it is closed again."""
    model = await load_model(source, BACKENDS, settings)
    for version in model.served.values():
        assert await version.driver.close(60)
    return model


# ── good models ───────────────────────────────────────────────────────────────────────────────────


async def test_a_good_model_is_served(repository: Repository, caplog: pytest.LogCaptureFixture) -> None:
    """With as many instances as its config says, and the bound of the queue that the operator has set."""
    repository.add("m", config="instance_group { count: 2 kind: KIND_CPU }")
    with caplog.at_level(logging.INFO):
        model = await load(repository.find("m"), LoadSettings(max_queued_rows=7))
    assert model.ready
    assert model.states == {1: (VersionState.READY, "")}
    version = model.served[1]
    assert (version.version, version.spec.name, version.config.name) == (1, "m", "m")
    assert "0 of 2 instances" not in repr(version)
    assert "2 of 2 instances idle" in repr(version)
    assert "model 'm' version 1 is ready" in caplog.text


def test_the_config_is_completed(repository: Repository, tmp_path: Path) -> None:
    """From the model's file, with the operator's default for the batch size."""
    path = tmp_path / "o/1/model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(onnx_graphs.identity(FP32, "rows", 3))
    made = prepared(repository, "o", LoadSettings(default_max_batch_size=17))
    assert made.config.max_batch_size == made.spec.max_batch_size == 17
    assert [(tensor.name, tensor.shape) for tensor in made.spec.inputs] == [("X", (3,))]


RECORD_RUN = """
    import recorder
    recorder.events.append(f"{self.context.instance}: {inputs['X'].shape} {batch.rows} {batch.requests[0].outputs}")
    return {"Y": inputs["X"]}
"""


def test_every_instance_is_warmed_up(repository: Repository, recorded: list[str]) -> None:
    """As often as the sample says, asked for every output."""
    repository.add("m", source(RECORD_RUN), config=f"instance_group {{ count: 2 kind: KIND_CPU }} {WARMUP}")
    prepared(repository)
    assert recorded == [f"{instance}: (2, 2) 2 ('Y',)" for instance in (0, 0, 0, 1, 1, 1)]


async def test_the_warm_up_says_what_a_batch_costs(repository: Repository) -> None:
    """All its runs but the first of each instance, a cold one; so the first requests are scheduled like any others."""
    repository.add("m", config=f"instance_group {{ count: 2 kind: KIND_CPU }} dynamic_batching {{}} {WARMUP}")
    costs = prepared(repository).costs
    assert [rows for rows, _ in costs] == [2] * 4
    assert all(seconds > 0 for _, seconds in costs)
    model = await load(repository.find("m"))
    assert model.served[1].driver.scheduler.cost.of(2) > 0


def test_a_warm_up_has_the_models_shapes(repository: Repository, recorded: list[str]) -> None:
    """Samples are written in the clients' shapes, and reshaped as a request would be."""
    repository.add("m", source(RECORD_RUN))
    (repository.root / "m/config.pbtxt").write_text(
        """
        max_batch_size: 8
        input { name: "X" data_type: TYPE_FP32 dims: 2 reshape { shape: [ 1, 2 ] } }
        output { name: "Y" data_type: TYPE_FP32 dims: 2 reshape { shape: [ 1, 2 ] } }
        """
        + WARMUP.replace("count: 3", "count: 1")
    )
    prepared(repository)
    assert recorded == ["0: (2, 1, 2) 2 ('Y',)"]


# ── bad models ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("infer", "reason"),
    [
        ("raise ValueError('no weights')", "warm-up 'first' failed: ValueError: no weights"),
        ("raise SystemExit(3)", "warm-up 'first' failed: SystemExit: 3"),
        ("raise KeyboardInterrupt", "warm-up 'first' failed: KeyboardInterrupt"),
        ("import asyncio; raise asyncio.CancelledError('no')", "warm-up 'first' failed: CancelledError: no"),
        ("raise ModelError(Status.UNAVAILABLE, 'not yet')", "warm-up 'first' failed: not yet"),
        ("batch.fail(0, Status.ABORTED, 'not you')\nreturn {'Y': inputs['X']}", "warm-up 'first' failed: not you"),
        ("return {}", "warm-up 'first' failed: output 'Y' is missing"),
        ("return None", "warm-up 'first' failed: the model returned None, not a dict"),
        ("return {'Y': [1.0]}", "warm-up 'first' failed: output 'Y' is a list, not a numpy array"),
        ("return {'Y': inputs['X'][:1]}", "warm-up 'first' failed: output 'Y' has shape"),
    ],
)
async def test_a_warm_up_that_fails_is_a_model_that_failed(
    repository: Repository, recorded: list[str], infer: str, reason: str
) -> None:
    """Better to hear of it at the start than from the first client. Its instances are closed."""
    close = "import recorder; recorder.events.append('closed')"
    repository.add("m", source(infer, close=close), config=f"instance_group {{ count: 2 kind: KIND_CPU }} {WARMUP}")
    model = await load(repository.find("m"))
    assert not model.ready
    assert model.served == {}
    state, told = model.states[1]
    assert state is VersionState.UNAVAILABLE
    assert told.startswith(f"m/config.pbtxt, field 'model_warmup': {reason}")
    assert recorded == ["closed", "closed"]


@pytest.mark.parametrize("error", ["KeyboardInterrupt('no')", "asyncio.CancelledError('no')", "SystemExit('no')"])
async def test_what_a_model_raises_is_its_own(repository: Repository, error: str) -> None:
    """Wherever it does: to us these exceptions would mean the end of the whole server. The next model loads."""
    raise_it = f"import asyncio; raise {error}"
    repository.add("code", raise_it)
    repository.add("load", source(IDENTITY, load=raise_it))
    repository.add("good")
    for name in ("code", "load"):
        model = await load(repository.find(name))
        state, told = model.states[1]
        assert state is VersionState.UNAVAILABLE
        assert told.startswith(str(repository.root / name / "1/model.py"))
        assert told.endswith(f"{error.removeprefix('asyncio.').split('(')[0]}: no")
    assert (await load(repository.find("good"))).ready


async def test_why_a_model_failed_is_told_even_if_it_cannot_be_closed(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    """The first trouble is the one to know."""
    bad = source("raise ValueError('no weights')", close="raise OSError('cannot close')")
    repository.add("m", bad, config=WARMUP)
    model = await load(repository.find("m"))
    assert "ValueError: no weights" in model.states[1][1]
    assert "cannot close" in caplog.text


async def test_one_bad_version_does_not_keep_the_others(repository: Repository) -> None:
    """They are served; the model is not ready, for it is not what its operator wants."""
    for version in (1, 2, 3):
        bad = "raise RuntimeError('broken file')" if version == 2 else ""
        repository.add("m", bad, version=version, config="version_policy { all {} }")
    model = await load(repository.find("m"))
    assert list(model.served) == [1, 3]
    assert [state for state, _ in model.states.values()] == [
        VersionState.READY, VersionState.UNAVAILABLE, VersionState.READY,
    ]  # fmt: skip
    assert "broken file" in model.states[2][1]
    assert not model.ready


async def test_everything_that_is_wrong_with_a_model_is_told(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, so that an operator need not start the server for each mistake."""
    repository.add("m", config="instance_group { count: -1 } version_policy { latest { num_versions: 0 } }")
    found = repository.find("m")
    assert len(found.errors) > 1
    model = await load(found)
    assert not model.ready
    assert model.states == {}
    for problem in found.errors:
        assert str(problem) in model.failure
        assert str(problem) in caplog.text


async def test_warnings_do_not_keep_a_model_from_being_served(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    """They are for the log."""
    repository.add("m", config="dynamic_batching { default_priority_level: 1 }")
    found = repository.find("m")
    assert [problem.level for problem in found.problems] == ["warning"]
    with caplog.at_level(logging.WARNING):
        assert (await load(found)).ready
    assert str(found.problems[0]) in caplog.text


def test_a_backend_that_is_not_there(repository: Repository) -> None:
    """The error says which there are."""
    repository.add("m")
    with pytest.raises(
        LoadError, match=r"^m/config.pbtxt, field 'backend': unknown backend 'python' \(there are: onnxruntime\)"
    ):
        prepare(repository.find("m"), 1, {"onnxruntime": OnnxBackend()}, LoadSettings())


def test_an_error_of_a_models_code_names_its_file(repository: Repository) -> None:
    """Whatever it is, the operator reads where it came from."""
    repository.add("m", source(IDENTITY, load="return 1 / 0"))
    with pytest.raises(LoadError, match="ZeroDivisionError") as caught:
        prepared(repository)
    assert (caught.value.model, caught.value.file) == ("m", str(repository.root / "m/1/model.py"))


async def test_models_load_while_the_loop_goes_on(repository: Repository, recorded: list[str]) -> None:
    """Loading may take minutes; the server answers probes all the while."""
    wait = "import recorder; recorder.events.append('loads'); assert recorder.gate.wait(60)"
    repository.add("m", source(IDENTITY, load=wait))
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Gate:
        """What the model waits for, which only the loop can open."""

        @staticmethod
        def wait(seconds: float) -> bool:
            async def passed() -> bool:
                return await gate.wait()

            return asyncio.run_coroutine_threadsafe(passed(), loop).result(seconds)

    sys.modules["recorder"].__dict__["gate"] = Gate
    loading = asyncio.ensure_future(load(repository.find("m")))
    loop.call_soon(gate.set)
    assert (await loading).ready
    assert recorded == ["loads"]


def test_warm_up_inputs_are_fresh_for_every_run(repository: Repository) -> None:
    """A model that writes into its inputs, where it can, does not spoil the next run."""
    infer = """
        assert inputs.keys() == {"X"}
        inputs["Z"] = inputs.pop("X")
        return {"Y": np.zeros((2, 2), np.float32)}
    """
    repository.add("m", source(infer), config=WARMUP)
    assert prepared(repository).spec.outputs[0].datatype.numpy == np.dtype("<f4").str


# ── a dry run ─────────────────────────────────────────────────────────────────────────────────────

SEVERAL = """
    max_batch_size: 8
    input { name: "X" data_type: TYPE_FP32 dims: [ -1, 2 ] reshape { shape: [ -1, 1, 2 ] } }
    input { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] }
    input { name: "Z" data_type: TYPE_FP32 dims: [ 2 ] optional: true }
    output { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] }
"""
SEE = """
    import recorder
    recorder.events += [f"{name} {array.shape} {array.ravel().tolist()}" for name, array in inputs.items()]
    return {"Y": np.zeros((batch.rows, 2), np.float32)}
"""


def test_a_row_of_zeros(repository: Repository, recorded: list[str]) -> None:
    """In the model's shapes, with what a request must have and no more; axes of any length are 1."""
    repository.add("m", source(SEE))
    (repository.root / "m/config.pbtxt").write_text(SEVERAL)
    assert why_zeros_fail(prepared(repository)) is None
    assert recorded == ["X (1, 1, 1, 2) [0.0, 0.0]", "TEXT (1, 1) [b'']"]


def test_a_row_of_zeros_has_the_length_of_a_bucket(repository: Repository, recorded: list[str]) -> None:
    """And the mask that the server makes: no other length ever reaches the model."""
    repository.add("m", source(SEE))
    (repository.root / "m/config.pbtxt").write_text(
        """
        max_batch_size: 8 dynamic_batching {}
        input { name: "X" data_type: TYPE_INT64 dims: [ -1 ] }
        input { name: "MASK" data_type: TYPE_INT64 dims: [ -1 ] optional: true }
        output { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] }
        parameters { key: "length_buckets" value { string_value: "3,8" } }
        parameters { key: "length_mask_input" value { string_value: "MASK" } }
        """
    )
    assert why_zeros_fail(prepared(repository)) is None
    assert recorded == ["X (1, 3) [0, 0, 0]", "MASK (1, 3) [1, 1, 1]"]


def test_why_zeros_fail(repository: Repository) -> None:
    """As a warm-up would be told."""
    repository.add("m", source("return {'Y': 1 / inputs['Q']}"))
    assert why_zeros_fail(prepared(repository)) == "KeyError: 'Q'"


def test_a_row_that_is_too_large_is_not_tried(repository: Repository) -> None:
    """A check must not need more memory than the model's clients ever will."""
    repository.add("m", source("raise ValueError"))
    (repository.root / "m/config.pbtxt").write_text(TENSORS.replace("dims: 2", "dims: [ 65536, 65536 ]"))
    assert why_zeros_fail(prepared(repository)) is None
