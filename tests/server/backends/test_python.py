"""The Python backend: the suite that holds for all, and how a `model.py` is found, loaded and left."""

import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from penstock_proto.datatypes import DataType
from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.backends.base import ModelBatch, ModelInstance, RequestInfo
from penstock_server.backends.python import PythonBackend
from penstock_server.backends.runner import run
from penstock_server.errors import Failure, LoadError, ModelError
from penstock_server.models.signature import Signature
from penstock_server.status import Status
from tests.server.backends.conformance import FP32, BackendConformance, Made, batch_of, blocking, files_of, same, sample
from tests.server.backends.python_models import IDENTITY, source

NOTHING = Signature((), ())


class PythonWorkshop:
    """Writes `model.py` files."""

    backend = PythonBackend()
    reads_signatures = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def make(self, text: str, config: str = "", filename: str = "model.py") -> Made:
        self._count += 1
        files = files_of(self._folder, f"model{self._count}", filename)
        files.path.write_text(text)
        return Made(files, text_format.Parse(config, ModelConfig(name=files.model, backend="python")), NOTHING)

    def identity(self, datatype: DataType) -> Made:
        return self.make(source(IDENTITY))

    def arithmetic(self) -> Made:
        both = 'return {"SUM": inputs["A"] + inputs["B"], "DIFFERENCE": inputs["A"] - inputs["B"]}'
        return self.make(source(both))

    def fixed(self) -> Made:
        return self.make(source('return {"Y": inputs["X"] * 2}'))

    def failing(self) -> Made:
        return self.make(source('raise ValueError("a secret of the model")'))

    def picky(self) -> Made:
        infer = r"""
            for index, (start, end) in enumerate(batch.row_ranges()):
                if b"\xff\xfe" in inputs["X"][start:end].ravel().tolist():
                    batch.fail(index, Status.INVALID_ARGUMENT, "it holds what is no text")
            return {"Y": inputs["X"]}
        """
        return self.make(source(infer))

    def unloadable(self) -> Sequence[tuple[Made, str]]:
        no_file = self.make("")
        no_file.files.path.unlink()
        two = source(IDENTITY) + "\nclass Other(PythonModel): ...\n"
        return [
            (no_file, "FileNotFoundError"),
            (self.make("not python at all"), "SyntaxError"),
            (self.make("import no_such_module"), "No module named 'no_such_module'"),
            (self.make("raise SystemExit('no')"), "SystemExit: no"),
            (self.make("raise KeyboardInterrupt('no')"), "KeyboardInterrupt: no"),
            (self.make("x = 1"), "exactly one subclass of PythonModel, found: none"),
            (self.make(two), "exactly one subclass of PythonModel, found: Model, Other"),
            (self.make(source(IDENTITY, load="raise OSError('no weights')")), r"load\(\) of Model .* no weights"),
            (self.make(source(IDENTITY, load="raise SystemExit(3)")), r"load\(\) of Model raised SystemExit: 3"),
            (
                self.make(source(IDENTITY, load="import asyncio; raise asyncio.CancelledError()")),
                r"load\(\) of Model raised CancelledError",
            ),
        ]


@pytest.fixture
def workshop(tmp_path: Path) -> PythonWorkshop:
    return PythonWorkshop(tmp_path)


@pytest.fixture
def recorded() -> Iterator[list[str]]:
    """A list that models write to: they find it as `recorder.events`."""
    module = type(sys)("recorder")
    events: list[str] = []
    module.__dict__["events"] = events
    sys.modules["recorder"] = module
    yield events
    del sys.modules["recorder"]


def instances(workshop: PythonWorkshop, made: Made, count: int = 1) -> Sequence[ModelInstance]:
    return blocking(workshop.backend.open(made.files, made.config).instances(made.config, count))


class TestPython(BackendConformance):
    """All that holds for every backend."""


# ── loading ───────────────────────────────────────────────────────────────────────────────────────


def test_a_model_is_told_who_and_where_it_is(workshop: PythonWorkshop, recorded: list[str]) -> None:
    """Its name and version, its directory, its parameters, and which instance it is."""
    load = """
        import recorder
        c = context
        recorder.events.append(f"{c.name} {c.version} {c.directory} {dict(c.parameters)} {c.instance}")
    """
    made = workshop.make(
        source(IDENTITY, load=load), config='parameters { key: "threshold" value { string_value: "0.5" } }'
    )
    instances(workshop, made, 2)
    directory = made.files.path.parent
    assert recorded == [f"model1 1 {directory} {{'threshold': '0.5'}} {number}" for number in (0, 1)]


def test_two_models_of_the_same_file_name_do_not_meet(workshop: PythonWorkshop) -> None:
    """Every model.py is a module of its own; its classes find it by name, as dataclasses and pickle need."""
    makes = [
        workshop.make(
            f"import dataclasses\n@dataclasses.dataclass\nclass Number:\n    value: 'int' = {number}\n"
            + source('return {"Y": inputs["X"] * Number().value}')
        )
        for number in (2, 3)
    ]
    (two,), (three,) = (instances(workshop, made) for made in makes)
    x = np.ones((1, 2), np.float32)
    assert two.run(batch_of({"X": x.copy()}, 1))["Y"].tolist() == [[2, 2]]
    assert three.run(batch_of({"X": x.copy()}, 1))["Y"].tolist() == [[3, 3]]


def test_an_imported_base_class_is_not_the_model(workshop: PythonWorkshop) -> None:
    """Only what the file itself defines counts."""
    text = source(IDENTITY) + "\nfrom penstock_server.backends.python import PythonModel as Another\n"
    assert instances(workshop, workshop.make(text))


def test_any_file_name_will_do(workshop: PythonWorkshop) -> None:
    """`default_model_filename` may be anything; what is in the file is Python."""
    (instance,) = instances(workshop, workshop.make(source(IDENTITY), filename="the-model.txt"))
    assert same(instance.run(batch_of({"X": sample(FP32, 1)}, 1))["Y"], sample(FP32, 1), FP32)


def test_a_file_that_fails_leaves_no_module_behind(workshop: PythonWorkshop) -> None:
    """It would stay in memory for ever."""
    before = set(sys.modules)
    with pytest.raises(LoadError):
        instances(workshop, workshop.make("raise ValueError"))
    assert {name for name in set(sys.modules) - before if name.startswith("penstock_model")} == set()


RECORD = "import recorder; recorder.events.append(f'{} {{self.context.instance}}')"


def test_instances_that_were_loaded_before_one_fails_are_closed(
    workshop: PythonWorkshop, recorded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Each of them, even if one cannot be closed; the error is the one of the load."""
    load = """
        if context.instance == 2:
            raise ValueError("no room for a third")
    """
    close = RECORD.format("close") + "\nif self.context.instance == 0:\n    raise OSError('cannot close')"
    made = workshop.make(source(IDENTITY, load=load, close=close))
    with caplog.at_level(logging.ERROR), pytest.raises(LoadError, match="no room for a third"):
        instances(workshop, made, 3)
    assert sorted(recorded) == ["close 0", "close 1"]
    assert "cannot close" in caplog.text


def test_an_instance_is_closed_by_its_own_close(workshop: PythonWorkshop, recorded: list[str]) -> None:
    """Once for each instance."""
    made = workshop.make(source(IDENTITY, close=RECORD.format("close")))
    for instance in instances(workshop, made, 2):
        instance.close()
    assert recorded == ["close 0", "close 1"]


# ── running ───────────────────────────────────────────────────────────────────────────────────────


def test_a_deliberate_error_reaches_the_client_as_it_is(workshop: PythonWorkshop) -> None:
    """Status and message are the model's own."""
    made = workshop.make(source('raise ModelError(Status.FAILED_PRECONDITION, "train me first")'))
    outcome = run(instances(workshop, made)[0], batch_of({"X": sample(FP32, 1)}, 1), "the model")
    assert outcome == Failure(Status.FAILED_PRECONDITION, "train me first")


@pytest.mark.parametrize("raised", ["SystemExit(1)", "KeyboardInterrupt", "GeneratorExit", "BaseException('x')"])
def test_a_model_cannot_end_the_server(workshop: PythonWorkshop, raised: str) -> None:
    """Whatever it raises is its own failure."""
    made = workshop.make(source(f"raise {raised}"))
    outcome = run(instances(workshop, made)[0], batch_of({"X": sample(FP32, 1)}, 1), "the model")
    assert isinstance(outcome, Failure)
    assert outcome.unforeseen


def test_a_model_without_infer_says_so(workshop: PythonWorkshop, caplog: pytest.LogCaptureFixture) -> None:
    """In the log, by the name of its class."""
    text = "from penstock_server.backends.python import PythonModel\nclass Idle(PythonModel): ...\n"
    outcome = run(instances(workshop, workshop.make(text))[0], batch_of({}, 1), "the model")
    assert isinstance(outcome, Failure)
    assert "Idle has no infer()" in caplog.text


def test_an_optional_input_that_was_left_out_is_not_there(workshop: PythonWorkshop) -> None:
    """The model looks whether it has it."""
    infer = 'return {"Y": inputs["X"] + inputs.get("BIAS", np.float32(0))}'
    (instance,) = instances(workshop, workshop.make(source(infer)))
    x, bias = np.ones((1, 2), np.float32), np.full((1, 2), 5, np.float32)
    assert instance.run(batch_of({"X": x}, 1))["Y"].tolist() == [[1, 1]]
    assert instance.run(batch_of({"X": x, "BIAS": bias}, 1))["Y"].tolist() == [[6, 6]]


def test_a_model_sees_who_asks(workshop: PythonWorkshop, recorded: list[str]) -> None:
    """Ids, rows and custom parameters of each request of the batch."""
    infer = """
        import recorder
        recorder.events += [f"{r.id} {r.rows} {dict(r.parameters)}" for r in batch.requests]
        return {"Y": inputs["X"]}
    """
    (instance,) = instances(workshop, workshop.make(source(infer)))
    requests = [RequestInfo(1, "first", {"k": 1}), RequestInfo(2, "second", {"k": "v"})]
    instance.run(ModelBatch({"X": sample(FP32, 3)}, 3, requests))
    assert recorded == ["first 1 {'k': 1}", "second 2 {'k': 'v'}"]


def test_two_instances_are_in_infer_at_the_same_time(workshop: PythonWorkshop) -> None:
    """Each waits there for the other: one after the other they would never come out."""
    module = type(sys)("meeting")
    module.__dict__["barrier"] = threading.Barrier(2)
    sys.modules["meeting"] = module
    try:
        made = workshop.make(source('import meeting\nmeeting.barrier.wait(60)\nreturn {"Y": inputs["X"]}'))
        with ThreadPoolExecutor(2) as pool:
            for outputs in pool.map(
                lambda instance: instance.run(batch_of({"X": sample(FP32, 1)}, 1)), instances(workshop, made, 2)
            ):
                assert same(outputs["Y"], sample(FP32, 1), FP32)
    finally:
        del sys.modules["meeting"]


# ── what a model may answer ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", [Status.OK, Status.UNKNOWN])
def test_a_failure_is_one_and_never_unknown(status: Status) -> None:
    """For a whole batch and for one request alike: OK would be no failure, UNKNOWN the mark of a broken server."""
    assert ModelError(status, "m").failure() == Failure(Status.INTERNAL, "m")
    batch = batch_of({}, 1)
    batch.fail(0, status, "m")
    assert batch.failures[0] == Failure(Status.INTERNAL, "m")


@pytest.mark.parametrize("status", [3, Status.INVALID_ARGUMENT])
def test_a_status_may_be_given_as_its_number(status: Status) -> None:
    """Models are written without a type checker; so is the message, which is made text."""
    assert ModelError(status, ValueError("why")).failure() == Failure(Status.INVALID_ARGUMENT, "why")  # type: ignore[arg-type]
    batch = batch_of({}, 1)
    batch.fail(0, status, 17)  # type: ignore[arg-type]
    assert batch.failures[0] == Failure(Status.INVALID_ARGUMENT, "17")


def test_a_status_that_does_not_exist_is_a_mistake_of_the_model() -> None:
    """It is raised where the model made it, and so becomes an internal error with an id."""
    with pytest.raises(ValueError, match="99"):
        ModelError(99, "m")  # type: ignore[arg-type]
