"""The turns of a scheduler, or of a device that several share: the only place where their time is real.

    admit all that came in ─▶ poll ─▶ perform each effect ─▶ set the alarm for the next turn

One *turn* serves everything that came in since the last, in one pass of the loop at least: a batch for free.
"""

import asyncio
import time
from typing import TYPE_CHECKING

from penstock_scheduler import Device, Drop, Release, Scheduler, Start
from penstock_server.engine.jobs import Job
from penstock_server.engine.round_robin import RoundRobin
from penstock_server.engine.wakeup import WakeUp

if TYPE_CHECKING:
    from penstock_server.engine.driver import Driver


class Turns:
    """Gives the schedulers of one device, or one of its own, their turns. Lives on the loop that made it."""

    def __init__(self, source: Scheduler[Job] | Device[Job], round_robin: RoundRobin | None = None) -> None:
        """The `round_robin` is for those whose turns are on the same loop."""
        self._source = source
        self._round_robin = round_robin or RoundRobin()
        self._wakeup = WakeUp(asyncio.get_running_loop(), self._turn)
        self._is_due = False
        self._is_queued = False
        self._drivers: list[Driver] = []

    def add(self, driver: "Driver") -> None:
        """Serve this driver's scheduler too."""
        self._drivers.append(driver)

    def remove(self, driver: "Driver") -> None:
        """Forget a driver that is closed; the last one takes the alarm with it."""
        if driver in self._drivers:
            self._drivers.remove(driver)
        if not self._drivers:
            self._wakeup.close()

    def soon(self) -> None:
        """Take a turn at the end of this pass of the loop, or of one of the next if many are due."""
        self._is_due = True
        if not self._is_queued:
            self._is_queued = True
            self._round_robin.add(self._turn_if_due)

    def _turn_if_due(self) -> None:
        self._is_queued = False
        if self._is_due and self._drivers:  # else the alarm was first, or the last driver is gone
            self._turn()

    def _turn(self) -> None:
        self._is_due = False
        now = time.monotonic()
        for driver in self._drivers:
            driver.admit(now)
        others: list[Drop[Job] | Release[Job]] = []
        # The batches first: they need not wait until those that were dropped are told.
        for effect in self._source.poll(now):
            if isinstance(effect, Start):
                effect.batch.tickets[0].plan.version.driver.start(effect.batch)
            else:
                others.append(effect)
        for effect in others:
            if isinstance(effect, Drop):
                effect.ticket.plan.version.driver.drop(effect.ticket, effect.reason)
            else:
                effect.ticket.plan.version.driver.release(effect.ticket)
        if not self._is_due:  # a batch that ran at once has asked for another turn, which sets the alarm
            self._wakeup.set(self._source.next_wakeup())
        for driver in list(self._drivers):
            driver.tell_if_idle()
