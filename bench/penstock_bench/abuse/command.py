"""`penstock bench abuse`: hostile peers against a Penstock of this Python, beside a client that does nothing wrong."""

import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from penstock_bench.abuse.attacks import ATTACKS, MEMORY, Attack
from penstock_bench.abuse.trial import ATTACKED, Trial, arena
from penstock_bench.durations import seconds_of, show
from penstock_bench.load.plan import LoadError
from penstock_bench.machine import this_machine
from penstock_bench.output import err, escape, fail, out
from penstock_bench.results import Machine

_BEFORE_SECONDS, _AFTER_SECONDS = 1.0, 1.0
_HEAD = ("attack", "frames", "it was told", "healthy", "failed", "p99 without", "p99", "MiB before", "peak", "after")
_MEMORY_HEAD = ("what is held", "MiB before", "peak", "after", "connections", "calls", "bytes by the server's account")
_MEMORY_SECONDS = 10.0


class AbuseReport(msgspec.Struct, frozen=True, kw_only=True):
    """All trials of one run."""

    title: str
    command: str
    started: str
    """ISO 8601, UTC."""
    machine: Machine
    options: Sequence[str]
    """Of the server."""
    trials: Sequence[Trial]


def abuse(
    context: typer.Context,
    only: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Only these attacks.", show_default="all of them")
    ] = None,
    seconds: Annotated[str, typer.Option(metavar="TIME", help="How long each attack goes on.")] = "5s",
    memory: Annotated[
        bool, typer.Option("--memory", help="Instead: what idle streams and half-sent messages take.")
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", file_okay=False, help="A folder for report.json and report.md.", show_default=False
        ),
    ] = None,
) -> int:
    """Attack a server that is started for it, beside a healthy client: floods, bombs, peers that hold and never read.

    For example: `penstock bench abuse --only rapid-reset,pings --seconds 2s`

    Nothing else is attacked: the server listens on 127.0.0.1, and ends with the command.

    Where the server gives a peer time by design, the attack goes on until that is up.

    Ends with 0; with 1 if the healthy client saw an error, an attacker was not told what it has to be, or memory grew
    beyond its bound; with 2 if it could not begin; with 130 after Ctrl-C.
    """
    started = datetime.now(UTC)
    try:
        wanted = _chosen(MEMORY if memory else ATTACKS, only)
        each = seconds_of(seconds)
        if not 0.1 <= each <= 3600:
            raise ValueError("an attack goes on for 0.1 s to an hour")
        if results is not None:
            results.mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"cannot use the folder {results}: {error.strerror or error}", 2)
    options = () if memory else ATTACKED
    trials: list[Trial] = []
    try:
        with arena(options) as ring:
            for attack in wanted:
                trial = ring.trial(
                    attack,
                    max(each, _MEMORY_SECONDS) if memory else each,
                    before=_BEFORE_SECONDS,
                    after=_AFTER_SECONDS,
                    patiently=True,
                )
                trials.append(trial)
                _tell(trial)
    except LoadError as error:
        fail(str(error), 1)
    _show(trials, memory)
    report = AbuseReport(
        title="What peers that hold much take" if memory else "Penstock under attack",
        command=shlex.join(["penstock", "bench", *(context.obj or ())]),
        started=started.isoformat(timespec="seconds"),
        machine=this_machine(),
        options=options,
        trials=trials,
    )
    if results is not None:
        _write(report, results, memory)
    return 1 if any(trial.faults() for trial in trials) else 0


def _chosen(attacks: Sequence[Attack], only: str | None) -> list[Attack]:
    names = [name.strip() for name in (only or "").split(",") if name.strip()]
    known = {attack.name: attack for attack in attacks}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no attack '{name}': there are {', '.join(known)}")
    return [known[name] for name in names] or list(attacks)


def _tell(trial: Trial) -> None:
    words = "; ".join(trial.faults()) or "as it should be"
    err.print(f"{trial.attack}, {trial.seconds:.1f} s: {escape(words)}", markup=False, highlight=False, soft_wrap=True)


def told(trial: Trial, most: int = 1) -> str:
    """What an attacker heard most often, what it had to hear first."""
    ordered = sorted(trial.answers.items(), key=lambda each: (not each[0].startswith(trial.expected or "-"), -each[1]))
    return ", ".join(f"{count} x {words}" for words, count in ordered[:most]) or "nothing"


def _cells(trial: Trial) -> list[str]:
    return [
        trial.attack,
        f"{trial.frames:,}",
        told(trial),
        f"{trial.healthy:,}",
        f"{sum(trial.failures.values()):,}",
        show(trial.p99_before),
        show(trial.p99),
        *_sizes(trial),
    ]


def _sizes(trial: Trial) -> list[str]:
    return [f"{size >> 20:,}" for size in (trial.memory_before, trial.memory_peak, trial.memory_after)]


def _memory_cells(trial: Trial) -> list[str]:
    accounts = trial.accounts
    calls, held = accounts["penstock_calls_in_flight"], accounts["penstock_transport_held_bytes"]
    connections = f"{accounts['penstock_transport_connections']:,.0f}"
    return [trial.what, *_sizes(trial), connections, f"{calls:,.0f}", f"{held / (1 << 20):,.1f} MiB"]


def _table(memory: bool) -> tuple[Sequence[str], Callable[[Trial], list[str]]]:
    return (_MEMORY_HEAD, _memory_cells) if memory else (_HEAD, _cells)


def _show(trials: Sequence[Trial], memory: bool) -> None:
    head, cells = _table(memory)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for each in head:
        table.add_column(each, justify="left" if each in ("attack", "it was told", "what is held") else "right")
    for trial in trials:
        table.add_row(*(escape(cell) for cell in cells(trial)))
    out.print(table)


def markdown(report: AbuseReport, memory: bool) -> str:
    """The report as a page."""
    head, cells = _table(memory)
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    lines = [
        f"# {report.title}",
        "",
        f"`{report.command}`",
        "",
        f"{report.started}, {machine.processor}, {machine.cores} cores, {machine.system}, Python {machine.python}; "
        f"{versions}. The server's options: {' '.join(report.options) or 'none'}.",
        "",
        f"| {' | '.join(head)} |",
        "|---|" + "---|" * (len(head) - 1),
        *(f"| {' | '.join(escape(cell).replace('|', '/') for cell in cells(trial))} |" for trial in report.trials),
        "",
    ]
    for trial in report.trials:
        faults = trial.faults()
        words = f"**{'; '.join(faults)}**" if faults else ""
        more = told(trial, most=4)
        lines.append(f"* {trial.attack}: {trial.what}, {trial.seconds:.1f} s. Told: {escape(more)}. {words}".rstrip())
    return "\n".join(lines) + "\n"


def _write(report: AbuseReport, folder: Path, memory: bool) -> None:
    """Trouble is told, and does not change what was measured."""
    try:
        (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        (folder / "report.md").write_text(markdown(report, memory), encoding="utf-8")
    except OSError as error:
        fail(f"cannot write {error.filename}: {error.strerror or error}", 2)
    out.print(f"Reports: {folder}/report.json, .md", highlight=False, soft_wrap=True)
