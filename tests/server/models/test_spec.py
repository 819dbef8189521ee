"""The spec of a model, as the hot path reads it."""

import dataclasses
from math import prod

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from penstock_proto.datatypes import DATATYPES
from penstock_server.models.completion import complete_config
from penstock_server.models.config import parse_config
from penstock_server.models.spec import Batching, ModelSpec, QueuePolicy, Reshape, TimeoutAction, model_spec
from penstock_server.tensors.spec import TensorSpec

TENSORS = """
input { name: "B" data_type: TYPE_FP32 dims: [4, -1] }
input { name: "A" data_type: TYPE_STRING dims: 1 optional: true }
output { name: "Y" data_type: TYPE_BF16 dims: 3 }
"""


def spec(text: str, **labels: tuple[str, ...]) -> ModelSpec:
    config = complete_config(parse_config('name: "m" backend: "python"' + text, file="config.pbtxt"), None)
    return model_spec(config, labels)


def test_tensors_keep_the_order_and_the_words_of_the_configuration() -> None:
    """Shapes are without the batch axis; labels come by output name."""
    found = spec("max_batch_size: 8" + TENSORS, Y=("cat", "dog", "emu"), Z=("x",))
    assert found.inputs == (
        TensorSpec("B", DATATYPES["FP32"], (4, -1)),
        TensorSpec("A", DATATYPES["BYTES"], (1,), optional=True),
    )
    assert found.outputs == (TensorSpec("Y", DATATYPES["BF16"], (3,), labels=("cat", "dog", "emu")),)
    assert found.required_inputs == 1
    assert (found.name, found.max_batch_size, found.batched, found.batch_rows) == ("m", 8, True, 8)
    assert (found.input_reshapes, found.output_reshapes) == ({}, {})


def test_the_simplest_model() -> None:
    """No batch axis, no scheduler: one request at a time in one instance."""
    found = spec(TENSORS)
    assert (found.max_batch_size, found.batched, found.batch_rows, found.instance_count) == (0, False, 1, 1)
    assert (found.decoupled, found.parameters) == (False, {})
    assert found.batching == Batching()
    assert not found.batching.enabled
    assert found.batching.policy(1) == QueuePolicy(None, None, False, TimeoutAction.REJECT)


def test_sums_and_flags() -> None:
    """Instances of all groups, the decoupled flag, the parameters."""
    found = spec(
        TENSORS + "instance_group { count: 2 } instance_group { } model_transaction_policy { decoupled: true }"
        'parameters { key: "a" value { string_value: "1" } } parameters { key: "b" value { } }'
    )
    assert found.instance_count == 3
    assert found.decoupled
    assert found.parameters == {"a": "1", "b": ""}


def test_batching_is_in_seconds_and_in_order() -> None:
    """Sizes ascending and once each; every setting arrives."""
    found = spec(
        TENSORS
        + """max_batch_size: 8
        dynamic_batching {
          preferred_batch_size: [8, 4, 8]
          max_queue_delay_microseconds: 1500
          priority_levels: 3
          default_priority_level: 2
          default_queue_policy { max_queue_size: 9 default_timeout_microseconds: 250000 allow_timeout_override: true }
          priority_queue_policy { key: 3 value { timeout_action: DELAY default_timeout_microseconds: 1 } }
        }"""
    ).batching
    usual = QueuePolicy(9, 0.25, True, TimeoutAction.REJECT)
    low = QueuePolicy(None, 1e-6, False, TimeoutAction.DELAY)
    assert found == Batching(True, (4, 8), 0.0015, False, 3, 2, usual, {3: low})
    assert [found.policy(level) for level in (1, 2, 3)] == [usual, usual, low]


def test_a_batcher_with_nothing_written_prefers_full_batches() -> None:
    """And waits for none."""
    found = spec("max_batch_size: 8 dynamic_batching { preserve_ordering: true }" + TENSORS).batching
    assert found == Batching(True, (8,), 0.0, True)


def test_without_priorities_there_is_one_level() -> None:
    """Settings that only matter with priorities change nothing without."""
    found = spec(
        "max_batch_size: 8 dynamic_batching { default_priority_level: 5 "
        "priority_queue_policy { key: 1 value { max_queue_size: 3 } } }" + TENSORS
    ).batching
    assert (found.priority_levels, found.default_priority_level, found.level_policies) == (1, 1, {})


def test_a_queue_without_batches_keeps_its_rules() -> None:
    """A model without a batch axis may still have a bound on its queue."""
    found = spec("dynamic_batching { default_queue_policy { max_queue_size: 2 } }" + TENSORS).batching
    assert not found.enabled
    assert found.policy(1).max_queue_size == 2


def test_a_spec_cannot_be_changed() -> None:
    """Threads share it."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec(TENSORS).name = "other"  # type: ignore[misc]


def test_reshapes_are_told_by_name() -> None:
    """Only where the shapes differ; inputs and outputs may share a name."""
    found = spec("""
    input { name: "X" data_type: TYPE_FP32 dims: [2, 3] reshape { shape: [6] } }
    input { name: "S" data_type: TYPE_FP32 dims: [1] reshape { shape: [] } }
    input { name: "N" data_type: TYPE_FP32 dims: [1] reshape { shape: [1] } }
    output { name: "X" data_type: TYPE_FP32 dims: [-1] reshape { shape: [1, -1] } }
    """)
    assert found.input_reshapes == {"X": Reshape((2, 3), (6,)), "S": Reshape((1,), ())}
    assert found.output_reshapes == {"X": Reshape((-1,), (1, -1))}
    assert [tensor.shape for tensor in found.inputs] == [(2, 3), (1,), (1,)]
    assert found.input_reshapes["S"].to_model((1,)) == ()
    assert found.output_reshapes["X"].to_client((1, 7)) == (7,)


PARTS = st.lists(st.integers(1, 3), max_size=2)


@given(st.data(), st.lists(PARTS, min_size=1, max_size=4))
def test_reshaping_keeps_the_elements_and_goes_back(data: st.DataObject, parts: list[list[int]]) -> None:
    """Axes of any length keep their lengths and their order, so elements stay where they are, row-major."""
    client: list[int] = []
    model: list[int] = []
    for index, part in enumerate(parts):
        client += [-1] * (index > 0) + part
        model += [-1] * (index > 0) + [prod(part)]
    assume(client != model)
    lengths = data.draw(st.lists(st.integers(0, 5), min_size=len(parts) - 1, max_size=len(parts) - 1))
    given_lengths = iter(lengths)
    shape = tuple(next(given_lengths) if axis == -1 else axis for axis in client)
    reshape = Reshape(tuple(client), tuple(model))
    there = reshape.to_model(shape)
    assert prod(there) == prod(shape)
    assert [length for length, axis in zip(there, model, strict=True) if axis == -1] == lengths
    assert reshape.to_client(there) == shape
