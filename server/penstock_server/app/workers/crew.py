"""One worker, as its supervisor sees it: a process, a link to it, and what was last heard over that."""

import asyncio
import logging
import subprocess
from collections.abc import Callable
from socket import socket

from penstock_server.app.announce import Served
from penstock_server.app.workers.link import Ask, FromWorker, Link, Report, Stop, ToWorker, link_to_worker

_log = logging.getLogger(__name__)

_END_SECONDS = 5.0
"""From the end of a worker's link to that of its process. Then it is helped along."""


class Worker:
    """A worker from its start to its end. `listen` runs as long as it has anything to say."""

    def __init__(self, slot: int, process: subprocess.Popen[bytes], ours: socket, heard: "Heard") -> None:
        self.slot = slot
        self.process = process
        self.served: Served | None = None
        """What it serves; None until it does."""
        self.report: Report | None = None
        """Its last one."""
        self._answer: asyncio.Future[None] | None = None
        self._link: Link[FromWorker] | None = None
        self._unsent: list[ToWorker] = []
        self.listening = asyncio.create_task(self._listen(ours, heard))

    def __repr__(self) -> str:
        state = "starting" if self.served is None else "silent" if self.silent else "serving"
        return f"<Worker {self.slot}, process {self.process.pid}: {state}>"

    @property
    def silent(self) -> bool:
        """Whether it was asked for a report and has not answered yet."""
        return self._answer is not None and not self._answer.done()

    def ask(self) -> asyncio.Future[None]:
        """Ask for a report, unless it still owes one. Done when it has come, or never will."""
        if self._answer is None or self._answer.done():
            self._answer = asyncio.get_running_loop().create_future()
            if self.listening.done():
                self._answer.set_result(None)
            else:
                self._send(Ask())
        return self._answer

    def stop(self) -> None:
        """Tell it to drain and to end."""
        self._send(Stop())

    def _send(self, message: ToWorker) -> None:
        if self._link is None:
            self._unsent.append(message)
        else:
            self._link.send(message)

    async def _listen(self, ours: socket, heard: "Heard") -> None:
        self._link = await link_to_worker(ours)
        for message in self._unsent:
            self._link.send(message)
        try:
            await self._link.receive(lambda message: self._take(message, heard))
        finally:
            self._settle()
            await self._link.close()
        # Its process ends now. If it does not, nobody can tell it anything any more.
        asyncio.get_running_loop().call_later(_END_SECONDS, self._end)

    def _take(self, message: FromWorker, heard: "Heard") -> None:
        if isinstance(message, Report):
            self.report = message
            self._settle()
        else:
            heard(self, message)

    def _settle(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    def _end(self) -> None:
        if self.process.poll() is None:
            _log.error("worker %d does not end: killing it", self.slot, extra={"fields": {"worker": self.slot}})
            self.process.kill()


Heard = Callable[[Worker, FromWorker], None]
"""Told of a worker's messages other than reports."""
