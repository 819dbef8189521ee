"""What every backend must do, as one suite: `penstock_server.backends.base` in executable form.

A backend takes part by a test class that names its `Workshop`, which makes the same small models in the
backend's own format:

    class TestOnnx(BackendConformance):
        @pytest.fixture
        def workshop(self, tmp_path: Path) -> Workshop:
            return OnnxWorkshop(tmp_path)

Models are run as the engine runs them: with the batch axis first, in arrays that cannot be written, and
asked for some of their outputs.
"""

import gc
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_proto.datatypes import DATATYPES, DataType
from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.backends.base import (
    Backend,
    DecoupledInstance,
    ModelBatch,
    ModelFiles,
    ModelInstance,
    RequestInfo,
    Tensors,
)
from penstock_server.backends.runner import run
from penstock_server.errors import Failure, LoadError
from penstock_server.models.signature import Signature, SignatureTensor
from penstock_server.status import Status
from penstock_server.tensors.codec import Array, object_array, raw_of

FP32, BYTES = DATATYPES["FP32"], DATATYPES["BYTES"]

NOT_TEXT = b"\xff\xfe"
"""A BYTES element that the `picky` model does not take."""


@dataclass(frozen=True, slots=True)
class Made:
    """A model on disk, and what its signature should be if the backend can read one."""

    files: ModelFiles
    config: ModelConfig
    signature: Signature


class Workshop(Protocol):
    """Makes models of one backend. Each method makes a new one."""

    @property
    def backend(self) -> Backend: ...

    @property
    def reads_signatures(self) -> bool:
        """Whether the model's file says what it takes and gives."""
        ...

    def identity(self, datatype: DataType) -> Made:
        """Batched: X [-1, 2] of any datatype comes back as Y."""
        ...

    def arithmetic(self) -> Made:
        """Batched: A [-1, 2] and B [-1, 2], both FP32, give SUM and DIFFERENCE."""
        ...

    def fixed(self) -> Made:
        """Without a batch axis: X [2, 3] FP32 comes back twice as large as Y."""
        ...

    def failing(self) -> Made:
        """X [-1, 2] FP32; it raises something when it is run."""
        ...

    def picky(self) -> Made:
        """X [-1, 2] BYTES comes back as Y; a request with `NOT_TEXT` in it fails alone, as INVALID_ARGUMENT."""
        ...

    def unloadable(self) -> Sequence[tuple[Made, str]]:
        """Models that cannot be opened, and a word of the reason."""
        ...


def tensor(name: str, datatype: DataType, *shape: int) -> SignatureTensor:
    return SignatureTensor(name, datatype, shape)


def open_instances(workshop: Workshop, made: Made, count: int = 1) -> Sequence[ModelInstance]:
    return blocking(workshop.backend.open(made.files, made.config).instances(made.config, count))


def blocking(made: Sequence[ModelInstance | DecoupledInstance]) -> Sequence[ModelInstance]:
    """Instances, none of which is a decoupled model's."""
    instances = [instance for instance in made if not isinstance(instance, DecoupledInstance)]
    assert len(instances) == len(made)
    return instances


def batch_of(inputs: Tensors, *rows: int, outputs: Sequence[str] = ("Y",)) -> ModelBatch:
    """A batch of as many requests as `rows` has numbers, which ask for the same outputs."""
    for array in inputs.values():
        array.flags.writeable = False
    return ModelBatch(inputs, sum(rows), [RequestInfo(count, outputs=tuple(outputs)) for count in rows])


def sample(datatype: DataType, rows: int) -> NDArray[Any]:
    """An array [rows, 2] of this datatype, whose elements differ as far as they can."""
    count = 2 * rows
    if not datatype.itemsize:
        # Text, since that is all that ONNX strings can be; but not only ASCII, and an empty one.
        return object_array([f"ä{number}".encode() if number else b"" for number in range(count)], (rows, 2))
    if datatype.name == "BF16":
        return (0x3F80 + np.arange(count)).astype("<u2").reshape(rows, 2)
    numbers = np.arange(count) % 2 if datatype.name == "BOOL" else np.arange(count)
    return numbers.astype(datatype.numpy).reshape(rows, 2)


def same(got: Array, expected: Array, datatype: DataType) -> bool:
    """Whether an output is what was expected, in the bytes that a client would see."""
    right_type = got.dtype == datatype.numpy
    return right_type and got.shape == expected.shape and bytes(raw_of(got, datatype)) == raw_of(expected, datatype)


class BackendConformance:
    """The suite. A subclass has a `workshop` fixture."""

    def test_the_signature_is_what_the_file_says_or_none(self, workshop: Workshop) -> None:
        """Names, datatypes and all axes, in the model's order; a backend that cannot tell says so with None."""
        for made in (workshop.arithmetic(), workshop.fixed(), workshop.identity(BYTES)):
            signature = workshop.backend.open(made.files, made.config).signature
            assert signature == (made.signature if workshop.reads_signatures else None)

    @pytest.mark.parametrize("datatype", DATATYPES.values(), ids=lambda datatype: datatype.name)
    def test_every_datatype_passes_in_any_number_of_rows(self, workshop: Workshop, datatype: DataType) -> None:
        """numpy's types in and out: BF16 as bit patterns, BYTES as objects."""
        (instance,) = open_instances(workshop, workshop.identity(datatype))
        for rows in (1, 2, 7):
            outputs = instance.run(batch_of({"X": sample(datatype, rows)}, rows))
            assert same(outputs["Y"], sample(datatype, rows), datatype), (rows, outputs["Y"])

    def test_a_model_without_a_batch_axis(self, workshop: Workshop) -> None:
        """Its arrays are as its config says, with nothing in front."""
        (instance,) = open_instances(workshop, workshop.fixed())
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        assert same(instance.run(batch_of({"X": x}, 1))["Y"], x * 2, FP32)

    def test_requests_of_a_batch_keep_their_rows(self, workshop: Workshop) -> None:
        """What a row gives does not depend on the batch it is in."""
        (instance,) = open_instances(workshop, workshop.arithmetic())
        a, b = sample(FP32, 6), sample(FP32, 6)[::-1].copy()
        outputs = instance.run(batch_of({"A": a, "B": b}, 1, 3, 2, outputs=("SUM", "DIFFERENCE")))
        assert same(outputs["SUM"], a + b, FP32)
        assert same(outputs["DIFFERENCE"], a - b, FP32)

    def test_what_any_request_asks_for_is_there(self, workshop: Workshop) -> None:
        """Requests of one batch may ask for different outputs; the batch needs them all."""
        (instance,) = open_instances(workshop, workshop.arithmetic())
        requests = [RequestInfo(1, outputs=("SUM",)), RequestInfo(1, outputs=("DIFFERENCE",))]
        outputs = instance.run(ModelBatch({"A": sample(FP32, 2), "B": sample(FP32, 2)}, 2, requests))
        assert {"SUM", "DIFFERENCE"} <= outputs.keys()
        outputs = instance.run(batch_of({"A": sample(FP32, 1), "B": sample(FP32, 1)}, 1, outputs=("DIFFERENCE",)))
        assert "DIFFERENCE" in outputs

    def test_inputs_are_left_as_they_are(self, workshop: Workshop) -> None:
        """They are views of what clients sent."""
        (instance,) = open_instances(workshop, workshop.arithmetic())
        batch = batch_of({"A": sample(FP32, 2), "B": sample(FP32, 2)}, 2, outputs=("SUM",))
        instance.run(batch)
        assert same(batch.inputs["A"], sample(FP32, 2), FP32)
        assert batch.inputs.keys() == {"A", "B"}

    def test_outputs_outlive_the_next_run(self, workshop: Workshop) -> None:
        """Answers are written while the next batch runs, so no buffer is used again; the inputs may be gone."""
        (instance,) = open_instances(workshop, workshop.fixed())
        inputs = [np.full((2, 3), value, np.float32) for value in (1.0, 2.0)]
        first = instance.run(batch_of({"X": inputs.pop(0)}, 1))["Y"]
        gc.collect()
        instance.run(batch_of({"X": inputs.pop(0)}, 1))
        assert same(first, np.full((2, 3), 2.0, np.float32), FP32)

    def test_one_request_fails_alone(self, workshop: Workshop) -> None:
        """`failures` has its index, and the others get their outputs."""
        (instance,) = open_instances(workshop, workshop.picky())
        x = sample(BYTES, 4)
        x[1, 1] = NOT_TEXT
        batch = batch_of({"X": x}, 1, 2, 1)
        outputs = instance.run(batch)
        assert {index: failure.status for index, failure in batch.failures.items()} == {1: Status.INVALID_ARGUMENT}
        assert batch.failures[1].message
        for start, end in (batch.row_ranges()[0], batch.row_ranges()[2]):
            assert same(outputs["Y"][start:end], x[start:end], BYTES)

    def test_a_single_request_fails_like_any_other(self, workshop: Workshop) -> None:
        """There is no other request to care for, and still it is the request that is at fault."""
        (instance,) = open_instances(workshop, workshop.picky())
        x = object_array([b"good", NOT_TEXT], (1, 2))
        batch = batch_of({"X": x}, 1)
        instance.run(batch)
        assert batch.failures[0].status is Status.INVALID_ARGUMENT

    def test_what_an_instance_raises_stays_in_the_server(
        self, workshop: Workshop, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The client reads an error id, the log has that id and the reason; the next batch runs all the same."""
        (instance,) = open_instances(workshop, workshop.failing())
        for _ in range(2):
            caplog.clear()
            with caplog.at_level(logging.ERROR):
                outcome = run(instance, batch_of({"X": sample(FP32, 1)}, 1), "the model")
            assert isinstance(outcome, Failure)
            assert outcome.status is Status.INTERNAL
            assert outcome.unforeseen
            (record,) = caplog.records
            assert record.exc_info is not None
            assert outcome.message == f"internal error (error id {record.__dict__['error_id']})"

    def test_as_many_instances_as_asked_for(self, workshop: Workshop) -> None:
        """Each of them runs, and each is another object."""
        instances = open_instances(workshop, workshop.identity(FP32), 3)
        assert len(set(map(id, instances))) == 3
        for instance in instances:
            assert same(instance.run(batch_of({"X": sample(FP32, 2)}, 2))["Y"], sample(FP32, 2), FP32)

    def test_instances_run_side_by_side(self, workshop: Workshop) -> None:
        """Each in its own thread, with its own data: nothing of one batch is ever seen in another."""
        instances = open_instances(workshop, workshop.arithmetic(), 3)
        together = threading.Barrier(len(instances))

        def work(number: int) -> int:
            together.wait(60)
            right = 0
            for turn in range(40):
                rows = 1 + turn % 5
                a = np.full((rows, 2), 1000 * number + turn, np.float32)
                b = np.ones((rows, 2), np.float32)
                outputs = instances[number].run(batch_of({"A": a, "B": b}, rows, outputs=("SUM",)))
                right += same(outputs["SUM"], a + 1, FP32)
            return right

        with ThreadPoolExecutor(len(instances)) as pool:
            assert list(pool.map(work, range(len(instances)))) == [40] * len(instances)

    def test_an_instance_is_closed_without_the_others(self, workshop: Workshop) -> None:
        """They may share what they were made of; what one of them gives up the others keep."""
        first, second = open_instances(workshop, workshop.identity(FP32), 2)
        first.close()
        assert same(second.run(batch_of({"X": sample(FP32, 2)}, 2))["Y"], sample(FP32, 2), FP32)
        second.close()

    def test_a_model_that_cannot_be_loaded_says_which_and_why(self, workshop: Workshop) -> None:
        """The error names the model, the file and the reason, which is all that the operator will see."""
        for made, reason in workshop.unloadable():
            with pytest.raises(LoadError, match=reason) as caught:
                open_instances(workshop, made)
            assert (caught.value.model, caught.value.file) == (made.files.model, str(made.files.path))
            assert str(made.files.path) in str(caught.value)


def files_of(folder: Path, name: str, filename: str) -> ModelFiles:
    """Where a model's file lies in a repository. Its directory is made."""
    path = folder / name / "1" / filename
    path.parent.mkdir(parents=True)
    return ModelFiles(name, 1, path)
