"""The batches of one model that run, and when an instance should be free again."""

from math import inf
from typing import Generic

from penstock_scheduler.values import Batch, T


class Running(Generic[T]):
    """Batches that have started and not finished; never more than there are instances."""

    __slots__ = ("_batches", "free")

    def __init__(self, instances: int) -> None:
        self._batches: dict[int, Batch[T]] = {}
        self.free = instances
        """Instances without a batch."""

    def __repr__(self) -> str:
        return f"<Running: {len(self)} batches, {self.free} instances free>"

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, batch: Batch[T]) -> None:
        self._batches[batch.id] = batch
        self.free -= 1

    def remove(self, batch: Batch[T]) -> None:
        """KeyError if it does not run."""
        del self._batches[batch.id]
        self.free += 1

    def next_end(self) -> float:
        """When an instance should be free: minus infinity if one is."""
        if self.free > 0:
            return -inf
        end = inf
        for batch in self._batches.values():
            end = min(end, batch.started + batch.expected)
        return end
