"""Scheduling options in a configuration's `parameters`: what they are, and what is wrong with them."""

from math import inf

import pytest

from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.errors import LoadError
from penstock_server.models.config import parse_config
from penstock_server.models.scheduling import Scheduling, read_scheduling
from penstock_server.models.spec import model_spec

TENSORS = """
    max_batch_size: 8
    input { name: "X" data_type: TYPE_FP32 dims: -1 }
    input { name: "MASK" data_type: TYPE_FP32 dims: -1 optional: true }
"""


def config_with(**parameters: str) -> ModelConfig:
    written = "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{text}" }} }}\n' for key, text in parameters.items()
    )
    return parse_config(TENSORS + written, file="config.pbtxt")


def test_nothing_said() -> None:
    """Requests larger than a batch are split; nothing else is on."""
    assert read_scheduling(config_with()) == (Scheduling(), [])
    default = Scheduling()
    assert (default.policy, default.slo, default.split_oversize) == (None, inf, True)


def test_everything_said() -> None:
    """Times are microseconds there and seconds here."""
    config = config_with(
        scheduling_policy="deadline",
        slo_microseconds="50000",
        allowed_batch_sizes="1, 4,8",
        split_oversize="false",
        length_buckets="16,32",
        length_mask_input="MASK",
        priority_ageing_microseconds="2000000",
        tenant_weights="gold=4, free=0.5",
        known_tenants_only="true",
        device_weight="2.5",
        something_of_the_models="x",
    )
    expected = Scheduling(
        policy="deadline",
        slo=0.05,
        allowed_batch_sizes=(1, 4, 8),
        split_oversize=False,
        length_buckets=(16, 32),
        length_mask_input="MASK",
        priority_ageing=2.0,
        tenant_weights={"gold": 4.0, "free": 0.5},
        known_tenants_only=True,
        device_weight=2.5,
    )
    assert read_scheduling(config) == (expected, [])
    assert model_spec(config).scheduling == expected


SIZES = "must be ascending whole numbers, such as 1,4,16"
TENANTS = "must be tenants with weights, such as gold=4,free=1"


@pytest.mark.parametrize(
    ("key", "text", "problem"),
    [
        ("scheduling_policy", "lifo", "must be one of eager, fixed, deadline"),
        ("scheduling_policy", "", "must be one of eager, fixed, deadline"),
        ("slo_microseconds", "0", "must be a number of microseconds above 0"),
        ("slo_microseconds", "5ms", "must be a whole number"),
        ("slo_microseconds", "-5", "must be a whole number"),
        ("slo_microseconds", "1.5", "must be a whole number"),
        ("priority_ageing_microseconds", "0", "must be a number of microseconds above 0"),
        ("allowed_batch_sizes", "", SIZES),
        ("allowed_batch_sizes", "4,2,8", SIZES),
        ("allowed_batch_sizes", "4,4,8", SIZES),
        ("allowed_batch_sizes", "0,8", SIZES),
        ("allowed_batch_sizes", "4,eight", SIZES),
        ("allowed_batch_sizes", "2,4", "the last one must be max_batch_size (8), not 4"),
        ("split_oversize", "yes", "must be true or false"),
        ("split_oversize", "True", "must be true or false"),
        ("known_tenants_only", "1", "must be true or false"),
        ("length_buckets", "32,16", SIZES),
        ("length_mask_input", "MASK", "has no effect without length_buckets"),
        ("tenant_weights", "gold", TENANTS),
        ("tenant_weights", "", TENANTS),
        ("tenant_weights", "=4", TENANTS),
        ("tenant_weights", "gold=", "must be a number above 0"),
        ("tenant_weights", "gold=0", "must be a number above 0"),
        ("tenant_weights", "gold=nan", "must be a number above 0"),
        ("device_weight", "-1", "must be a number above 0"),
        ("device_weight", "inf", "must be a number above 0"),
        ("device_weight", "much", "must be a number above 0"),
    ],
)
def test_what_cannot_be_meant(key: str, text: str, problem: str) -> None:
    """Every value has its sentence, and the model is not served."""
    config = config_with(**{key: text})
    _, problems = read_scheduling(config)
    assert [each.field for each in problems] == [f"parameters['{key}']"]
    assert problem in str(problems[0])
    with pytest.raises(LoadError, match=key):
        model_spec(config)


@pytest.mark.parametrize("name", ["X", "Z"])
def test_a_mask_that_clients_cannot_leave_out(name: str) -> None:
    """It is the server that fills it in."""
    _, (problem,) = read_scheduling(config_with(length_buckets="4", length_mask_input=name))
    assert f"'{name}' must be an input that is declared optional" in str(problem)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    """As for the rest of a configuration."""
    _, problems = read_scheduling(config_with(scheduling_policy="x", slo_microseconds="y", device_weight="z"))
    assert len(problems) == 3
