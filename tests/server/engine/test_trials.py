"""What may run on the loop, tried before anybody asks."""

import time
from pathlib import Path

import numpy as np
import pytest

from penstock_server.backends.base import Backend, ModelBatch, Tensors
from penstock_server.backends.onnx import OnnxBackend
from penstock_server.backends.python import PythonBackend
from penstock_server.engine.loading import LoadSettings, prepare, serve
from penstock_server.engine.trials import cpu_seconds
from penstock_server.models.repository import scan
from tests.server.backends import onnx_graphs
from tests.server.backends.conformance import FP32
from tests.server.backends.python_models import IDENTITY, write
from tests.server.service.fakes import spec

BACKENDS: dict[str, Backend] = {"onnxruntime": OnnxBackend(), "python": PythonBackend()}
LONG = LoadSettings(inline_seconds=1.0)
SPEC = spec("m", [], [])


class Model:
    """Does what it is told for each run."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = list(seconds)

    def run(self, batch: ModelBatch) -> Tensors:
        seconds = self._seconds.pop(0)
        if seconds < 0:
            raise SystemExit
        ends = time.thread_time() + seconds
        while time.thread_time() < ends:
            pass
        return batch.inputs

    def close(self) -> None: ...


def test_the_longest_run_counts_but_for_the_first() -> None:
    """Of four: the first is a cold one."""
    taken = cpu_seconds(Model(0.02, 0.0, 0.004, 0.0), SPEC, {}, 1)
    assert taken is not None
    assert 0.004 <= taken < 0.02


@pytest.mark.parametrize("seconds", [[-1.0], [0.0, 0.0, 0.0, -1.0]])
def test_what_fails_proves_nothing(seconds: list[float]) -> None:
    """Zeros may be no valid input, and a model may raise anything."""
    assert cpu_seconds(Model(*seconds), SPEC, {}, 1) is None


def onnx(root: Path, *shape: int | str) -> None:
    path = root / "m/1/model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(onnx_graphs.identity(FP32, "rows", *shape))


async def test_a_model_that_is_known_to_be_fast_begins_on_the_loop(tmp_path: Path) -> None:
    """A row and a full batch were tried, so every size is known."""
    onnx(tmp_path, 3)
    made = prepare(scan(tmp_path).models["m"], 1, BACKENDS, LONG)
    assert [rows for rows, _ in made.short] == [1, made.spec.max_batch_size]
    version = serve(made, LONG)
    (runner,) = version.driver._runners
    batch = ModelBatch({"X": np.zeros((2, 3), np.float32)}, 2, [])
    try:
        assert runner.start(batch, lambda batch, outcome: pytest.fail("it ran in its thread")) is not None
    finally:
        assert await version.driver.close(60)


@pytest.mark.parametrize("below", [0.0, 1e-9])
def test_what_takes_too_long_is_not_short(tmp_path: Path, below: float) -> None:
    """By what the operator has chosen."""
    onnx(tmp_path, 3)
    assert prepare(scan(tmp_path).models["m"], 1, BACKENDS, LoadSettings(inline_seconds=below)).short == []


def test_axes_of_any_length_are_not_tried(tmp_path: Path) -> None:
    """What a row takes goes by what is asked for."""
    onnx(tmp_path, "length")
    assert prepare(scan(tmp_path).models["m"], 1, BACKENDS, LONG).short == []


def test_a_model_in_python_is_not_tried(tmp_path: Path) -> None:
    """It may do more than compute."""
    write(tmp_path / "m/1/model.py", IDENTITY)
    (tmp_path / "m/config.pbtxt").write_text(
        'max_batch_size: 8 input { name: "X" data_type: TYPE_FP32 dims: 2 }'
        ' output { name: "Y" data_type: TYPE_FP32 dims: 2 }'
    )
    assert prepare(scan(tmp_path).models["m"], 1, BACKENDS, LONG).short == ()
