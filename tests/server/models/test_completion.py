"""From a configuration as written to a complete one."""

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from penstock_proto.datatypes import DATATYPES
from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.errors import LoadError
from penstock_server.models.completion import complete_config
from penstock_server.models.config import parse_config
from penstock_server.models.signature import Signature, SignatureTensor

DEFAULTS = """
backend: "onnxruntime"
platform: "onnxruntime_onnx"
default_model_filename: "model.onnx"
version_policy { latest { num_versions: 1 } }
instance_group { name: "m" kind: KIND_CPU count: 1 }
optimization { input_pinned_memory { enable: true } output_pinned_memory { enable: true } }
"""
TENSORS = """
input { name: "A" data_type: TYPE_FP32 dims: 4 }
output { name: "B" data_type: TYPE_INT64 dims: 2 dims: -1 }
"""


def tensor(name: str, datatype: str, *shape: int, optional: bool = False) -> SignatureTensor:
    return SignatureTensor(name, DATATYPES[datatype], shape, optional)


BATCHABLE = Signature((tensor("A", "FP32", -1, 4),), (tensor("B", "INT64", -1, 2, -1),))
FIXED = Signature((tensor("A", "FP32", 1, 4),), (tensor("B", "INT64", -1, 2),))


def parse(text: str) -> ModelConfig:
    return parse_config(text, file="config.pbtxt")


def complete(text: str, signature: Signature | None = BATCHABLE, default: int = 4) -> ModelConfig:
    config = parse('name: "m" backend: "onnxruntime"' + text)
    before = text_format.MessageToString(config)
    completed = complete_config(config, signature, default_max_batch_size=default)
    assert text_format.MessageToString(config) == before, "what was written is not touched"
    return completed


def refusal(text: str, signature: Signature | None = BATCHABLE) -> str:
    with pytest.raises(LoadError) as caught:
        complete(text, signature)
    assert (caught.value.model, caught.value.file) == ("m", "m/config.pbtxt")
    message = str(caught.value)
    assert message.startswith("m/config.pbtxt")
    return message.removeprefix("m/config.pbtxt").lstrip(":, ")


# ── what comes from the model ─────────────────────────────────────────────────────────────────────


def test_an_empty_configuration_comes_from_the_model() -> None:
    """A first axis of any length everywhere is the batch: it leaves the dims, and batching is on."""
    expected = 'name: "m" max_batch_size: 4 dynamic_batching { preferred_batch_size: 4 }' + DEFAULTS + TENSORS
    assert complete("") == parse(expected)


def test_a_model_with_a_fixed_first_axis_anywhere_is_not_batched() -> None:
    """Its dims are all of its axes, and nothing is batched."""
    completed = complete("", FIXED)
    assert (completed.max_batch_size, completed.HasField("dynamic_batching")) == (0, False)
    assert (list(completed.input[0].dims), list(completed.output[0].dims)) == ([1, 4], [-1, 2])


def test_a_batch_size_of_one_needs_no_batcher() -> None:
    """There is nothing to put together."""
    completed = complete("", default=1)
    assert (completed.max_batch_size, completed.HasField("dynamic_batching")) == (1, False)


def test_the_batch_size_that_was_written_wins() -> None:
    """The model says only whether it can be batched, not how far."""
    completed = complete("max_batch_size: 16")
    assert completed.max_batch_size == 16
    assert completed.dynamic_batching.preferred_batch_size == [16]


def test_the_scheduler_that_was_written_wins() -> None:
    """Dynamic batching is switched on only where nothing was chosen."""
    written = complete("dynamic_batching { preferred_batch_size: 2 max_queue_delay_microseconds: 7 }")
    assert written.dynamic_batching.preferred_batch_size == [2]
    assert written.dynamic_batching.max_queue_delay_microseconds == 7
    sequence = complete("sequence_batching { oldest { } }")
    assert sequence.WhichOneof("scheduling_choice") == "sequence_batching"
    assert sequence.sequence_batching.max_sequence_idle_microseconds == 1_000_000
    assert sequence.sequence_batching.oldest.preferred_batch_size == [4]


def test_declared_tensors_say_that_there_is_no_batch() -> None:
    """With both sides declared, max_batch_size 0 is meant, though the model could be batched."""
    completed = complete(
        'input { name: "A" data_type: TYPE_FP32 dims: [-1, 4] } '
        'output { name: "B" data_type: TYPE_INT64 dims: [-1, 2, 7] }'
    )
    assert (completed.max_batch_size, completed.HasField("dynamic_batching")) == (0, False)
    assert list(completed.output[0].dims) == [-1, 2, 7]


def test_batching_without_a_scheduler_stays_without() -> None:
    """Who declares everything and no scheduler gets one request at a time, as with Triton."""
    assert not complete("max_batch_size: 8" + TENSORS).HasField("dynamic_batching")


def test_one_declared_side_is_kept_and_the_other_filled_in() -> None:
    """The declared side is in the operator's order and words."""
    completed = complete('output { name: "B" data_type: TYPE_INT64 dims: [2, 3] label_filename: "l" }')
    assert completed.max_batch_size == 4
    assert completed.input[0].name == "A"
    assert list(completed.output[0].dims) == [2, 3]
    assert completed.output[0].label_filename == "l"


def test_tensors_without_axes_are_reshaped() -> None:
    """Requests know no scalars: clients send [1], with or without a batch."""
    scalars = Signature((tensor("A", "FP32"),), (tensor("B", "FP32", 2),))
    completed = complete("", scalars)
    assert list(completed.input[0].dims) == [1]
    assert completed.input[0].HasField("reshape")
    assert not completed.output[0].HasField("reshape")
    rows = Signature((tensor("A", "FP32", -1),), (tensor("B", "FP32", -1),))
    completed = complete("", rows)
    assert (completed.max_batch_size, list(completed.input[0].dims)) == (4, [1])
    assert completed.input[0].HasField("reshape")
    written = complete(
        'input { name: "A" data_type: TYPE_FP32 dims: 1 } output { name: "B" data_type: TYPE_FP32 dims: 2 }', scalars
    )
    assert written.input[0].HasField("reshape")


def test_tensors_of_the_sequence_batcher_are_not_the_clients() -> None:
    """Controls and states belong to the model and are neither offered nor missing."""
    signature = Signature(
        (tensor("X", "INT32", -1, 1), tensor("START", "INT32", -1, 1), tensor("S", "FP32", -1, 8)),
        (tensor("Y", "INT32", -1, 1), tensor("S_OUT", "FP32", -1, 8)),
    )
    text = """
    sequence_batching {
      control_input [ { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] } ] } ]
      state [ { input_name: "S" output_name: "S_OUT" data_type: TYPE_FP32 dims: [8] } ]
    }"""
    completed = complete(text, signature)
    assert [each.name for each in completed.input] == ["X"]
    assert [each.name for each in completed.output] == ["Y"]


def test_inputs_with_a_default_are_offered_only_if_declared() -> None:
    """The model runs without them, so they are not the clients' business unless the operator says so."""
    signature = Signature((*BATCHABLE.inputs, tensor("C", "FP32", -1, 1, optional=True)), BATCHABLE.outputs)
    assert [each.name for each in complete("", signature).input] == ["A"]
    declared = complete(
        "max_batch_size: 2" + TENSORS + 'input { name: "C" data_type: TYPE_FP32 dims: 1 optional: true }', signature
    )
    assert [each.name for each in declared.input] == ["A", "C"]


def test_fewer_outputs_than_the_model_has_may_be_declared() -> None:
    """An operator may keep some to himself, and choose the order."""
    signature = Signature(BATCHABLE.inputs, (tensor("Z", "FP32", -1), *BATCHABLE.outputs))
    assert [each.name for each in complete("max_batch_size: 2" + TENSORS, signature).output] == ["B"]


def test_a_model_that_does_not_tell_is_believed() -> None:
    """Python models have no signature; the configuration is all there is."""
    completed = complete_config(parse('name: "m" backend: "python"' + TENSORS), None)
    assert completed == parse(
        'name: "m" backend: "python" default_model_filename: "model.py" version_policy { latest { num_versions: 1 } } '
        'instance_group { name: "m" kind: KIND_CPU count: 1 }'
        "optimization { input_pinned_memory { enable: true } output_pinned_memory { enable: true } }" + TENSORS
    )


def test_pinned_memory_is_on_unless_it_was_switched_off() -> None:
    """As Triton has it; what one side of the model says is not said of the other."""
    completed = complete("optimization { output_pinned_memory { enable: false } }")
    assert completed.optimization.input_pinned_memory.enable
    assert not completed.optimization.output_pinned_memory.enable


def test_instance_groups_get_names_counts_and_kinds() -> None:
    """What is given is kept; AUTO is the CPU, as long as there is nothing else."""
    completed = complete(
        'instance_group { count: 3 } instance_group { name: "x" kind: KIND_MODEL } instance_group { kind: KIND_CPU }'
    )
    groups = [(each.name, each.count, each.kind) for each in completed.instance_group]
    kinds = completed.instance_group[0]
    assert groups == [("m_0", 3, kinds.KIND_CPU), ("x", 1, kinds.KIND_MODEL), ("m_2", 1, kinds.KIND_CPU)]


def test_gpus_of_an_automatic_group_are_forgotten() -> None:
    """They were warned of; a CPU has none, and a list of them would contradict it."""
    completed = complete("instance_group { gpus: [ 0, 1 ] }")
    assert not completed.instance_group[0].gpus
    assert completed.instance_group[0].kind == completed.instance_group[0].KIND_CPU


SHAPES = st.lists(st.sampled_from([-1, 1, 2]), max_size=3).map(tuple)


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    """Models with any mixture of axes."""

    def tensors(prefix: str) -> tuple[SignatureTensor, ...]:
        types = draw(st.lists(st.sampled_from(list(DATATYPES)), min_size=1, max_size=3))
        return tuple(tensor(f"{prefix}{index}", each, *draw(SHAPES)) for index, each in enumerate(types))

    return Signature(tensors("I"), tensors("O"))


@given(signatures(), st.integers(0, 9))
def test_what_is_complete_stays_as_it_is(signature: Signature, default: int) -> None:
    """Any model completes without a configuration, and its complete configuration fits it and completes to itself."""
    completed = complete("", signature, default)
    assert complete_config(completed, signature, default_max_batch_size=default) == completed
    assert (completed.max_batch_size > 0) == (signature.batchable and default > 0)


def test_a_model_without_any_configuration() -> None:
    """Such as a single file: batched if every first axis is of any length and the caller wants batches."""
    batched = complete("", BATCHABLE, 64)
    assert (batched.max_batch_size, list(batched.input[0].dims)) == (64, [4])
    assert batched.dynamic_batching.preferred_batch_size == [64]
    assert complete("", FIXED, 64).max_batch_size == 0
    unbatched = complete("", BATCHABLE, 0)
    assert (unbatched.max_batch_size, list(unbatched.input[0].dims)) == (0, [-1, 4])
    constant = Signature((), (tensor("B", "FP32", -1),))
    assert complete("", constant, 64).max_batch_size == 0


# ── what contradicts the model ────────────────────────────────────────────────────────────────────


def test_a_model_that_cannot_be_batched() -> None:
    """The operator asked for batches: the tensors that are in the way are named."""
    message = refusal("max_batch_size: 8", FIXED)
    assert message == "field 'max_batch_size': the model cannot be batched: the first axis of 'A' [1,4] is fixed"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            'max_batch_size: 2 input { name: "A" data_type: TYPE_FP64 dims: 4 }',
            "field 'input[0].data_type': input 'A': the model has TYPE_FP32, got TYPE_FP64",
        ),
        (
            'max_batch_size: 2 input { name: "A" data_type: TYPE_FP32 dims: 5 }',
            "field 'input[0].dims': input 'A': the model has shape [-1,4], got [-1,5], "
            "whose first axis is the batch (max_batch_size is above 0)",
        ),
        (
            'max_batch_size: 2 input { name: "A" data_type: TYPE_FP32 dims: -1 }',
            "field 'input[0].dims': input 'A': the model has shape [-1,4], got [-1,-1], "
            "whose first axis is the batch (max_batch_size is above 0)",
        ),
        (
            'max_batch_size: 2 output { name: "B" data_type: TYPE_INT64 dims: [12] reshape { shape: [3, 4] } }',
            "field 'output[0].reshape.shape': output 'B': the model has shape [-1,2,-1], got [-1,3,4], "
            "whose first axis is the batch (max_batch_size is above 0)",
        ),
        (
            TENSORS,
            "field 'input[0].dims': input 'A': the model has shape [-1,4], got [4]; is max_batch_size missing?",
        ),
        (
            'max_batch_size: 2 output { name: "C" data_type: TYPE_INT64 dims: 1 }',
            "field 'output[0].name': the model has no output 'C', but 'B'",
        ),
        (
            'max_batch_size: 2 input { name: "A" data_type: TYPE_FP32 dims: 4 optional: true }',
            "field 'input': input 'A' cannot be optional: the model needs it",
        ),
    ],
)
def test_contradictions_name_field_expected_and_got(text: str, reason: str) -> None:
    """Whoever wrote it reads what the model has instead."""
    assert reason in refusal(text)


def test_a_batch_axis_is_asked_for_only_where_there_is_one() -> None:
    """A fixed first axis cannot be the batch, so max_batch_size is not what is missing."""
    message = refusal(
        'input { name: "A" data_type: TYPE_FP32 dims: 4 } output { name: "B" data_type: TYPE_INT64 dims: [-1, 2] }',
        FIXED,
    )
    assert message == "field 'input[0].dims': input 'A': the model has shape [1,4], got [4]"


def test_a_tensor_without_axes_has_no_batch_axis_either() -> None:
    """The field that is named is the one that was written."""
    scalars = Signature((tensor("A", "FP32"),), BATCHABLE.outputs)
    text = 'max_batch_size: 2 input { name: "A" data_type: TYPE_FP32 dims: 1 }'
    text += 'output { name: "B" data_type: TYPE_INT64 dims: [2, -1] }'
    assert refusal(text, scalars) == (
        "field 'input[0].dims': input 'A': the model has shape [], got [-1,1], "
        "whose first axis is the batch (max_batch_size is above 0)"
    )


def test_reshapes_are_held_against_the_model() -> None:
    """The model has the reshape's shape, clients have dims."""
    completed = complete(
        'max_batch_size: 2 input { name: "A" data_type: TYPE_FP32 dims: [2, 2] reshape { shape: [4] } }'
    )
    assert list(completed.input[0].dims) == [2, 2]


def test_all_contradictions_are_told_at_once() -> None:
    """Of names, types, shapes and the rest of the configuration."""
    message = refusal("""
    input { name: "A" data_type: TYPE_FP64 dims: [-1, 5] }
    output { name: "C" data_type: TYPE_FP32 dims: [1] }
    output { name: "B" data_type: TYPE_INT64 dims: [2] }
    instance_group { kind: KIND_GPU }
    """)
    assert message.splitlines() == [
        "5 problems",
        "  field 'input[0].data_type': input 'A': the model has TYPE_FP32, got TYPE_FP64",
        "  field 'input[0].dims': input 'A': the model has shape [-1,4], got [-1,5]",
        "  field 'output[0].name': the model has no output 'C', but 'B'",
        "  field 'output[1].dims': output 'B': the model has shape [-1,2,-1], got [2]",
        "  field 'instance_group[0].kind': KIND_GPU: this version runs models on the CPU only; use KIND_CPU, or "
        "KIND_AUTO to take what there is",
    ]


def test_inputs_of_the_model_cannot_be_left_out() -> None:
    """It could not run."""
    signature = Signature((*BATCHABLE.inputs, tensor("Z", "FP32", -1, 1)), BATCHABLE.outputs)
    message = refusal('max_batch_size: 2 input { name: "A" data_type: TYPE_FP32 dims: 4 }', signature)
    assert message == "field 'input': input 'Z' must be declared: the model needs it"


def test_tensors_that_nobody_tells() -> None:
    """Neither the configuration nor the model."""
    assert refusal("", None).splitlines() == [
        "2 problems",
        "  field 'input': no inputs are declared, and the model does not tell them",
        "  field 'output': no outputs are declared, and the model does not tell them",
    ]
    message = refusal("", Signature(BATCHABLE.inputs, ()))
    assert message == "field 'output': no outputs are declared, and the model has none"


def test_warnings_do_not_refuse() -> None:
    """A decoupled model and one of sequences load."""
    assert complete("sequence_batching { } model_transaction_policy { decoupled: true }").max_batch_size == 4
