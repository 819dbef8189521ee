"""Costs that were measured once and keep everything from being measured again."""

from penstock_scheduler import PolicyName, Reason, Scheduler, Settings, Start, Ticket


def ran(scheduler: Scheduler[Ticket], ticket: Ticket, now: float, seconds: float) -> bool:
    """Submit a request, and run what starts."""
    refused = scheduler.submit(ticket, now)
    assert refused is None or refused.reason is Reason.HOPELESS
    for effect in scheduler.poll(now):
        assert isinstance(effect, Start)
        scheduler.finish(effect.batch, now + seconds, seconds)
    return refused is None


def test_a_model_whose_first_run_was_slow_is_served_again() -> None:
    """Nobody could be in time by what was measured, so somebody has to show that it is wrong."""
    scheduler: Scheduler[Ticket] = Scheduler(Settings(policy=PolicyName.DEADLINE, slo=0.1))
    assert ran(scheduler, Ticket(), 0.0, 2.0)
    served = [ran(scheduler, Ticket(), 10.0 + second, 0.001) for second in range(100)]
    first = served.index(True)
    assert 0 < first <= 12
    assert all(served[first:])


def test_a_slow_reply_is_doubted_too() -> None:
    """The margin counts like the batch."""
    scheduler: Scheduler[Ticket] = Scheduler(Settings(policy=PolicyName.DEADLINE, slo=0.1))
    scheduler.cost.observe_reply(2.0)
    served = [ran(scheduler, Ticket(), 10.0 + second, 0.001) for second in range(20)]
    first = served.index(True)
    assert 0 < first <= 12
    assert all(served[first:])
    assert scheduler.cost.margin == 0.0


def test_a_model_that_runs_is_not_doubted() -> None:
    """What runs will tell what it costs; until then the last word is good enough."""
    scheduler: Scheduler[Ticket] = Scheduler(Settings(policy=PolicyName.DEADLINE, slo=0.1))
    scheduler.cost.seed(1, 0.08)
    assert scheduler.submit(Ticket(), 0.0) is None
    scheduler.poll(0.0)
    refused = scheduler.submit(Ticket(), 0.01)
    assert refused is not None
    assert refused.reason is Reason.HOPELESS
    assert scheduler.cost.of(1) == 0.08


def test_a_deadline_that_no_run_ever_meets_is_mostly_refused() -> None:
    """The doubt is paid for with a late run now and then."""
    scheduler: Scheduler[Ticket] = Scheduler(Settings(policy=PolicyName.DEADLINE))
    for _ in range(64):
        scheduler.cost.observe(1, 0.2)
    late = sum(ran(scheduler, Ticket(deadline=10.0 + n + 0.02), 10.0 + n, 0.2) for n in range(1000))
    assert late < 400


def test_hopeless_deadlines_wear_nothing_down() -> None:
    """An idle model that knows its costs knows them still when a client with silly deadlines has gone."""
    scheduler: Scheduler[Ticket] = Scheduler(Settings(policy=PolicyName.DEADLINE))
    for rows in (1, 16):
        scheduler.cost.seed(rows, 0.005 + 0.001 * rows)
    late = sum(ran(scheduler, Ticket(deadline=n + 0.001), float(n), 0.006) for n in range(50))
    assert 0 < late < 10
    assert not ran(scheduler, Ticket(deadline=100.001), 100.0, 0.006)
    assert ran(scheduler, Ticket(deadline=200.0), 101.0, 0.006)
    assert (scheduler.cost.of(1), scheduler.cost.of(16)) == (0.006, 0.021)


def test_doubt_grows_with_time_and_not_with_refusals() -> None:
    """A burst of a thousand hopeless requests is one reason to doubt."""
    scheduler: Scheduler[Ticket] = Scheduler(Settings(policy=PolicyName.DEADLINE, slo=0.1))
    scheduler.cost.seed(1, 2.0)
    for n in range(1000):
        refused = scheduler.submit(Ticket(), 10.0 + n * 1e-5)
        assert refused is not None
    assert scheduler.cost.of(1) == 1.5
