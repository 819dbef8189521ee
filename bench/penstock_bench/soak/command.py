"""`penstock bench soak`: all kinds of traffic for minutes, every answer looked at, memory against requests."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from penstock_bench.durations import seconds_of
from penstock_bench.load.plan import LoadError
from penstock_bench.machine import this_machine
from penstock_bench.output import err, escape, fail, out
from penstock_bench.results import Machine
from penstock_bench.soak.memory import Sample, Slope, slope_of
from penstock_bench.soak.running import Left, Soaked, soak
from penstock_bench.soak.tally import Kind

_SAY_SECONDS = 10.0
_ROWS = 20
_MIB = 1 << 20


class SoakReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of one soak."""

    title: str = "A soak"
    command: str
    started: str
    """ISO 8601, UTC."""
    machine: Machine
    seconds: float
    seed: int
    rate: float
    requests: int
    wrong: int
    lost: int
    examples: Sequence[str]
    kinds: dict[str, Kind]
    slope: Slope | None
    before: Left | None
    after: Left | None
    residues: dict[str, float]
    samples: Sequence[Sample]
    partial: bool
    """It was cut off."""
    ended: bool
    """The server died."""

    def faults(self) -> list[str]:
        """What is wrong, in words; empty: nothing."""
        found: list[str] = []
        if self.ended:
            found.append("the server has ended")
        if self.wrong:
            found.append(f"{self.wrong} answers were wrong")
        if self.lost:
            found.append(f"{self.lost} requests got no answer")
        if not self.requests:
            found.append("nothing was answered")
        found += [f"{name} is {value:g} at the end, and should be 0" for name, value in self.residues.items()]
        return found


def soak_command(
    context: typer.Context,
    seconds: Annotated[str, typer.Option(metavar="TIME", help="How long.")] = "10m",
    rate: Annotated[
        float, typer.Option(metavar="N", min=0, max=1e5, help="Requests a second of the steady load beside the visits.")
    ] = 1000.0,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="For everything that is drawn.")] = 0,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", file_okay=False, help="A folder for report.json and report.md.", show_default=False
        ),
    ] = None,
) -> int:
    """Use a server that is started for it in every way at once, look at every answer, and at what it holds.

    For example: `penstock bench soak --seconds 1m --results soak-results`

    Small and large tensors, strings, gzip, timeouts, cancellations, bad requests, streams, sequences, decoupled models,
    connections that come, go and break. Memory is told in bytes for each request: the slope of a line through the last
    two thirds.

    Ends with 0; with 1 if an answer was wrong or lost, or the server holds something at the end that it should not;
    with 2 if it could not begin; with 130 after Ctrl-C.
    """
    started = datetime.now(UTC)
    try:
        length = seconds_of(seconds)
        if not 1 <= length <= 7 * 86_400:
            raise ValueError("a soak takes a second to a week")
        if results is not None:
            results.mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"cannot use the folder {results}: {error.strerror or error}", 2)
    soaked = Soaked()
    interrupted = False
    try:
        soak(soaked, length, rate, seed, _Progress(length).look)
    except LoadError as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        interrupted = True
    tally = soaked.tally
    report = SoakReport(
        command=shlex.join(["penstock", "bench", *(context.obj or ())]),
        started=started.isoformat(timespec="seconds"),
        machine=this_machine(),
        seconds=length,
        seed=seed,
        rate=rate,
        requests=tally.requests,
        wrong=tally.wrong,
        lost=tally.lost,
        examples=tally.examples,
        kinds=dict(tally.kinds),
        slope=slope_of(soaked.samples),
        before=soaked.before,
        after=soaked.after,
        residues=soaked.residues,
        samples=soaked.samples,
        partial=interrupted,
        ended=soaked.ended,
    )
    out.print(summary(report), markup=False, highlight=False, soft_wrap=True)
    if results is not None:
        _write(report, results)
    return 130 if interrupted else 1 if report.faults() else 0


class _Progress:
    """A line every few seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0

    def look(self, soaked: Soaked, elapsed: float) -> None:
        """Told once a second."""
        if elapsed < self._next:
            return
        self._next = elapsed + _SAY_SECONDS
        tally, last = soaked.tally, soaked.samples[-1] if soaked.samples else None
        slope = slope_of(soaked.samples)
        memory = "" if last is None else f", {last.requests:,} requests served, {last.memory / _MIB:.1f} MiB"
        growth = "" if slope is None else f", {slope.bytes_per_request:+.1f} bytes a request"
        words = f"{elapsed:.0f} of {self._seconds:.0f} s: {tally.wrong} wrong, {tally.lost} lost{memory}{growth}"
        err.print(words, markup=False, highlight=False, soft_wrap=True)


def summary(report: SoakReport) -> str:
    """In a few lines."""
    lines = [f"{report.requests:,} requests of clients: {report.wrong} wrong, {report.lost} lost"]
    slope = report.slope
    if slope is not None:
        lines.append(
            f"memory: {slope.bytes_per_request:+.2f} ± {slope.error:.2f} bytes a request over the last"
            f" {slope.requests:,}, {slope.grown / _MIB:+.1f} MiB"
        )
    lines += [escape(fault) for fault in report.faults()]
    lines += [f"such as: {escape(example)}" for example in report.examples]
    return "\n".join(lines)


def markdown(report: SoakReport) -> str:
    """The report as a page."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    lines = [
        f"# {report.title}{' (partial)' if report.partial else ''}",
        "",
        f"`{report.command}`",
        "",
        f"{report.started}, {machine.processor}, {machine.cores} cores, {machine.system}, Python {machine.python}; "
        f"{versions}. {report.seconds:g} s, seed {report.seed}, steady load of {report.rate:g}/s.",
        "",
        *(f"* {line}" for line in summary(report).splitlines()),
        "",
        "| kind | visits | requests | wrong | lost |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {name} | {kind.visits:,} | {kind.requests:,} | {kind.wrong} | {kind.lost} |"
            for name, kind in report.kinds.items()
        ),
        "",
        "| server | MiB | files | threads |",
        "|---|---:|---:|---:|",
        *(
            f"| {when} | {left.memory / _MIB:.1f} | {left.files} | {left.threads} |"
            for when, left in (("before", report.before), ("after", report.after))
            if left is not None
        ),
        "",
        "| seconds | requests served | MiB |",
        "|---:|---:|---:|",
        *(
            f"| {sample.seconds:.0f} | {sample.requests:,} | {sample.memory / _MIB:.1f} |"
            for sample in report.samples[:: max(1, len(report.samples) // _ROWS)]
        ),
    ]
    return "\n".join(lines) + "\n"


def _write(report: SoakReport, folder: Path) -> None:
    try:
        (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        (folder / "report.md").write_text(markdown(report), encoding="utf-8")
    except OSError as error:
        fail(f"cannot write {error.filename}: {error.strerror or error}", 2)
    out.print(f"Reports: {folder}/report.json, .md", highlight=False, soft_wrap=True)
