"""Several models on one device: at most so many batches at once, and fair shares of its time."""

import pytest

from penstock_scheduler import Batch, Device, Drop, QueuePolicy, Reason, Scheduler, Settings, Start
from tests.scheduler.stories import DEADLINE, EAGER, FIXED, Named


class Shared:
    """A device whose models always have something to do."""

    def __init__(self, *settings: Settings, capacity: int = 1, cost: float | None = None) -> None:
        self.device: Device[Named] = Device(capacity)
        self.models: list[Scheduler[Named]] = [Scheduler(each, device=self.device) for each in settings]
        self.running: list[Batch[Named]] = []
        self.dropped: list[str] = []
        if cost is not None:
            for model in self.models:
                model.cost.seed(1, cost)

    def poll(self, at: float = 0.0) -> str:
        """The names that start."""
        started = ""
        for effect in self.device.poll(at):
            match effect:
                case Start(batch):
                    self.running.append(batch)
                    started += "".join(ticket.name for ticket in batch.tickets)
                case Drop(ticket):
                    self.dropped.append(ticket.name)
                case _:
                    raise AssertionError(effect)
        return started

    def finish(self, at: float = 0.0, index: int = 0) -> None:
        batch = self.running.pop(index)
        assert batch.scheduler is not None
        batch.scheduler.finish(batch, at, at - batch.started)


def eager(**fields: object) -> Settings:
    return Settings(policy=EAGER, **{"max_batch_rows": 1, **fields})  # type: ignore[arg-type]


def test_no_more_batches_run_than_the_device_holds() -> None:
    """However many instances the models have."""
    shared = Shared(eager(instances=4), eager(instances=4), capacity=3)
    for model, name in zip(shared.models, "ab", strict=True):
        model.submit_many([Named(name) for _ in range(5)], 0.0)
    assert len(shared.poll()) == 3
    shared.finish()
    assert len(shared.poll()) == 1
    assert shared.poll() == ""


def test_a_model_has_no_more_than_its_instances() -> None:
    """However large the device."""
    shared = Shared(eager(instances=2), eager(), capacity=9)
    for model, name in zip(shared.models, "ab", strict=True):
        model.submit_many([Named(name) for _ in range(5)], 0.0)
    assert sorted(shared.poll()) == ["a", "a", "b"]


@pytest.mark.parametrize(("weight", "expected"), [(1.0, 50), (3.0, 75)])
def test_time_is_shared_by_weight_and_not_by_batches(weight: float, expected: int) -> None:
    """A model whose batches take four times as long has a quarter of the batches for the same weight."""
    shared = Shared(eager(device_weight=weight), eager())
    shared.models[0].submit_many([Named("a") for _ in range(900)], 0.0)
    shared.models[1].submit_many([Named("b") for _ in range(900)], 0.0)
    now, time = 0.0, {"a": 0.0, "b": 0.0}
    while now < 400.0:
        name = shared.poll(at=now)
        seconds = 1.0 if name == "a" else 4.0
        time[name] += seconds
        now += seconds
        shared.finish(at=now)
    assert time["a"] / now * 100 == pytest.approx(expected, abs=3)


def test_a_model_that_was_idle_has_not_saved_up() -> None:
    """It starts level with the others."""
    shared = Shared(eager(), eager())
    now = 0.0
    shared.models[0].submit_many([Named("a") for _ in range(100)], 0.0)
    for _ in range(50):
        shared.poll(at=now)
        now += 1.0
        shared.finish(at=now)
    shared.models[1].submit_many([Named("b") for _ in range(20)], now)
    started = ""
    for _ in range(10):
        started += shared.poll(at=now)
        now += 1.0
        shared.finish(at=now)
    assert started.count("b") in (5, 6)


def test_of_equals_the_closest_deadline_goes_first() -> None:
    """Whoever was made first."""
    shared = Shared(eager(), eager(), cost=1.0)
    shared.models[0].submit(Named("a", deadline=9.0), 0.0)
    shared.models[1].submit(Named("b", deadline=8.0), 0.0)
    assert shared.poll() == "b"


def test_a_model_that_waits_leaves_room_for_anothers_batch() -> None:
    """It starts earlier by what the other may take."""
    settings = Settings(policy=DEADLINE, instances=2, max_batch_rows=64)
    for rival in (False, True):
        shared = Shared(settings, settings, capacity=2, cost=1.0)
        for model in shared.models:
            for tick in range(400):
                model._policy.arrived(1, 1000.0, tick / 8)
        shared.models[0].submit(Named("a", deadline=51.5), 50.0)
        if rival:
            shared.models[1].submit(Named("b", deadline=1000.0), 50.0)
        assert shared.poll(at=50.0) == ("a" if rival else "")
        assert rival or shared.device.next_wakeup() == 50.5


def arrive(model: Scheduler[Named], rate: float, until: float) -> None:
    """Let a model believe in a rate of rows."""
    for number in range(400, -1, -1):
        model._policy.arrived(1, 1000.0, until - number / rate)


@pytest.mark.parametrize("capacity", [1, 2])
def test_a_cycle_holds_a_batch_of_each_model(capacity: int) -> None:
    """Of what comes in meanwhile, with a tenth to spare; a model that nothing comes in for has no part in it."""
    settings = Settings(policy=DEADLINE, max_batch_rows=8)
    shared = Shared(settings, settings, settings, capacity=capacity)
    for model, per_row in zip(shared.models, (1.0, 2.0, 9.0), strict=True):
        for rows in (1, 8):
            model.cost.seed(rows, per_row * rows + 3.0)
    arrive(shared.models[0], 0.125, 5000.0)
    arrive(shared.models[1], 0.25, 5000.0)
    cycle = shared.device.cycle(5000.0)
    assert cycle == pytest.approx(1.1 * 6.0 / (capacity - 1.1 * (0.125 + 0.5)))
    assert capacity * cycle == pytest.approx(1.1 * (3.0 + 0.125 * cycle + 3.0 + 0.5 * cycle))


def test_when_no_cycle_is_long_enough_it_has_no_end() -> None:
    """More comes in than the device can do with batches of any size."""
    settings = Settings(policy=DEADLINE, max_batch_rows=8)
    shared = Shared(settings, settings)
    for model in shared.models:
        for rows in (1, 8):
            model.cost.seed(rows, 1.0 * rows + 3.0)
        arrive(model, 0.5, 5000.0)
    assert shared.device.cycle(5000.0) == float("inf")


def test_a_model_takes_what_comes_in_until_its_turn_comes_again() -> None:
    """Were it alone, one row at a time would keep up."""
    settings = Settings(policy=DEADLINE, max_batch_rows=8)
    for rivals in (1, 2):
        shared = Shared(*[settings] * rivals)
        for model in shared.models:
            for rows in (1, 8):
                model.cost.seed(rows, 0.25 * rows + 0.5)
            arrive(model, 1.0, 5000.0)
            model.submit(Named("a", deadline=5100.0), 5000.0)
        # The cycle is 1.1 / (1 - 1.1 * 0.5) = 2.4 seconds, so the need is 3 rows.
        assert shared.poll(at=5000.0) == ("a" if rivals == 1 else "")
    shared.models[0].submit_many([Named("b", deadline=5100.0) for _ in range(2)], 5000.0)
    assert shared.poll(at=5000.0) == "abb"


def test_a_need_is_found_again_when_another_model_comes() -> None:
    """What the last batch needed alone says nothing about the next one."""
    settings = Settings(policy=DEADLINE, max_batch_rows=8)
    shared = Shared(settings, settings)
    for model in shared.models:
        for rows in (1, 8):
            model.cost.seed(rows, 0.25 * rows + 0.5)
        arrive(model, 1.0, 5000.0)
    shared.models[0].submit(Named("a", deadline=6000.0), 5000.0)
    assert shared.poll(at=5000.0) == "a"
    shared.finish(at=5000.0)
    for model, name in zip(shared.models, "ab", strict=True):
        model.submit(Named(name, deadline=6000.0), 5000.0)
    assert shared.poll(at=5000.0) == ""


def test_the_end_of_a_batch_is_for_the_other_models_too() -> None:
    """Its own model has nothing more to do, but the device is free."""
    shared = Shared(eager(), eager())
    shared.models[0].submit(Named("a"), 0.0)
    shared.poll()
    shared.models[1].submit(Named("b"), 0.0)
    assert shared.poll() == ""
    assert shared.device.next_wakeup() is None
    shared.finish(at=3.0)
    assert shared.device.next_wakeup() == 3.0
    assert shared.poll(at=3.0) == "b"


def test_expired_requests_are_dropped_while_the_device_is_taken() -> None:
    """And it wakes up for them."""
    shared = Shared(eager(), eager())
    shared.models[0].submit(Named("a"), 0.0)
    shared.poll()
    shared.models[1].submit(Named("b", deadline=2.0), 0.0)
    shared.poll()
    assert shared.device.next_wakeup() == 2.0
    shared.poll(at=2.0)
    assert shared.dropped == ["b"]
    assert shared.device.next_wakeup() is None
    interactive = shared.models[1].statistics().classes
    assert [dict(each.dropped) for each in interactive.values()] == [{Reason.EXPIRED: 1}, {}, {}]


def test_what_waits_for_the_device_in_a_payload_does_not_time_out() -> None:
    """Policy fixed: the queue's timeout is for the queue."""
    policy = QueuePolicy(default_timeout=1.0)
    shared = Shared(eager(), Settings(policy=FIXED, max_batch_rows=1, queue_policy=policy))
    shared.models[0].submit(Named("a"), 0.0)
    assert shared.poll() == "a"
    shared.models[1].submit_many([Named("b"), Named("c")], 0.0)
    shared.poll()
    shared.poll(at=2.0)
    assert shared.dropped == ["c"]
    shared.finish(at=2.0)
    assert shared.poll(at=2.0) == "b"


def test_a_model_of_a_device_is_not_polled_by_itself() -> None:
    """It would take what is another's."""
    shared = Shared(eager())
    with pytest.raises(RuntimeError, match="poll the device"):
        shared.models[0].poll(0.0)


def test_a_model_that_is_removed_is_not_asked_any_more() -> None:
    """The others go on."""
    shared = Shared(eager(), eager())
    shared.models[0].submit(Named("a"), 0.0)
    shared.models[1].submit(Named("b"), 0.0)
    shared.device.remove(shared.models[0])
    assert shared.poll() == "b"
    with pytest.raises(ValueError, match="capacity must be at least 1, not 0"):
        Device(0)
