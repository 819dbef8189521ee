"""`penstock bench`: hands everything that was typed to the package that measures."""

import typer

from penstock_server.cli.output import fail

SETTINGS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": list[str]()}
"""Options, `--help` among them, are for the package to read."""


def bench(context: typer.Context) -> int:
    """Measure a server: load, latency, throughput. `penstock bench --help` tells more."""
    try:
        from penstock_bench.cli import run
    except ModuleNotFoundError as error:
        if error.name in ("hdrh", "psutil"):
            fail("penstock bench needs two packages more: pip install 'penstock[bench]'", 2)
        raise
    return run(context.args)
