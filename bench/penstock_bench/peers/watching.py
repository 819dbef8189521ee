"""How a comparison looks while it runs: a bar for all of it where there is a terminal, and a line for each turn."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from penstock_bench.load.plan import Progress
from penstock_bench.output import escape
from penstock_bench.peers.base import Peer
from penstock_bench.peers.loads import Load
from penstock_bench.peers.store import Turn


class ConsoleWatcher:
    """Tells on standard error."""

    def __init__(self, console: Console, turns: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._console = console
        self._task = self._bar.add_task("", total=turns)
        self._where = ""
        self._load = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def preparing(self, peer: Peer) -> None:
        self._describe(f"making the environment of {peer.title}")

    def prepared(self, peer: Peer, failure: str) -> None:
        if failure:
            self._say(f"{peer.title} {failure}")

    def turn(self, peer: Peer, model: str, round: int) -> None:
        self._where = f"{peer.title} · {model} · round {round + 1}"
        self._describe(f"{self._where} · starting")

    def loading(self, load: Load, client: str) -> None:
        self._load = f"{load} by {client}"
        self._describe(f"{self._where} · {self._load}")

    def progress(self, progress: Progress) -> None:
        self._describe(f"{self._where} · {self._load} · {progress.answered:,} answers")

    def ended(self, peer: Peer, turn: Turn, known: bool) -> None:
        self._bar.advance(self._task)
        if turn.failure:
            words = turn.failure
        else:
            parts = [
                each.failure if each.point is None else f"{each.load} {each.point.throughput:,.0f}/s"
                for each in turn.measured
            ]
            words = ", ".join(parts)
        self._say(f"{peer.title}, {turn.model}, round {turn.round + 1}{' (from before)' if known else ''}: {words}")

    def _describe(self, text: str) -> None:
        self._bar.update(self._task, description=escape(text))

    def _say(self, text: str) -> None:
        self._console.print(escape(text), markup=False, highlight=False, soft_wrap=True)
