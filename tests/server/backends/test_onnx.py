"""The ONNX backend: the suite that holds for all, and what is ONNX Runtime's own."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from onnx import helper, numpy_helper

from penstock_proto.datatypes import DATATYPES, DataType
from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.backends.base import ModelBatch, RequestInfo
from penstock_server.backends.onnx import OnnxBackend, OnnxModel, _session_options
from penstock_server.errors import LoadError, ModelError
from penstock_server.models.signature import Signature
from penstock_server.status import Status
from penstock_server.tensors.codec import object_array
from tests.server.backends.conformance import (
    BYTES,
    FP32,
    NOT_TEXT,
    BackendConformance,
    Made,
    batch_of,
    files_of,
    same,
    sample,
    tensor,
)
from tests.server.backends.onnx_graphs import identity, model, node, value

INT64 = DATATYPES["INT64"]
BF16 = DATATYPES["BF16"]


class OnnxWorkshop:
    """Makes ONNX files."""

    backend = OnnxBackend()
    reads_signatures = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def make(self, content: bytes, signature: Signature | None = None, config: str = "") -> Made:
        self._count += 1
        files = files_of(self._folder, f"model{self._count}", "model.onnx")
        files.path.write_bytes(content)
        parsed = text_format.Parse(config, ModelConfig(name=files.model, backend="onnxruntime"))
        return Made(files, parsed, signature or Signature((), ()))

    def identity(self, datatype: DataType) -> Made:
        signature = Signature((tensor("X", datatype, -1, 2),), (tensor("Y", datatype, -1, 2),))
        return self.make(identity(datatype, "rows", 2), signature)

    def arithmetic(self) -> Made:
        names = ("A", "B"), ("SUM", "DIFFERENCE")
        inputs, outputs = ([value(name, FP32, "rows", 2) for name in side] for side in names)
        graph = model([node("Add", "A B", "SUM"), node("Sub", "A B", "DIFFERENCE")], inputs, outputs)
        sides = (tuple(tensor(name, FP32, -1, 2) for name in side) for side in names)
        return self.make(graph, Signature(*sides))

    def fixed(self) -> Made:
        graph = model([node("Add", "X X", "Y")], [value("X", FP32, 2, 3)], [value("Y", FP32, 2, 3)])
        return self.make(graph, Signature((tensor("X", FP32, 2, 3),), (tensor("Y", FP32, 2, 3),)))

    def failing(self) -> Made:
        far = numpy_helper.from_array(np.array([99]), "far")  # no axis is as long as that
        graph = model(
            [node("Gather", "X far", "Y", axis=0)], [value("X", FP32, "rows", 2)], [value("Y", FP32, 1, 2)], [far]
        )
        return self.make(graph)

    def picky(self) -> Made:
        return self.identity(BYTES)  # ONNX strings are UTF-8

    def unloadable(self) -> Sequence[tuple[Made, str]]:
        no_file = self.make(b"")
        no_file.files.path.unlink()
        unknown = model([node("NoSuchOperator", "X", "Y")], [value("X", FP32, 1)], [value("Y", FP32, 1)])
        list_of_tensors = helper.make_tensor_sequence_value_info("X", 1, None)
        sequence = model([node("SequenceLength", "X", "Y")], [list_of_tensors], [value("Y", INT64)])
        return [
            (self.make(b"no model at all"), "ONNX Runtime cannot load it"),
            (self.make(b""), "ONNX Runtime cannot load it"),
            (no_file, "ONNX Runtime cannot load it"),
            (self.make(unknown), "NoSuchOperator"),
            (self.make(sequence), r"input 'X' is a seq\(tensor\(float\)\), which no V2 tensor can be"),
        ]


@pytest.fixture
def workshop(tmp_path: Path) -> OnnxWorkshop:
    return OnnxWorkshop(tmp_path)


def opened(workshop: OnnxWorkshop, made: Made) -> OnnxModel:
    return workshop.backend.open(made.files, made.config)


class TestOnnx(BackendConformance):
    """All that holds for every backend."""


# ── the signature ─────────────────────────────────────────────────────────────────────────────────


def test_axes_without_a_length_are_of_any_length(workshop: OnnxWorkshop) -> None:
    """Named or not, -1; a model of which not even the number of axes is known is as good as a scalar."""
    graph = model(
        [node("Identity", "X", "Y")], [value("X", FP32, "rows", None, 3)], [value("Y", FP32, "rows", "other", 3)]
    )
    signature = opened(workshop, workshop.make(graph)).signature
    assert signature.inputs == (tensor("X", FP32, -1, -1, 3),)
    assert signature.outputs == (tensor("Y", FP32, -1, -1, 3),)
    scalar = opened(workshop, workshop.make(identity(FP32))).signature
    assert scalar.inputs == (tensor("X", FP32),)


def test_weights_are_no_inputs(workshop: OnnxWorkshop) -> None:
    """Old models list their weights among the inputs; clients need not send them."""
    weight = numpy_helper.from_array(np.ones(2, np.float32), "W")
    graph = model(
        [node("Add", "X W", "Y")],
        [value("X", FP32, "rows", 2), value("W", FP32, 2)],
        [value("Y", FP32, "rows", 2)],
        [weight],
    )
    one = opened(workshop, workshop.make(graph))
    assert [each.name for each in one.signature.inputs] == ["X"]
    (instance,) = one.instances(ModelConfig(), 1)
    assert instance.run(batch_of({"X": np.ones((1, 2), np.float32)}, 1))["Y"].tolist() == [[2.0, 2.0]]


def classifier(outputs: str) -> bytes:
    """What skl2onnx makes of a classifier: a label, and by default its probabilities as a list of maps."""
    zipmap = helper.make_node("ZipMap", ["scores"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    maps = helper.make_value_info(
        "maps", helper.make_sequence_type_proto(helper.make_map_type_proto(7, helper.make_tensor_type_proto(1, [])))
    )
    declared = {"scores": value("scores", FP32, "rows", 2), "maps": maps}
    graph = helper.make_graph(
        [node("Identity", "X", "scores"), zipmap],
        "classifier",
        [value("X", FP32, "rows", 2)],
        [declared[name] for name in outputs.split()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=9).SerializeToString())


def test_an_output_that_is_no_tensor_is_left_out(workshop: OnnxWorkshop, caplog: pytest.LogCaptureFixture) -> None:
    """The others are served; the warning names the output and how to get a tensor of it."""
    with caplog.at_level(logging.WARNING):
        one = opened(workshop, workshop.make(classifier("scores maps")))
    assert [each.name for each in one.signature.outputs] == ["scores"]
    (record,) = caplog.records
    assert "output 'maps' is a seq(map(int64,tensor(float)))" in record.getMessage()
    assert "options={'zipmap': False}" in record.getMessage()
    (instance,) = one.instances(ModelConfig(), 1)
    outputs = instance.run(batch_of({"X": sample(FP32, 2)}, 2, outputs=("scores",)))
    assert outputs.keys() == {"scores"}


@pytest.mark.filterwarnings("default")
def test_a_model_without_any_tensor_to_give_is_not_loaded(
    workshop: OnnxWorkshop, caplog: pytest.LogCaptureFixture
) -> None:
    """There would be nothing to ask it for."""
    with pytest.raises(LoadError, match=r"none of its outputs is a tensor .*'zipmap': False"):
        opened(workshop, workshop.make(classifier("maps")))
    assert len(caplog.records) == 1


# ── running ───────────────────────────────────────────────────────────────────────────────────────


def test_only_what_is_asked_for_comes_back(workshop: OnnxWorkshop) -> None:
    """ONNX Runtime copies no output that nobody wants."""
    (instance,) = opened(workshop, workshop.arithmetic()).instances(ModelConfig(), 1)
    inputs = {"A": sample(FP32, 1), "B": sample(FP32, 1)}
    assert instance.run(batch_of(inputs, 1, outputs=("DIFFERENCE",))).keys() == {"DIFFERENCE"}


@pytest.mark.parametrize("datatype", [FP32, BYTES, BF16, DATATYPES["BOOL"]], ids=lambda datatype: datatype.name)
def test_tensors_without_elements(workshop: OnnxWorkshop, datatype: DataType) -> None:
    """They go through like any other, in their shape."""
    (instance,) = opened(workshop, workshop.make(identity(datatype, "rows", "any"))).instances(ModelConfig(), 1)
    empty = np.zeros((3, 0), datatype.numpy)
    assert same(instance.run(batch_of({"X": empty}, 1, 2))["Y"], empty, datatype)


@pytest.mark.parametrize(("operator", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_a_recurrent_model_refuses_tensors_without_elements(workshop: OnnxWorkshop, operator: str, gates: int) -> None:
    """ONNX Runtime ends the whole process when such an operator gets one; it is the client's mistake."""
    weights = [
        numpy_helper.from_array(np.ones((1, gates, 2), np.float32), "W"),
        numpy_helper.from_array(np.ones((1, gates, 1), np.float32), "R"),
    ]
    graph = model(
        [node(operator, "X W R", "Y", hidden_size=1)],
        [value("X", FP32, "time", "rows", 2)],
        [value("Y", FP32, "time", 1, "rows", 1)],
        weights,
    )
    (instance,) = opened(workshop, workshop.make(graph)).instances(ModelConfig(), 1)
    assert instance.run(batch_of({"X": np.ones((3, 1, 2), np.float32)}, 1))["Y"].shape == (3, 1, 1, 1)
    with pytest.raises(ModelError, match="input 'X' has no elements") as caught:
        instance.run(batch_of({"X": np.ones((0, 1, 2), np.float32)}, 1))
    assert caught.value.status is Status.INVALID_ARGUMENT


@pytest.mark.parametrize("shape", [(), (2,)], ids=str)
def test_text_without_a_batch_axis(workshop: OnnxWorkshop, shape: tuple[int, ...]) -> None:
    """A scalar string is text or not, like any other."""
    (instance,) = opened(workshop, workshop.make(identity(BYTES, *shape))).instances(ModelConfig(), 1)
    size = int(np.prod(shape))
    good = object_array(["ä".encode()] * size, shape)
    assert same(instance.run(batch_of({"X": good}, 1))["Y"], good, BYTES)
    batch = batch_of({"X": object_array([NOT_TEXT] * size, shape)}, 1)
    instance.run(batch)
    assert batch.failures[0].status is Status.INVALID_ARGUMENT
    assert "input 'X'" in batch.failures[0].message


def test_bf16_beside_other_datatypes(workshop: OnnxWorkshop) -> None:
    """BF16 goes another way into ONNX Runtime, and takes all other tensors along."""
    names = {"X": BF16, "N": FP32, "B": DATATYPES["BOOL"]}
    graph = model(
        [*(node("Identity", name, f"{name}_") for name in names), node("Identity", "text", "T")],
        [value(name, datatype, "rows", 2) for name, datatype in names.items()],
        [*(value(f"{name}_", datatype, "rows", 2) for name, datatype in names.items()), value("T", BYTES, 1)],
        [numpy_helper.from_array(np.array(["ä"], object), "text")],
    )
    (instance,) = opened(workshop, workshop.make(graph)).instances(ModelConfig(), 1)
    inputs = {name: sample(datatype, 3) for name, datatype in names.items()}
    outputs = instance.run(batch_of(inputs, 1, 2, outputs=("X_", "N_", "B_", "T")))
    for name, datatype in names.items():
        assert same(outputs[f"{name}_"], sample(datatype, 3), datatype), name
    assert same(outputs["T"], object_array(["ä".encode()], (1,)), BYTES)


def test_text_beside_bf16_is_told_at_load(workshop: OnnxWorkshop) -> None:
    """ONNX Runtime's Python cannot run such a model; better to hear of it before the first request."""
    graph = model(
        [node("Identity", "X", "Y"), node("Identity", "S", "T")],
        [value("X", BF16, "rows", 2), value("S", BYTES, "rows", 2)],
        [value("Y", BF16, "rows", 2), value("T", BYTES, "rows", 2)],
    )
    with pytest.raises(LoadError, match="BYTES inputs beside BF16 tensors"):
        opened(workshop, workshop.make(graph))


def test_every_request_with_bad_text_is_told(workshop: OnnxWorkshop) -> None:
    """Each of them, not only the first."""
    (instance,) = opened(workshop, workshop.identity(BYTES)).instances(ModelConfig(), 1)
    x = sample(BYTES, 4)
    x[0, 0] = x[2, 1] = x[3, 0] = NOT_TEXT
    requests = [RequestInfo(rows, outputs=("Y",)) for rows in (1, 1, 2)]
    batch = ModelBatch({"X": x}, 4, requests)
    instance.run(batch)
    assert batch.failures.keys() == {0, 2}


# ── settings ──────────────────────────────────────────────────────────────────────────────────────


def parameter(name: str, text: str) -> str:
    return f'parameters {{ key: "{name}" value {{ string_value: "{text}" }} }}'


GOOD = [
    *(f"optimization {{ graph {{ level: {level} }} }}" for level in (-1, 0, 1, 2, 3)),
    parameter("intra_op_thread_count", "2"),
    parameter("intra_op_thread_count", "0"),
    parameter("inter_op_thread_count", "2"),
    parameter("execution_mode", "0"),
    parameter("execution_mode", "1") + parameter("inter_op_thread_count", "2"),
    parameter("something_else", "x"),
]


@pytest.mark.parametrize("config", GOOD)
def test_settings_that_are_taken(workshop: OnnxWorkshop, config: str) -> None:
    """The model runs as it does without them; looking them up adds nothing to the config."""
    made = workshop.make(identity(FP32, "rows", 2), config=config)
    before = text_format.MessageToString(made.config)
    (instance,) = opened(workshop, made).instances(made.config, 1)
    assert same(instance.run(batch_of({"X": sample(FP32, 2)}, 2))["Y"], sample(FP32, 2), FP32)
    assert text_format.MessageToString(made.config) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("intra_op_thread_count", "-1"),
        ("inter_op_thread_count", "two"),
        ("intra_op_thread_count", "1" * 20),
        ("inter_op_thread_count", ""),
        ("execution_mode", "2"),
    ],
)
def test_settings_that_are_refused(workshop: OnnxWorkshop, name: str, text: str) -> None:
    """A typing mistake is not silently something else."""
    made = workshop.make(identity(FP32, "rows", 2), config=parameter(name, text))
    with pytest.raises(LoadError, match=f"must be a whole number from 0 to [0-9]+, not '{text}'$") as caught:
        opened(workshop, made).instances(made.config, 1)
    assert (caught.value.model, caught.value.field) == (made.files.model, f"parameters['{name}']")
    assert caught.value.file == f"{made.files.model}/config.pbtxt"


def test_threads_are_the_servers_choice_unless_the_model_says() -> None:
    """A worker takes its part of the cores; 0 in the config is to say nothing."""

    def threads(config: str, default: int) -> int:
        options = _session_options(text_format.Parse(config, ModelConfig()), "m", default)
        number: int = options.intra_op_num_threads
        return number

    count = "intra_op_thread_count"
    assert [threads(config, 3) for config in ("", parameter(count, "0"), parameter(count, "2"))] == [3, 3, 2]
    assert threads("", 0) == 0


@pytest.mark.parametrize(
    ("level", "optimisation"), [(-1, "BASIC"), (0, "ALL"), (1, "EXTENDED"), (2, "DISABLE_ALL"), (7, "ALL")]
)
def test_the_graph_is_optimised_as_far_as_the_config_says(level: int, optimisation: str) -> None:
    """By Triton's numbers, of which 2 switches it off."""
    config = text_format.Parse(f"optimization {{ graph {{ level: {level} }} }}", ModelConfig())
    assert str(_session_options(config, "m").graph_optimization_level).endswith(optimisation)
