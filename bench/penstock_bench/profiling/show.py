"""A profile in a terminal: the time of a request by layer, beside an earlier one if there is one."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from penstock_bench.durations import show
from penstock_bench.output import escape
from penstock_bench.profiling.layers import ORDER
from penstock_bench.profiling.results import Profile

_HOTTEST = 10
_WITHOUT_NATIVE = (
    "event loop: with what gRPC's C library does there, if that is the transport; --native tells them apart"
)


def show_profile(profile: Profile, console: Console, before: Profile | None = None) -> None:
    """Print it."""
    title = f"{profile.server}, {profile.model}: {profile.load}"
    console.print(escape(title), style="bold", markup=False, highlight=False)
    console.print(_layers(profile, before))
    kernel = f"{profile.kernel:.0%} of it in the kernel"
    rate = f"{profile.point.throughput:,.0f} answers a second while nobody watched"
    console.print(f"{kernel}; {rate}; {profile.samples:,} samples", highlight=False, soft_wrap=True)
    if not profile.native:
        console.print(_WITHOUT_NATIVE, style="dim", highlight=False)
    console.print("the functions that take most of it themselves", style="bold", highlight=False)
    console.print(_functions(profile))
    for warning in (*profile.point.warnings, *profile.warnings):
        console.print(f"! {escape(warning)}", markup=False, highlight=False, soft_wrap=True)


def _layers(profile: Profile, before: Profile | None) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layer")
    for head in ("CPU/req", "share", "of rounds", *(("before", "change") if before is not None else ())):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("")
    names = [name for name in ORDER if name in profile.layers or (before is not None and name in before.layers)]
    for name in names:
        part = profile.layers.get(name, 0.0)
        share = part / profile.cpu if profile.cpu > 0 else 0.0
        compared = () if before is None else _change(part, before.layers.get(name, 0.0))
        table.add_row(name, show(part), f"{share:.1%}", _range(profile, name), *compared, "█" * round(30 * share))
    table.add_section()
    compared = () if before is None else _change(profile.cpu, before.cpu)
    table.add_row("all", show(profile.cpu), "100%", "", *compared, "", style="bold")
    return table


def _range(profile: Profile, name: str) -> str:
    low, high = (part / profile.cpu if profile.cpu > 0 else 0.0 for part in profile.ranges.get(name, (0.0, 0.0)))
    return f"{100 * low:.0f} to {high:.0%}"


def _change(now: float, before: float) -> tuple[str, str]:
    difference = now - before
    sign = "+" if difference >= 0 else "-"
    part = f" ({difference / before:+.0%})" if before > 0 else ""
    return show(before), f"{sign}{show(abs(difference))}{part}"


def _functions(profile: Profile) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("CPU/req", justify="right", no_wrap=True)
    table.add_column("layer", no_wrap=True)
    table.add_column("function", overflow="fold")
    for hot in profile.hottest[:_HOTTEST]:
        table.add_row(show(hot.share * profile.cpu), hot.layer, escape(hot.function))
    return table
