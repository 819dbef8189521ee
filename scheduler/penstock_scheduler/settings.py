"""How one model wants to be batched, and what contradicts itself in that.

Three policies (`PolicyName`) share most settings. Those that only `fixed` knows are Triton's, with Triton's
meaning: see policies/fixed.py. `settings_problems` finds everything that is wrong at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from math import inf, isfinite


class PolicyName(Enum):
    """How it is decided when a batch starts, and with whom."""

    EAGER = "eager"
    """A free instance takes what is there."""
    FIXED = "fixed"
    """Triton's dynamic batcher, to the letter."""
    DEADLINE = "deadline"
    """Waits as long as deadlines and the rate of arrivals say, and drops early; without deadlines as `eager`."""


class TimeoutAction(Enum):
    """What happens to a request whose queue timeout has passed (`fixed`)."""

    REJECT = "reject"
    DELAY = "delay"
    """It is served after all of its level whose timeout has not passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """Triton's ModelQueuePolicy: the rules of one priority level's queue (`fixed`)."""

    timeout_action: TimeoutAction = TimeoutAction.REJECT
    default_timeout: float = 0.0
    """Seconds; 0 is none, and then a request cannot have one either."""
    allow_timeout_override: bool = False
    """Whether a request may shorten the timeout. It can never prolong it."""
    max_queue_size: int = 0
    """Requests; 0 is no bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one model's scheduler. Times are seconds."""

    policy: PolicyName = PolicyName.DEADLINE
    instances: int = 1
    """Batches that may run at once."""
    max_batch_rows: int = 64
    allowed_rows: Sequence[int] = ()
    """Sizes that the model takes, ascending, the last one `max_batch_rows`; batches are padded to them. Empty: all."""
    lengths: Sequence[int] = ()
    """Length buckets, ascending: requests whose lengths fall into one bucket share batches. Empty: no such axis."""
    split: bool = True
    """Whether requests larger than a batch are admitted and run in parts."""
    max_queued_rows: int = 4096
    max_queued_bytes: int = 1 << 30
    slo: float = inf
    """The deadline of requests that bring none, from their arrival on."""
    late_launch: bool = False
    """Whether the caller launches batches itself (`Scheduler.launch`); until then tickets may leave them."""
    preserve_ordering: bool = False
    """Whether answers are released in order of arrival."""

    # The order of service (eager, deadline; levels for fixed too).
    levels: int = 1
    """Priority levels are 1, the most urgent, to this."""
    default_level: int = 1
    """For requests that name no level, or one that does not exist."""
    ageing: float = 1.0
    """A request rises by one level each time it has waited this long. Infinity: never."""
    class_patience: float = 1.0
    """What has waited longer than this for classes above its own: one such request a batch may go first."""
    patience: float = 1.0
    """No request is passed over for longer than this because others' deadlines are closer (deadline)."""
    tenants: Mapping[str, float] = field(default_factory=dict[str, float])
    """Weights; a tenant that is not named has weight 1."""
    known_tenants_only: bool = False
    """Whether only tenants that are named are admitted."""
    device_weight: float = 1.0
    """This model's share of a device that it shares with others."""

    # When to stop waiting for company (fixed; a cap for deadline).
    max_queue_delay: float | None = None
    """Seconds from the oldest request's arrival on. None: 0 for fixed, no cap of its own for deadline."""

    # Only fixed.
    preferred_sizes: Sequence[int] = ()
    """Rows, ascending. Empty: `max_batch_rows`."""
    queue_policy: QueuePolicy = QueuePolicy()
    level_policies: Mapping[int, QueuePolicy] = field(default_factory=dict[int, QueuePolicy])
    """For the levels that have a policy of their own."""

    def queue_policy_of(self, level: int) -> QueuePolicy:
        """The queue policy of a priority level."""
        return self.level_policies.get(level, self.queue_policy)

    def level_of(self, level: int) -> int:
        """The level of a request that asks for `level`."""
        return level if 1 <= level <= self.levels else self.default_level


def settings_problems(settings: Settings) -> list[str]:
    """Everything that is wrong with some settings, in words; empty if they are fine."""
    checks: tuple[Callable[[Settings], Iterator[str]], ...] = (
        _problems_of_counts,
        _problems_of_times,
        _problems_of_sizes,
        _problems_of_order,
        _problems_of_fixed,
    )
    return [problem for check in checks for problem in check(settings)]


def _problems_of_counts(settings: Settings) -> Iterator[str]:
    for name in ("instances", "max_batch_rows", "max_queued_rows", "max_queued_bytes", "levels"):
        value: int = getattr(settings, name)
        if value < 1:
            yield f"{name} must be at least 1, not {value}"


def _problems_of_times(settings: Settings) -> Iterator[str]:
    for name in ("slo", "ageing", "class_patience"):
        value: float = getattr(settings, name)
        if not value > 0:
            yield f"{name} must be more than 0 seconds, not {value}"
    if not 0 < settings.patience < inf:
        yield f"patience must be more than 0 seconds and finite, not {settings.patience}"
    if settings.max_queue_delay is not None and not 0 <= settings.max_queue_delay < inf:
        yield f"max_queue_delay must be 0 seconds or more and finite, not {settings.max_queue_delay}"


def _problems_of_sizes(settings: Settings) -> Iterator[str]:
    for name in ("allowed_rows", "lengths", "preferred_sizes"):
        sizes: Sequence[int] = getattr(settings, name)
        if any(size < 1 for size in sizes):
            yield f"{name} must be at least 1 each"
        if any(a >= b for a, b in pairwise(sizes)):
            yield f"{name} must ascend"
        if name != "lengths" and any(size > settings.max_batch_rows for size in sizes):
            yield f"{name} must not exceed max_batch_rows ({settings.max_batch_rows})"
    if settings.allowed_rows and max(settings.allowed_rows) < settings.max_batch_rows:
        yield f"the last of allowed_rows must be max_batch_rows ({settings.max_batch_rows})"
    if settings.max_queued_rows < settings.max_batch_rows:
        yield f"max_queued_rows ({settings.max_queued_rows}) must hold a batch of max_batch_rows"


def _problems_of_order(settings: Settings) -> Iterator[str]:
    if not 1 <= settings.default_level <= max(1, settings.levels):
        yield f"default_level must be one of the levels 1 to {settings.levels}, not {settings.default_level}"
    weights = {f"the weight of tenant '{tenant}'": weight for tenant, weight in settings.tenants.items()}
    for name, weight in {**weights, "device_weight": settings.device_weight}.items():
        if not (weight > 0 and isfinite(weight)):
            yield f"{name} must be more than 0 and finite, not {weight}"
    if settings.preserve_ordering and settings.levels > 1:
        yield "preserve_ordering contradicts more than one priority level"


def _problems_of_fixed(settings: Settings) -> Iterator[str]:
    policies = {"queue_policy": settings.queue_policy}
    for level, policy in settings.level_policies.items():
        policies[f"the queue policy of level {level}"] = policy
        if not 1 <= level <= settings.levels:
            yield f"there is a queue policy for level {level}, but levels are 1 to {settings.levels}"
    for name, policy in policies.items():
        if not 0 <= policy.default_timeout < inf:
            yield f"{name}: default_timeout must be 0 seconds or more and finite, not {policy.default_timeout}"
        if policy.max_queue_size < 0:
            yield f"{name}: max_queue_size must be 0 or more, not {policy.max_queue_size}"
        if settings.preserve_ordering and policy.timeout_action is TimeoutAction.DELAY:
            yield f"{name}: timeout_action delay contradicts preserve_ordering"
    if settings.policy is PolicyName.FIXED:
        if settings.tenants or settings.known_tenants_only:
            yield "policy fixed knows no tenants"
        return
    only_fixed = {
        "preferred_sizes": bool(settings.preferred_sizes),
        "queue_policy": settings.queue_policy != QueuePolicy(),
        "level_policies": bool(settings.level_policies),
    }
    for name in (name for name, is_set in only_fixed.items() if is_set):
        yield f"{name} needs policy fixed, not {settings.policy.value}"
    if settings.policy is PolicyName.EAGER and settings.max_queue_delay:
        yield "max_queue_delay needs policy fixed or deadline: eager does not wait"
