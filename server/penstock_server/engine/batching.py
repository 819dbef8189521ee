"""From a model's configuration to the settings of its scheduler."""

import re
from collections.abc import Iterator
from math import inf

from penstock_scheduler import PolicyName, QueuePolicy, Settings, TimeoutAction, settings_problems
from penstock_server.engine.lengths import length_axis
from penstock_server.errors import LoadError
from penstock_server.models import spec as models
from penstock_server.models.scheduling import Scheduling
from penstock_server.models.spec import ModelSpec


def scheduler_settings(spec: ModelSpec, instances: int, *, max_queued_rows: int, max_queued_bytes: int) -> Settings:
    """The settings for a model. LoadError names everything that contradicts itself."""
    batching, scheduling = spec.batching, spec.scheduling
    policy = PolicyName(scheduling.policy or ("fixed" if _only_fixed_knows(spec) else "deadline"))
    fixed = policy is PolicyName.FIXED
    # Without dynamic batching a request is a batch, and counts as one row.
    batch_rows = spec.batch_rows if batching.enabled else 1
    settings = Settings(
        policy=policy,
        instances=instances,
        max_batch_rows=batch_rows,
        allowed_rows=scheduling.allowed_batch_sizes if batching.enabled else (),
        lengths=scheduling.length_buckets,
        split=scheduling.split_oversize and batching.enabled,
        max_queued_rows=max(max_queued_rows, batch_rows),
        max_queued_bytes=max_queued_bytes,
        slo=scheduling.slo,
        preserve_ordering=batching.preserve_ordering,
        levels=batching.priority_levels,
        default_level=batching.default_priority_level,
        ageing=inf if fixed else scheduling.priority_ageing,
        tenants=scheduling.tenant_weights,
        known_tenants_only=scheduling.known_tenants_only,
        device_weight=scheduling.device_weight,
        max_queue_delay=batching.max_queue_delay or None if batching.enabled else None,
        preferred_sizes=_preferred_sizes(spec) if batching.enabled else (),
        queue_policy=_queue_policy(batching.queue_policy),
        level_policies={level: _queue_policy(own) for level, own in batching.level_policies.items()},
    )
    problems = [
        *map(_in_terms_of_the_config, settings_problems(settings)),
        *_length_problems(spec),
        *_sequence_problems(spec),
        *_useless_options(spec, fixed),
    ]
    if problems:
        raise LoadError("; ".join(problems), model=spec.name, field="dynamic_batching")
    return settings


_NAMES = {
    "preferred_sizes": "preferred_batch_size",
    "level_policies": "priority_queue_policy",
    "queue_policy": "default_queue_policy",
    "max_queue_delay": "max_queue_delay_microseconds",
    "allowed_rows": "allowed_batch_sizes",
    "max_batch_rows": "max_batch_size",
}
"""What the scheduler's settings are called in a configuration."""


def _in_terms_of_the_config(problem: str) -> str:
    return re.sub(r"\b(" + "|".join(_NAMES) + r")\b", lambda name: _NAMES[name.group()], problem)


def _useless_options(spec: ModelSpec, fixed: bool) -> Iterator[str]:
    """Options that would have no effect: whoever writes one expects something of it."""
    scheduling, default = spec.scheduling, Scheduling()
    if not spec.batching.enabled:
        for name in ("allowed_batch_sizes", "split_oversize"):
            if getattr(scheduling, name) != getattr(default, name):
                yield f"{name} has no effect without dynamic_batching"
    if fixed and scheduling.priority_ageing != default.priority_ageing:
        yield "priority_ageing_microseconds has no effect with policy fixed, whose priorities are strict"


def _length_problems(spec: ModelSpec) -> Iterator[str]:
    if not spec.scheduling.length_buckets:
        return
    if not spec.batching.enabled:
        yield "length_buckets need dynamic_batching"
    if spec.input_reshapes or spec.output_reshapes:
        yield "length_buckets do not go with reshape"
    if all(length_axis(tensor.shape) is None for tensor in spec.inputs):
        yield "length_buckets need an input with one dimension of -1"
    name = spec.scheduling.length_mask_input
    mask = next((tensor for tensor in spec.inputs if tensor.name == name), None)
    if name and (mask is None or len(mask.shape) != 1 or not mask.datatype.itemsize):
        yield f"length_mask_input must be an input with dims [ -1 ] and no string, which '{name}' is not"


def _sequence_problems(spec: ModelSpec) -> Iterator[str]:
    sequences, scheduling = spec.sequences, spec.scheduling
    if sequences is None:
        return
    if sequences.direct and (scheduling.allowed_batch_sizes or scheduling.length_buckets):
        yield "a sequence that keeps its row (strategy direct) knows no allowed_batch_sizes and no length_buckets"
    if sequences.iterative and sequences.preserve_ordering:
        yield "iterative_sequence does not go with preserve_ordering: a request that goes round is overtaken"


def _only_fixed_knows(spec: ModelSpec) -> bool:
    """Whether the configuration sets what has a meaning only in Triton's batcher."""
    batching = spec.batching
    return (
        batching.max_queue_delay > 0
        or batching.preserve_ordering
        or batching.priority_levels > 1
        or bool(_preferred_sizes(spec))
        or batching.queue_policy != models.QueuePolicy()
        or bool(batching.level_policies)
    )


def _preferred_sizes(spec: ModelSpec) -> tuple[int, ...]:
    """The preferred sizes, if any was chosen: completion fills in the largest size, which says nothing."""
    sizes = spec.batching.preferred_sizes
    return () if sizes == (spec.max_batch_size,) else sizes


def _queue_policy(policy: models.QueuePolicy) -> QueuePolicy:
    # Without a timeout the action never comes to be.
    delays = policy.timeout_action is models.TimeoutAction.DELAY and policy.default_timeout is not None
    return QueuePolicy(
        timeout_action=TimeoutAction.DELAY if delays else TimeoutAction.REJECT,
        default_timeout=policy.default_timeout or 0.0,
        allow_timeout_override=policy.allow_timeout_override,
        max_queue_size=policy.max_queue_size or 0,
    )
