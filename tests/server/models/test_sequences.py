"""`sequence_batching` in a configuration: what it becomes, and everything that can be wrong with it at once."""

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from penstock_proto import byte_tensors
from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.errors import LoadError
from penstock_server.models.completion import complete_config
from penstock_server.models.sequences import ControlKind, SequenceSpec, read_sequences

TENSORS = """
name: "m" max_batch_size: 4
input { name: "X" data_type: TYPE_FP32 dims: 2 }
output { name: "Y" data_type: TYPE_FP32 dims: 2 }
instance_group { count: 1 kind: KIND_CPU }
"""
STATE = 'state { input_name: "S" output_name: "T" data_type: TYPE_FP32 dims: 2 dims: 3 %s }'


def read(batching: str, folder: Path = Path("m"), more: str = "") -> SequenceSpec:
    config = text_format.Parse(f"{TENSORS} {more} sequence_batching {{ {batching} }}", ModelConfig())
    spec = read_sequences(complete_config(config, None), folder)
    assert spec is not None
    return spec


def refusal(batching: str, folder: Path = Path("m"), more: str = "") -> str:
    with pytest.raises(LoadError) as caught:
        read(batching, folder, more)
    return str(caught.value)


def test_most_models_know_no_sequences() -> None:
    """None says so."""
    config = text_format.Parse(TENSORS, ModelConfig())
    assert read_sequences(complete_config(config, None), Path("m")) is None


def test_by_default_a_sequence_keeps_its_row_for_a_second_of_silence() -> None:
    """As in Triton: direct, a seat for each row of a batch."""
    spec = read("")
    assert (spec.direct, spec.idle, spec.seats, spec.iterative) == (True, 1.0, 4, False)


def test_oldest_has_candidates_and_the_batchers_knobs() -> None:
    """They mean what they mean in dynamic_batching."""
    spec = read(
        "oldest { max_candidate_sequences: 7 preferred_batch_size: [4, 2] max_queue_delay_microseconds: 500 "
        "preserve_ordering: true } max_sequence_idle_microseconds: 250000 iterative_sequence: true"
    )
    assert (spec.direct, spec.seats, spec.idle, spec.iterative) == (False, 7, 0.25, True)
    assert (spec.preferred_sizes, spec.max_queue_delay, spec.preserve_ordering) == ((2, 4), 0.0005, True)


@pytest.mark.parametrize(
    ("direct", "sizes", "delay"),
    [
        ("max_queue_delay_microseconds: 500", (), 0.0),
        ("max_queue_delay_microseconds: 500 minimum_slot_utilization: 0.6", (3,), 0.0005),
        ("minimum_slot_utilization: 0.6", (), 0.0),
    ],
)
def test_direct_waits_only_for_a_utilization_of_slots(direct: str, sizes: tuple[int, ...], delay: float) -> None:
    """Without one, or without time to wait, it runs what is there."""
    spec = read(f"direct {{ {direct} }}")
    assert (spec.preferred_sizes, spec.max_queue_delay) == (sizes, delay)


def test_controls() -> None:
    """The type follows from the field that has the values."""
    spec = read(
        'control_input { name: "A" control { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] } }'
        'control_input { name: "B" control { kind: CONTROL_SEQUENCE_END fp32_false_true: [-1, 1] } }'
        'control_input { name: "C" control { kind: CONTROL_SEQUENCE_READY bool_false_true: [false, true] } }'
        'control_input { name: "D" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } }'
    )
    kinds = [(each.name, each.kind, each.datatype.name, each.false, each.true) for each in spec.controls]
    assert kinds == [
        ("A", ControlKind.START, "INT32", 0, 1),
        ("B", ControlKind.END, "FP32", -1.0, 1.0),
        ("C", ControlKind.READY, "BOOL", False, True),
        ("D", ControlKind.CORRID, "BYTES", 0, 1),
    ]
    assert spec.id_is_text


def test_a_state_begins_with_zeros_or_from_a_file(tmp_path: Path) -> None:
    """The file has the elements as raw contents have them."""
    (spec,) = read(STATE % "").states
    assert (spec.output, spec.tensor.name, spec.tensor.shape) == ("T", "S", (2, 3))
    assert not spec.initial.any()
    (tmp_path / "initial_state").mkdir()
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "initial_state" / "six").write_bytes(values.tobytes())
    given = 'initial_state { data_type: TYPE_FP32 dims: 2 dims: 3 data_file: "six" name: "n" }'
    (spec,) = read(STATE % given, tmp_path).states
    assert (spec.initial == values).all()


def test_states_are_bounded_before_they_are_allocated() -> None:
    """Every seat counts."""
    text = 'state { input_name: "S" output_name: "T" data_type: TYPE_FP32 dims: 1000000 }'
    assert read(text).state_bytes == 4_000_000
    assert "more than the 1073741824 that they may" in refusal(text + "oldest { max_candidate_sequences: 300 }")


def test_states_of_strings_count_the_strings(tmp_path: Path) -> None:
    """And not only what refers to them."""
    (tmp_path / "initial_state").mkdir()
    (tmp_path / "initial_state" / "long").write_bytes(byte_tensors.pack([b"x" * 1_000_000]))
    given = 'initial_state { data_type: TYPE_STRING dims: 1 data_file: "long" name: "n" }'
    text = f'state {{ input_name: "S" output_name: "T" data_type: TYPE_STRING dims: 1 {given} }}'
    assert 1_000_000 < read(text, tmp_path).state_bytes < 1_001_000
    assert "more than the 1073741824 that they may" in refusal(
        text + "oldest { max_candidate_sequences: 1100 }", tmp_path
    )


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ("", (1, 3)),
        ('initial_state { data_type: TYPE_FP32 dims: [0, 3] zero_data: true name: "n" }', (0, 3)),
        ('initial_state { data_type: TYPE_FP32 dims: [7, 3] zero_data: true name: "n" }', (7, 3)),
    ],
)
def test_an_axis_of_any_length_is_at_first_as_long_as_the_initial_state(given: str, shape: tuple[int, ...]) -> None:
    """Or 1, as with Triton."""
    text = f'state {{ input_name: "S" output_name: "T" data_type: TYPE_FP32 dims: [-1, 3] {given} }}'
    (spec,) = read(text).states
    assert (spec.tensor.shape, spec.initial.shape) == ((-1, 3), shape)
    assert not spec.initial.any()


@pytest.mark.parametrize("dims", ["[-1, 3]", "[2, 2]", "[2]"])
def test_an_initial_state_has_a_shape_that_the_state_may_have(dims: str) -> None:
    """Every axis with a length, and where the state has one with the same."""
    given = f'initial_state {{ data_type: TYPE_FP32 dims: {dims} zero_data: true name: "n" }}'
    text = f'state {{ input_name: "S" output_name: "T" data_type: TYPE_FP32 dims: [-1, 3] {given} }}'
    assert "it needs the state's data type and dims [-1,3], each with a length" in refusal(text)


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    """Whoever has five mistakes wants to hear of five."""
    text = refusal(
        'control_input { name: "X" control { kind: CONTROL_SEQUENCE_START int32_false_true: [0] } }'
        'control_input { name: "D" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32 } }'
        'state { input_name: "D" output_name: "T" data_type: TYPE_FP32 dims: -2 }'
        'state { input_name: "E" output_name: "T" data_type: TYPE_INVALID dims: 1 }'
        + STATE % 'initial_state { data_type: TYPE_FP32 dims: 2 dims: 3 data_file: "none" name: "n" }'
        + "oldest { preferred_batch_size: 5 }",
        tmp_path,
    )
    for expected in (
        "'X' is filled by the server",
        "START needs exactly one",
        "CORRID needs one of the data types",
        "'D' is declared twice",
        "output 'T' is declared twice",
        "an axis has a length, or -1 for any, got dims [-2]",
        "a state needs a data type",
        "state[2].initial_state",
        "5 is not between 1 and max_batch_size (4)",
    ):
        assert expected in text


def test_a_decoupled_model_has_sequences_only_if_it_is_iterative() -> None:
    """A generator has its own state; a step of an iterative model gives one response."""
    decoupled = "model_transaction_policy { decoupled: true }"
    assert "needs iterative_sequence" in refusal("", more=decoupled)
    assert read("iterative_sequence: true", more=decoupled).iterative
