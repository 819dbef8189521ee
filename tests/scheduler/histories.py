"""What the property tests share: a ticket with a number, and settings and requests as strategies."""

from math import inf

from hypothesis import strategies as st

from penstock_scheduler import PolicyName, QueuePolicy, Settings, Ticket, TimeoutAction, TrafficClass

eighths = st.integers(0, 16).map(lambda count: count / 8)
"""Times: eighths of a second are exact in binary, so a wake-up is on time or it is not."""


class Numbered(Ticket):
    """A request of a history."""

    __slots__ = ("answered", "number", "parts")

    def __init__(self, number: int, **fields: object) -> None:
        super().__init__(**fields)  # type: ignore[arg-type]
        self.number = number
        self.parts: list[tuple[int, int]] = []
        """(start, rows) of what was in a batch."""
        self.answered = False


queue_policies = st.builds(
    QueuePolicy,
    timeout_action=st.sampled_from(TimeoutAction),
    default_timeout=st.just(0.0) | eighths,
    allow_timeout_override=st.booleans(),
    max_queue_size=st.sampled_from([0, 0, 3]),
)


@st.composite
def any_settings(draw: st.DrawFn, policy: PolicyName) -> Settings:
    """Settings without contradictions, small enough that their bounds are met."""
    max_batch_rows = draw(st.integers(1, 6))
    levels = draw(st.sampled_from([1, 1, 2, 3]))
    fixed = policy is PolicyName.FIXED
    preserve_ordering = levels == 1 and draw(st.booleans())
    level_policies = draw(st.dictionaries(st.integers(1, levels), queue_policies, max_size=2)) if fixed else {}
    if preserve_ordering:
        level_policies = {}
    sizes = draw(st.sets(st.integers(1, max_batch_rows), max_size=3))
    return Settings(
        policy=policy,
        instances=draw(st.integers(1, 3)),
        max_batch_rows=max_batch_rows,
        allowed_rows=sorted(sizes | {max_batch_rows}) if draw(st.booleans()) else (),
        lengths=draw(st.sampled_from([(), (), (4, 8)])),
        split=draw(st.booleans()),
        max_queued_rows=draw(st.integers(max_batch_rows, 24)),
        max_queued_bytes=draw(st.sampled_from([30, 1000])),
        slo=draw(st.sampled_from([inf, inf, 1.5])),
        late_launch=draw(st.booleans()),
        preserve_ordering=preserve_ordering,
        levels=levels,
        default_level=draw(st.integers(1, levels)),
        ageing=draw(st.sampled_from([inf, 0.5])),
        class_patience=draw(st.sampled_from([0.5, 4.0])),
        patience=draw(st.sampled_from([0.5, 8.0])),
        tenants={} if fixed else draw(st.sampled_from([{}, {"a": 2.0, "b": 0.5}])),
        max_queue_delay=None if policy is PolicyName.EAGER else draw(st.none() | eighths),
        preferred_sizes=sorted(sizes) if fixed else (),
        level_policies=level_policies,
    )


requests = st.fixed_dictionaries(
    {
        "rows": st.sampled_from([1, 1, 1, 2, 2, 3, 5, 9, 0, 40]),
        "nbytes": st.integers(0, 6),
        "key": st.sampled_from([None, None, None, "x"]),
        "traffic": st.sampled_from([*TrafficClass, TrafficClass.INTERACTIVE]),
        "level": st.sampled_from([0, 0, 1, 2, 7]),
        "tenant": st.sampled_from(["", "a", "b"]),
        "timeout": st.just(0.0) | st.just(0.0) | eighths,
        "length": st.sampled_from([0, 3, 4, 5, 9]),
    }
)
