"""Reading config.pbtxt, and telling everything that is wrong with it."""

from contextlib import suppress

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_proto.model_config_pb2 import DataType, ModelConfig, ModelInput, ModelInstanceGroup, ModelOutput
from penstock_server.errors import LoadError
from penstock_server.models.config import config_problems, parse_config
from penstock_server.models.problems import Problem, errors_of, refuse

FILE = "m/config.pbtxt"

TENSORS = """
input { name: "A" data_type: TYPE_FP32 dims: 4 }
output { name: "B" data_type: TYPE_FP32 dims: 4 }
"""


def parse(text: str) -> ModelConfig:
    return parse_config(text, file=FILE)


def problems(text: str) -> list[tuple[str, str, str]]:
    return [(problem.level, problem.field, problem.reason) for problem in config_problems(parse(text))]


def only_problem(text: str) -> tuple[str, str, str]:
    (problem,) = problems(text)
    return problem


# ── how users write it ────────────────────────────────────────────────────────────────────────────

LISTS = """
# As the examples of Triton have it: lists of messages, commas, no trailing one.
name: "addsub"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  {
    name: "A"
    data_type: TYPE_FP32
    dims: [ 4 ]
  },
  {
    name: "B"
    data_type: TYPE_INT64
    dims: [ -1, 3 ]   # any length, then 3
  }
]
output [
  {
    name: "SUM"
    data_type: TYPE_STRING
    dims: [ 1 ]
    label_filename: "labels.txt"
  }
]
version_policy: { specific: { versions: [1, 2] } }
instance_group [ { count: 2, kind: KIND_CPU } ]
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 500 }
parameters [ { key: "threads" value: { string_value: "1" } } ]
model_transaction_policy { decoupled: False }
"""

REPEATED = """
name: 'addsub' platform: 'onnxruntime_onnx' max_batch_size: 0x8;
input: { name: "A", data_type: 11, dims: 4 }
input < name: "B" data_type: TYPE_INT64 dims: -1 dims: 3 >
output { name: "SUM" data_type: TYPE_STRING dims: 1 label_filename: "labels" ".txt" }
version_policy { specific { versions: 1 versions: 2 } }
instance_group { count: 2 kind: KIND_CPU }
dynamic_batching: { preferred_batch_size: 4 preferred_batch_size: 8 max_queue_delay_microseconds: 500 }
parameters { key: "threads" value { string_value: "1" } }
model_transaction_policy: { decoupled: false }
"""


def test_the_two_ways_of_writing_lists_mean_the_same() -> None:
    """Lists in brackets, repeated fields, comments, both quotes, numbers for enums: all are protobuf's text format."""
    assert parse(LISTS) == parse(REPEATED)
    assert config_problems(parse(LISTS)) == []


def test_an_empty_configuration_is_legal() -> None:
    """Everything can come from the model, so an empty file says nothing wrong."""
    assert problems("") == []
    assert problems("# nothing but a comment\n") == []


NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)
TYPES = st.sampled_from([each for each in DataType.values() if each != DataType.TYPE_INVALID])
DIMS = st.lists(st.integers(1, 9) | st.just(-1), min_size=1, max_size=4)


@st.composite
def good_configs(draw: st.DrawFn) -> ModelConfig:
    """Configurations with nothing wrong."""
    config = ModelConfig(name=draw(NAMES), max_batch_size=draw(st.integers(1, 64)))
    for name in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True)):
        config.input.append(ModelInput(name=name, data_type=draw(TYPES), dims=draw(DIMS)))
        config.output.append(ModelOutput(name=name, data_type=draw(TYPES), dims=draw(DIMS)))
    sizes = draw(st.lists(st.integers(1, config.max_batch_size), max_size=3))
    config.dynamic_batching.preferred_batch_size.extend(sizes)
    config.instance_group.append(ModelInstanceGroup(count=draw(st.integers(0, 4))))
    for key, value in draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)).items():
        config.parameters[key].string_value = value
    return config


@settings(max_examples=40)
@given(good_configs())
def test_what_is_printed_parses_to_the_same(config: ModelConfig) -> None:
    """A configuration survives being written as text, and a good one has no problems."""
    assert parse(text_format.MessageToString(config)) == config
    assert config_problems(config) == []


# ── what does not parse ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "line", "field", "reason"),
    [
        (
            'name: "m"\nmax_batchsize: 3',
            2,
            "max_batchsize",
            "ModelConfig has no field 'max_batchsize', did you mean 'max_batch_size'?",
        ),
        (
            "input [\n  {\n    datatype: TYPE_FP32\n  }\n]",
            3,
            "datatype",
            "ModelInput has no field 'datatype', did you mean 'data_type'?",
        ),
        ("zzz: 1", 1, "zzz", "ModelConfig has no field 'zzz'"),
        ("max_batch_size: many", 1, "max_batch_size", "Couldn't parse integer: many"),
        ('# dims: 1 {\ninput { name: "x: {" dims: [1, y] }', 2, "dims", "Couldn't parse integer: y"),
        ("\n\ninput { data_type: TYPE_FLOAT }", 3, "data_type", "has no value named TYPE_FLOAT"),
        ('name: "a"\nname: "b"', 2, "name", 'should not have multiple "name" fields'),
        ("max_batch_size: many\nbackend: 'python'", 1, "max_batch_size", "Couldn't parse integer: many"),
        ("max_batch_size: # dims: 4\n x", 2, "max_batch_size", "Couldn't parse integer: x"),
        ("max_batch_size: 99999999999", 1, "max_batch_size", "Value out of range: 99999999999"),
        ('input [ {\n name: "a" }', 2, "name", 'Expected ","'),
        ("dynamic_batching: yes", 1, "dynamic_batching", 'Expected "{"'),
        ("dynamic_batching {}\nsequence_batching {}", 2, "sequence_batching", "along with field"),
        ('name: "abc', 1, "name", "String missing ending quote"),
        ('name: "\\377"', 1, "name", "can't decode byte 0xff"),
        ("}", 1, "", "Expected identifier or number"),
    ],
)
def test_errors_of_syntax_name_file_line_field_and_reason(text: str, line: int, field: str, reason: str) -> None:
    """Whoever wrote it is led to the place, and told what is wrong there."""
    with pytest.raises(LoadError) as caught:
        parse(text)
    assert caught.value.file == FILE
    assert caught.value.field == field
    assert caught.value.message.startswith(f"line {line}: ")
    assert reason in caught.value.message
    assert str(caught.value).startswith(f"{FILE}, field '{field}': line" if field else f"{FILE}: line")


@given(st.text(max_size=40))
def test_no_text_raises_anything_but_a_load_error(text: str) -> None:
    """A configuration is a file that may hold anything."""
    with suppress(LoadError):
        parse(text)


# ── what is wrong with what was written ───────────────────────────────────────────────────────────


def test_everything_wrong_is_told_at_once() -> None:
    """Three mistakes are three problems, in one go."""
    found = problems('max_batch_size: -1 input { name: "A" data_type: TYPE_FP32 dims: 0 } instance_group { count: -2 }')
    assert found == [
        ("error", "max_batch_size", "must be 0 (no batching) or more, not -1"),
        ("error", "input[0].dims", "input 'A': an axis is at least 1, or -1 for any length, not 0"),
        ("error", "instance_group[0].count", "must be at least 1, not -2"),
    ]


@pytest.mark.parametrize("name", ["a b", "../x", ".x", "a/b", "x" * 129, "ü", "a;rm", "a\nb"])
@pytest.mark.parametrize("field", ["name", "backend", "default_model_filename"])
def test_names_are_held_to_an_allowlist(name: str, field: str) -> None:
    """What becomes part of a path, a log line or a choice of code has harmless characters only."""
    config = ModelConfig()
    setattr(config, field, name)
    (problem,) = config_problems(config)
    assert (problem.level, problem.field) == ("error", field)
    assert repr(name) in problem.reason
    assert "must be 1 to 128 of the characters" in problem.reason


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "-", "x" * 128, "resnet50.v1-7"])
def test_good_names_pass(name: str) -> None:
    """All that Triton's users call their models passes."""
    assert config_problems(ModelConfig(name=name)) == []


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("version_policy { latest { } }", "version_policy.latest.num_versions", "must be at least 1"),
        ("version_policy { specific { } }", "version_policy.specific.versions", "names no version"),
        (
            "version_policy { specific { versions: 0 } }",
            "version_policy.specific.versions",
            "0 is not a version: they begin at 1",
        ),
        ("input { data_type: TYPE_FP32 dims: 1 }", "input[0].name", "the input has no name"),
        (
            'output { name: "A" data_type: TYPE_FP32 dims: 1 } output { name: "A" data_type: TYPE_INT8 dims: 1 }',
            "output[0].name",
            "'A' is the name of more than one output",
        ),
        ('input { name: "A" dims: 1 }', "input[0].data_type", "input 'A' needs a data type, such as TYPE_FP32"),
        (
            'input { name: "A" data_type: 99 dims: 1 }',
            "input[0].data_type",
            "input 'A' needs a data type, such as TYPE_FP32",
        ),
        (
            'output { name: "A" data_type: TYPE_BOOL }',
            "output[0].dims",
            "output 'A' needs dims; a single value per row is [1], with a reshape if need be",
        ),
        (
            'input { name: "A" data_type: TYPE_BOOL dims: [2, -1] reshape { shape: [-2] } }',
            "input[0].reshape.shape",
            "input 'A': an axis is at least 1, or -1 for any length, not -2",
        ),
        (
            'input { name: "A" data_type: TYPE_BOOL dims: [2, 3] reshape { shape: [7] } }',
            "input[0].reshape",
            "input 'A': [7] does not hold the elements of dims [2, 3]",
        ),
        (
            'input { name: "A" data_type: TYPE_BOOL dims: [2, -1] reshape { shape: [-1, 2] } }',
            "input[0].reshape",
            "input 'A': [-1, 2] does not hold the elements of dims [2, -1]",
        ),
        (
            'input { name: "A" data_type: TYPE_BOOL dims: 1 allow_ragged_batch: true }',
            "input[0].allow_ragged_batch",
            "ragged batches are not supported by this version",
        ),
        (
            'input { name: "A" data_type: TYPE_BOOL dims: 1 format: FORMAT_NHWC }',
            "input[0].format",
            "input 'A': an image format needs 3 dims",
        ),
        (
            'input { name: "A" data_type: TYPE_BOOL dims: 1 is_shape_tensor: true }',
            "input[0].is_shape_tensor",
            "shape tensors exist only for TensorRT",
        ),
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: [4, 5] }",
            "dynamic_batching.preferred_batch_size",
            "5 is not between 1 and max_batch_size (4)",
        ),
        (
            "dynamic_batching { preferred_batch_size: 0 }",
            "dynamic_batching.preferred_batch_size",
            "0 is not between 1 and max_batch_size (0)",
        ),
        (
            "dynamic_batching { priority_levels: 2 }",
            "dynamic_batching.default_priority_level",
            "0 is not between 1 and priority_levels (2)",
        ),
        (
            "dynamic_batching { priority_levels: 1 default_priority_level: 1 priority_queue_policy { key: 2 } }",
            "dynamic_batching.priority_queue_policy",
            "2 is not between 1 and priority_levels (1)",
        ),
        (
            "dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }",
            "dynamic_batching.preserve_ordering",
            "contradicts priority_levels 2: priorities reorder requests",
        ),
        (
            "dynamic_batching { preserve_ordering: true default_queue_policy { timeout_action: DELAY "
            "default_timeout_microseconds: 9 } }",
            "dynamic_batching.default_queue_policy.timeout_action",
            "DELAY contradicts preserve_ordering",
        ),
        (
            "instance_group { kind: KIND_GPU gpus: 0 }",
            "instance_group[0].kind",
            "KIND_GPU: this version runs models on the CPU only; use KIND_CPU, or KIND_AUTO to take what there is",
        ),
        (
            "instance_group {} instance_group { kind: KIND_CPU gpus: 0 }",
            "instance_group[1].gpus",
            "KIND_CPU contradicts a list of GPUs",
        ),
        (
            'backend: "python" platform: "onnxruntime_onnx"',
            "platform",
            "'onnxruntime_onnx' contradicts backend 'python'",
        ),
        ('platform: "ensemble"', "ensemble_scheduling", "ensembles are not supported by this version"),
        ("ensemble_scheduling { }", "ensemble_scheduling", "ensembles are not supported by this version"),
        ("response_cache { enable: true }", "response_cache", "a response cache is not supported by this version"),
        ("batch_input { }", "batch_input", "ragged batches are not supported by this version"),
        ("batch_output { }", "batch_output", "ragged batches are not supported by this version"),
        (
            'model_operations { op_library_filename: "x.so" }',
            "model_operations",
            "libraries of custom operators are not loaded on a configuration's word",
        ),
        (
            'model_repository_agents { agents { name: "checksum" } }',
            "model_repository_agents",
            "repository agents are not supported: what they check would go unchecked",
        ),
    ],
)
def test_errors_name_the_field_and_the_reason(text: str, field: str, reason: str) -> None:
    """Each of these keeps the model from loading, and nothing else is said."""
    assert only_problem(text) == ("error", field, reason)


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        (
            "model_transaction_policy { decoupled: true }",
            "model_transaction_policy.decoupled",
            "a decoupled model answers on ModelStreamInfer only; ModelInfer refuses it",
        ),
        (
            TENSORS + "dynamic_batching { }",
            "dynamic_batching",
            "with max_batch_size 0 requests are queued but never batched",
        ),
        (
            "dynamic_batching { default_priority_level: 1 }",
            "dynamic_batching.default_priority_level",
            "has no effect without priority_levels",
        ),
        (
            "dynamic_batching { default_queue_policy { allow_timeout_override: true } }",
            "dynamic_batching.default_queue_policy.allow_timeout_override",
            "has no effect without default_timeout_microseconds: a request may only shorten a timeout",
        ),
        (
            "instance_group { gpus: 0 }",
            "instance_group[0].gpus",
            "ignored: this version runs models on the CPU only",
        ),
        (
            'instance_group { rate_limiter { resources { name: "R" count: 1 } } }',
            "instance_group[0].rate_limiter",
            "ignored by this version",
        ),
        ("instance_group { passive: true }", "instance_group[0].passive", "ignored by this version"),
        ('metric_tags { key: "a" value: "b" }', "metric_tags", "ignored by this version"),
        (
            'optimization { execution_accelerators { gpu_execution_accelerator: [ { name: "tensorrt" } ] } }',
            "optimization.execution_accelerators",
            "ignored by this version",
        ),
    ],
)
def test_what_is_ignored_is_a_warning(text: str, field: str, reason: str) -> None:
    """A model that uses these loads, and its owner is told what it does not get."""
    assert only_problem(text) == ("warning", field, reason)


@pytest.mark.parametrize(
    "text",
    [
        "optimization { graph { level: 1 } input_pinned_memory { enable: true } }",
        "instance_group [ { kind: KIND_AUTO }, { kind: KIND_MODEL }, { kind: KIND_CPU count: 3 } ]",
        'input { name: "A" data_type: TYPE_BOOL dims: [2, -1, 6] reshape { shape: [1, 2, -1, 3, 2] } }',
        'input { name: "A" data_type: TYPE_BOOL dims: 1 reshape { shape: [] } }',
        "dynamic_batching { preferred_batch_size: 999 }",  # as long as the model may say how large batches are
        "dynamic_batching { preserve_ordering: true default_queue_policy { timeout_action: DELAY } }",
        'backend: "onnxruntime" platform: "onnxruntime_onnx"',
        'backend: "identity"',
        "response_cache { enable: false }",
    ],
)
def test_what_is_supported_is_no_problem(text: str) -> None:
    """No false alarms."""
    assert problems(text) == []


def test_preferred_sizes_need_a_batch_size_that_cannot_come_from_the_model() -> None:
    """With inputs and outputs declared, max_batch_size 0 means no batches, so no size is right."""
    found = problems(TENSORS + "dynamic_batching { preferred_batch_size: 4 }")
    assert ("error", "dynamic_batching.preferred_batch_size", "4 is not between 1 and max_batch_size (0)") in found


# ── problems as values ────────────────────────────────────────────────────────────────────────────


def test_refusing_tells_all_errors_and_no_warnings() -> None:
    """One error is raised as itself, several as a list; warnings alone are nothing to refuse."""
    warning = Problem("w", "meh", "warning")
    first, second = Problem("a", "is bad"), Problem("b", "is worse", file="other")
    assert errors_of([warning, first]) == [first]
    refuse([warning], model="m", file=FILE)
    with pytest.raises(LoadError) as caught:
        refuse([warning, first], model="m", file=FILE)
    assert str(caught.value) == f"{FILE}, field 'a': is bad"
    assert (caught.value.model, caught.value.file, caught.value.field) == ("m", FILE, "a")
    with pytest.raises(LoadError) as caught:
        refuse([first, warning, second], model="m", file=FILE)
    assert str(caught.value) == f"{FILE}: 2 problems\n  field 'a': is bad\n  other, field 'b': is worse"
