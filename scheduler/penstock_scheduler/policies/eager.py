"""The policy `eager`: a free instance takes what is there.

Below saturation nothing beats it by much: while the instances are busy the next batch fills by itself, and the
more there is to do, the larger the batches.
"""

from math import inf

from penstock_scheduler.policies.base import LanePolicy
from penstock_scheduler.settings import Settings
from penstock_scheduler.splitting import Dropper, Filling
from penstock_scheduler.values import Batch, FireReason, T


class Eager(LanePolicy[T]):
    """See the module's text."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._free_of_charge = [0.0] * (settings.max_batch_rows + 1)

    def form(self, now: float, free: int, drop: Dropper[T]) -> Batch[T] | None:
        for lane in self._in_order(now):
            batch = self._all_of(lane, FireReason.IDLE)
            if batch is None:
                filling = Filling(self._max_rows, self._free_of_charge, now, inf, drop)
                filling.fill(lane, now)
                batch = filling.batch(lane, FireReason.IDLE)
            if batch is not None:
                return self._started(batch, lane)
        return None
