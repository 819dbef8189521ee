"""The batches of one model that run, and when an instance should be free again."""

from math import inf
from typing import Generic

from penstock_scheduler.values import Batch, T


class Running(Generic[T]):
    """Batches that have started and not finished; never more than there are instances."""

    __slots__ = ("_batches", "instances")

    def __init__(self, instances: int) -> None:
        self.instances = instances
        self._batches: dict[int, Batch[T]] = {}

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def free(self) -> int:
        """Instances without a batch."""
        return self.instances - len(self._batches)

    def add(self, batch: Batch[T]) -> None:
        self._batches[batch.id] = batch

    def remove(self, batch: Batch[T]) -> None:
        """KeyError if it does not run."""
        del self._batches[batch.id]

    def next_end(self) -> float:
        """When an instance should be free: minus infinity if one is."""
        if self.free > 0:
            return -inf
        return min(batch.started + batch.expected for batch in self._batches.values())
