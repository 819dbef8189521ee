"""`penstock bench report`: results that were kept as JSON, shown again or in another form, side by side if several."""

from pathlib import Path
from typing import Annotated

import typer

from penstock_bench.output import fail, out
from penstock_bench.report.html import page
from penstock_bench.report.markdown import table
from penstock_bench.report.merge import merge
from penstock_bench.report.rows import check_baseline
from penstock_bench.report.text import show_report
from penstock_bench.results import Report, read_report, write_report


def report(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="What --json of another command has written.")],
    baseline: Annotated[
        str | None,
        typer.Option(
            help="The server, or a word of its name, that others are multiples of.",
            metavar="NAME",
            show_default="the first",
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts.", metavar="FILE", dir_okay=False)] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print tables in Markdown.")] = False,
    as_json: Annotated[
        Path | None, typer.Option("--json", help="Write all of it as one report.", metavar="FILE", dir_okay=False)
    ] = None,
) -> int:
    """Show results again: here, as a page with charts, or as Markdown. Several files become one report.

    For example: `penstock bench report before.json after.json --html compared.html`

    Servers with the same model and load stand side by side, with ratios.

    Ends with 0, or with 2 if a file cannot be read or written.
    """
    try:
        merged = merge(_read(files))
        check_baseline(merged, baseline)
    except ValueError as error:
        fail(str(error), 2)
    try:
        if html is not None:
            html.write_text(page(merged, baseline), encoding="utf-8")
        if as_json is not None:
            write_report(merged, as_json)
    except OSError as error:
        fail(f"cannot write {error.filename}: {error.strerror or error}", 2)
    if markdown:
        out.print(table(merged, baseline), end="", markup=False, highlight=False, soft_wrap=True)
    elif html is None and as_json is None:
        show_report(merged, out, baseline)
    return 0


def _read(files: list[Path]) -> dict[str, Report]:
    """By names as short as they can be. Raises ValueError with a sentence."""
    short = len({file.stem for file in files}) == len(files)
    found: dict[str, Report] = {}
    for file in files:
        try:
            found[file.stem if short else str(file)] = read_report(file)
        except OSError as error:
            raise ValueError(f"cannot read {file}: {error.strerror or error}") from None
    return found
