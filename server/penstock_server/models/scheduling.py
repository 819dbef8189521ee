"""Scheduling options that Triton's configuration has no field for, from its `parameters`.

    parameters { key: "scheduling_policy" value { string_value: "deadline" } }
    parameters { key: "slo_microseconds" value { string_value: "50000" } }

A Triton that reads the same file passes them to the model and does nothing else with them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.models.problems import Problem

V = TypeVar("V")

POLICIES = ("eager", "fixed", "deadline")


@dataclass(frozen=True, slots=True)
class Scheduling:
    """How a model is scheduled, beyond what `dynamic_batching` says. Times are seconds."""

    policy: str | None = None
    """One of `POLICIES`; None: `fixed` if the configuration sets what only it knows, else `deadline`."""
    slo: float = inf
    """The deadline of requests that bring none."""
    allowed_batch_sizes: tuple[int, ...] = ()
    """Rows, ascending: batches are padded to one of them. Empty: no padding."""
    split_oversize: bool = True
    """Whether a request of more rows than a batch is run in parts."""
    length_buckets: tuple[int, ...] = ()
    """Ascending: inputs with one axis of any length are padded along it to one of them. Empty: no padding."""
    length_mask_input: str = ""
    """An input that clients leave out: 1 where a length-padded input has an element of theirs, else 0."""
    priority_ageing: float = 1.0
    """A request rises by one priority level each time it has waited this long."""
    tenant_weights: Mapping[str, float] = field(default_factory=dict[str, float])
    known_tenants_only: bool = False
    device_weight: float = 1.0


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("a whole number")
    return int(text)


def _seconds(text: str) -> float:
    microseconds = _whole(text)
    if not microseconds:
        raise ValueError("a number of microseconds above 0")
    return microseconds / 1e6


def _bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("true or false")
    return text == "true"


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(_whole(part.strip()) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
        raise ValueError("ascending whole numbers, such as 1,4,16")
    return sizes


def _policy(text: str) -> str:
    if text not in POLICIES:
        raise ValueError(f"one of {', '.join(POLICIES)}")
    return text


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight < inf:
        raise ValueError("a number above 0")
    return weight


def _weights(text: str) -> Mapping[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        tenant, equals, weight = part.strip().partition("=")
        if not tenant or not equals:
            raise ValueError("tenants with weights, such as gold=4,free=1")
        weights[tenant] = _weight(weight)
    return weights


_OPTIONS: dict[str, tuple[str, Callable[[str], object]]] = {
    "scheduling_policy": ("policy", _policy),
    "slo_microseconds": ("slo", _seconds),
    "allowed_batch_sizes": ("allowed_batch_sizes", _sizes),
    "split_oversize": ("split_oversize", _bool),
    "length_buckets": ("length_buckets", _sizes),
    "length_mask_input": ("length_mask_input", str),
    "priority_ageing_microseconds": ("priority_ageing", _seconds),
    "tenant_weights": ("tenant_weights", _weights),
    "known_tenants_only": ("known_tenants_only", _bool),
    "device_weight": ("device_weight", _weight),
}
"""By the parameter's key: the field, and how its text is read."""


def length_mask(config: ModelConfig) -> str:
    """The input that the server makes where a client leaves it out; empty if there is none."""
    key = "length_mask_input"
    return config.parameters[key].string_value if key in config.parameters else ""


def read_scheduling(config: ModelConfig) -> tuple[Scheduling, list[Problem]]:
    """The options of a configuration, and everything that is wrong with them."""
    problems: list[Problem] = []
    values: dict[str, object] = {}
    for key, (name, read) in _OPTIONS.items():
        if key not in config.parameters:
            continue
        text = config.parameters[key].string_value
        try:
            values[name] = read(text)
        except ValueError as error:
            problems.append(Problem(f"parameters['{key}']", f"must be {error}, not '{text}'"))
    scheduling = Scheduling(**values)  # type: ignore[arg-type]  # each reader returns its field's type
    problems += _contradictions(config, scheduling)
    return scheduling, problems


def _contradictions(config: ModelConfig, scheduling: Scheduling) -> Iterator[Problem]:
    sizes, largest = scheduling.allowed_batch_sizes, config.max_batch_size
    if sizes and largest and sizes[-1] != largest:
        yield Problem(
            "parameters['allowed_batch_sizes']", f"the last one must be max_batch_size ({largest}), not {sizes[-1]}"
        )
    mask = scheduling.length_mask_input
    if mask and not scheduling.length_buckets:
        yield Problem("parameters['length_mask_input']", "has no effect without length_buckets")
    if mask and config.input and all(tensor.name != mask or not tensor.optional for tensor in config.input):
        yield Problem("parameters['length_mask_input']", f"'{mask}' must be an input that is declared optional")
