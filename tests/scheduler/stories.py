"""What the stories share: a scheduler that is told in few words, and what it answers in few words."""

from collections.abc import Sequence
from math import inf
from typing import Any

from penstock_scheduler import Batch, Device, Drop, PolicyName, Reason, Release, Scheduler, Settings, Start, Ticket

EAGER, FIXED, DEADLINE = PolicyName.EAGER, PolicyName.FIXED, PolicyName.DEADLINE


class Named(Ticket):
    """A request with a name to tell it by."""

    __slots__ = ("name",)

    def __init__(self, name: str = "", **fields: Any) -> None:
        super().__init__(**fields)
        self.name = name

    def __repr__(self) -> str:
        return self.name


class Story:
    """A scheduler, and what has come out of it so far."""

    def __init__(self, settings: Settings, device: "Device[Named] | None" = None) -> None:
        self.scheduler: Scheduler[Named] = Scheduler(settings, device=device)
        self.running: list[Batch[Named]] = []
        self.dropped: dict[str, Reason] = {}
        self.released: list[str] = []

    def learn(self, seconds: float, per_row: float = 0.0) -> None:
        """Tell the cost of all sizes."""
        for rows in range(1, self.scheduler.settings.max_batch_rows + 1):
            self.scheduler.cost.seed(rows, seconds + per_row * rows)

    def submit(self, *names: str, at: float = 0.0, **fields: Any) -> list[Named]:
        """Submit one request for each name, and let the scheduler look. All must be admitted."""
        tickets = [Named(name, **fields) for name in names]
        assert self.scheduler.submit_many(tickets, at) == []
        return tickets

    def refused(self, at: float = 0.0, **fields: Any) -> Reason | None:
        """Why a request is refused; None if it is not."""
        refused = self.scheduler.submit(Named(**fields), at)
        return None if refused is None else refused.reason

    def poll(self, at: float = 0.0) -> list[str]:
        """The batches that start now, each as the names in it."""
        started: list[str] = []
        for effect in self.scheduler.poll(at):
            match effect:
                case Start(batch):
                    self.running.append(batch)
                    started.append(names(batch.tickets))
                case Drop(ticket, reason):
                    self.dropped[ticket.name] = reason
                case Release(ticket):
                    self.released.append(ticket.name)
        return started

    def finish(self, at: float = 0.0, index: int = 0, cost: float | None = None) -> list[str]:
        """End a batch (the oldest one), and see what starts then."""
        self.scheduler.finish(self.running.pop(index), at, cost)
        return self.poll(at)

    def busy(self, at: float = 0.0, **fields: Any) -> None:
        """Make an instance busy with a request of its own key."""
        self.submit("busy", at=at, **{"key": "busy", **fields})
        assert "busy" in self.poll(at)

    def all_batches(self, at: float = 0.0) -> list[str]:
        """What starts from now on, with every batch finished at once."""
        started = self.poll(at)
        while self.running:
            started += self.finish(at)
        return started


def names(tickets: Sequence[Named]) -> str:
    return " ".join(ticket.name for ticket in tickets)


__all__ = ["DEADLINE", "EAGER", "FIXED", "Named", "Story", "inf", "names"]
