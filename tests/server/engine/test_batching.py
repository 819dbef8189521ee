"""From a model's configuration to the settings of its scheduler: what is chosen, and what contradicts itself."""

from dataclasses import replace
from math import inf

import pytest

from penstock_proto.datatypes import DATATYPES
from penstock_scheduler import PolicyName, QueuePolicy, Settings, TimeoutAction
from penstock_server.engine.batching import scheduler_settings
from penstock_server.errors import LoadError
from penstock_server.models import spec as models
from penstock_server.models.scheduling import Scheduling
from penstock_server.models.spec import Batching, ModelSpec, Reshape
from penstock_server.tensors.spec import TensorSpec

INT64 = DATATYPES["INT64"]
ON = Batching(enabled=True, preferred_sizes=(8,))
"""What completion makes of `dynamic_batching {}`."""


def spec_of(batching: Batching = ON, max_batch_size: int = 8, **options: object) -> ModelSpec:
    return ModelSpec(
        "m",
        max_batch_size,
        (TensorSpec("X", INT64, (-1,)), TensorSpec("MASK", INT64, (-1,), optional=True)),
        (TensorSpec("Y", INT64, (-1,)),),
        1,
        batching=batching,
        scheduling=Scheduling(**options),  # type: ignore[arg-type]
    )


def settings(spec: ModelSpec, rows: int = 100) -> Settings:
    return scheduler_settings(spec, 2, max_queued_rows=rows, max_queued_bytes=1000)


def problems(spec: ModelSpec) -> str:
    with pytest.raises(LoadError) as caught:
        settings(spec)
    assert caught.value.model == "m"
    return str(caught.value)


# ── which policy ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("batching", [Batching(), ON, Batching(enabled=True), replace(ON, default_priority_level=1)])
def test_deadline_is_the_default(batching: Batching) -> None:
    """It is as good as eager while nobody has a deadline."""
    assert settings(spec_of(batching)).policy is PolicyName.DEADLINE


@pytest.mark.parametrize(
    "batching",
    [
        replace(ON, preferred_sizes=(4, 8)),
        replace(ON, preferred_sizes=(4,)),
        replace(ON, max_queue_delay=0.001),
        replace(ON, preserve_ordering=True),
        replace(ON, priority_levels=2, default_priority_level=2),
        replace(ON, queue_policy=models.QueuePolicy(max_queue_size=7)),
        replace(ON, queue_policy=models.QueuePolicy(default_timeout=1.0)),
        replace(ON, priority_levels=2, level_policies={1: models.QueuePolicy()}),
    ],
)
def test_who_uses_tritons_knobs_gets_tritons_batcher(batching: Batching) -> None:
    """A configuration that was tuned for it behaves as it did."""
    chosen = settings(spec_of(batching))
    assert chosen.policy is PolicyName.FIXED
    assert chosen.ageing == inf, "priorities are strict there"


@pytest.mark.parametrize("policy", ["eager", "fixed", "deadline"])
def test_a_policy_that_is_named_is_taken(policy: str) -> None:
    """With or without batching."""
    assert settings(spec_of(policy=policy)).policy.value == policy
    assert settings(spec_of(Batching(), policy=policy)).policy.value == policy


# ── what the settings are ─────────────────────────────────────────────────────────────────────────


def test_the_settings_of_tritons_batcher() -> None:
    """Every knob arrives."""
    own = models.QueuePolicy(5, 2.0, allow_timeout_override=True, timeout_action=models.TimeoutAction.DELAY)
    batching = Batching(
        enabled=True,
        preferred_sizes=(2, 4),
        max_queue_delay=0.25,
        priority_levels=3,
        default_priority_level=2,
        queue_policy=models.QueuePolicy(9),
        level_policies={3: own},
    )
    assert settings(spec_of(batching)) == Settings(
        policy=PolicyName.FIXED,
        instances=2,
        max_batch_rows=8,
        max_queued_rows=100,
        max_queued_bytes=1000,
        levels=3,
        default_level=2,
        ageing=inf,
        tenants={},
        max_queue_delay=0.25,
        preferred_sizes=(2, 4),
        queue_policy=QueuePolicy(max_queue_size=9),
        level_policies={
            3: QueuePolicy(
                timeout_action=TimeoutAction.DELAY, default_timeout=2.0, allow_timeout_override=True, max_queue_size=5
            )
        },
    )


def test_the_settings_beyond_triton() -> None:
    """Every parameter arrives."""
    spec = spec_of(
        slo=0.05,
        allowed_batch_sizes=(2, 8),
        split_oversize=False,
        length_buckets=(16, 32),
        priority_ageing=3.0,
        tenant_weights={"gold": 4.0},
        known_tenants_only=True,
        device_weight=2.0,
    )
    assert settings(spec) == Settings(
        instances=2,
        max_batch_rows=8,
        allowed_rows=(2, 8),
        lengths=(16, 32),
        split=False,
        max_queued_rows=100,
        max_queued_bytes=1000,
        slo=0.05,
        ageing=3.0,
        tenants={"gold": 4.0},
        known_tenants_only=True,
        device_weight=2.0,
    )


def test_without_dynamic_batching_a_batch_is_one_request() -> None:
    """Which counts as one row, and so is neither padded nor split."""
    chosen = settings(spec_of(Batching()))
    assert (chosen.max_batch_rows, chosen.allowed_rows, chosen.split) == (1, (), False)


def test_options_that_would_have_no_effect() -> None:
    """Whoever writes one expects something of it."""
    told = problems(spec_of(Batching(), allowed_batch_sizes=(4, 8), split_oversize=False))
    assert "allowed_batch_sizes has no effect without dynamic_batching" in told
    assert "split_oversize has no effect without dynamic_batching" in told
    assert "priority_ageing_microseconds has no effect with policy fixed" in problems(
        spec_of(policy="fixed", priority_ageing=2.0)
    )


def test_the_queue_holds_a_batch() -> None:
    """Whatever the operator says: else the model's largest requests could not be served at all."""
    assert settings(spec_of(), rows=3).max_queued_rows == 8


def test_a_timeout_action_without_a_timeout_means_nothing() -> None:
    """So it contradicts nothing either."""
    policy = models.QueuePolicy(timeout_action=models.TimeoutAction.DELAY)
    chosen = settings(spec_of(replace(ON, preserve_ordering=True, queue_policy=policy)))
    assert chosen.queue_policy == QueuePolicy()


# ── what contradicts itself ───────────────────────────────────────────────────────────────────────


def test_knobs_that_the_named_policy_does_not_know() -> None:
    """They are not passed over in silence."""
    batching = replace(
        ON, preferred_sizes=(2,), queue_policy=models.QueuePolicy(3), max_queue_delay=1.0,
        priority_levels=2, level_policies={2: models.QueuePolicy(4)},
    )  # fmt: skip
    told = problems(spec_of(batching, policy="eager"))
    for text in (
        "preferred_batch_size needs policy fixed, not eager",
        "; default_queue_policy needs policy fixed, not eager",
        "; priority_queue_policy needs policy fixed, not eager",
        "; max_queue_delay_microseconds needs policy fixed or deadline: eager does not wait",
    ):
        assert text in told


def test_tenants_and_tritons_batcher() -> None:
    """It serves by priority and arrival alone."""
    assert "policy fixed knows no tenants" in problems(spec_of(policy="fixed", tenant_weights={"a": 1.0}))


def test_allowed_sizes_of_a_model_that_takes_fewer() -> None:
    """Every size must be one that the model takes."""
    told = problems(spec_of(replace(ON, preferred_sizes=(4,)), 4, allowed_batch_sizes=(2, 8)))
    assert "allowed_batch_sizes must not exceed max_batch_size (4)" in told


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (spec_of(Batching(), length_buckets=(4,)), "length_buckets need dynamic_batching"),
        (
            replace(spec_of(length_buckets=(4,)), output_reshapes={"Y": Reshape((1, -1), (-1,))}),
            "length_buckets do not go with reshape",
        ),
        (
            replace(spec_of(length_buckets=(4,)), inputs=(TensorSpec("X", INT64, (3,)),)),
            "length_buckets need an input with one dimension of -1",
        ),
        (
            spec_of(length_buckets=(4,), length_mask_input="NO"),
            "length_mask_input must be an input with dims [ -1 ] and no string, which 'NO' is not",
        ),
        (
            replace(
                spec_of(length_buckets=(4,), length_mask_input="MASK"),
                inputs=(TensorSpec("X", INT64, (-1,)), TensorSpec("MASK", DATATYPES["BYTES"], (-1,), optional=True)),
            ),
            "which 'MASK' is not",
        ),
    ],
)
def test_buckets_that_cannot_be(spec: ModelSpec, text: str) -> None:
    """Each is said in words."""
    assert text in problems(spec)
