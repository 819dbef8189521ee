"""Several models on one device, simulated: what `penstock_scheduler.simulation` does for one."""

from collections.abc import Sequence
from heapq import heappop, heappush, merge
from math import inf

from penstock_scheduler import Batch, Device, Scheduler, Settings, Start, Ticket
from penstock_scheduler.simulation import Model, poisson


def in_time(settings: Settings, models: Sequence[Model], rates: Sequence[float], count: int, seed: int) -> list[float]:
    """The part of each model's requests that is answered in time. Each gets about so many, as Poisson arrivals."""
    device: Device[Ticket] = Device()
    schedulers: list[Scheduler[Ticket]] = [Scheduler(settings, device=device) for _ in models]
    for scheduler, model in zip(schedulers, models, strict=True):
        for rows in range(1, settings.max_batch_rows + 1):
            scheduler.cost.seed(rows, model.seconds(rows))
    traces = [
        [(arrival.at, index) for arrival in poisson(rate, count, seed=seed * 100 + index)]
        for index, rate in enumerate(rates)
    ]
    arrivals = list(merge(*traces))
    ends: list[tuple[float, int, Batch[Ticket]]] = []
    answered, position, now, number = [0] * len(models), 0, 0.0, 0
    while True:
        wakeup = device.next_wakeup()
        moments = (
            arrivals[position][0] if position < len(arrivals) else inf,
            ends[0][0] if ends else inf,
            inf if wakeup is None else wakeup,
        )
        if min(moments) == inf:
            return [count_of / count for count_of in answered]
        now = max(now, min(moments))
        while ends and ends[0][0] <= now:
            batch = heappop(ends)[2]
            assert batch.scheduler is not None
            index = schedulers.index(batch.scheduler)
            batch.scheduler.finish(batch, now, now - batch.started)
            answered[index] += sum(now <= ticket.deadline for ticket in batch.tickets)
        while position < len(arrivals) and arrivals[position][0] <= now:
            schedulers[arrivals[position][1]].submit(Ticket(), now)
            position += 1
        for effect in device.poll(now):
            if isinstance(effect, Start):
                index = schedulers.index(effect.batch.scheduler)  # type: ignore[arg-type]  # it was started
                number += 1
                heappush(ends, (now + models[index].seconds(effect.batch.rows), number, effect.batch))
