"""The batches of one model that run, and when an instance should be free again."""

from math import inf
from typing import Generic

from penstock_scheduler.values import Batch, T


class Running(Generic[T]):
    """Batches that have started and not finished; never more than there are instances."""

    __slots__ = ("_batches", "free", "next_end")

    def __init__(self, instances: int) -> None:
        self._batches: dict[int, Batch[T]] = {}
        self.free = instances
        """Instances without a batch."""
        self.next_end = -inf
        """When an instance should be free: minus infinity if one is."""

    def __repr__(self) -> str:
        return f"<Running: {len(self)} batches, {self.free} instances free>"

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, batch: Batch[T]) -> None:
        self._batches[batch.id] = batch
        self.free -= 1
        if self.free <= 0:
            self.next_end = inf
            for other in self._batches.values():
                end = other.started + other.expected
                if end < self.next_end:
                    self.next_end = end

    def remove(self, batch: Batch[T]) -> None:
        """KeyError if it does not run."""
        del self._batches[batch.id]
        self.free += 1
        self.next_end = -inf
