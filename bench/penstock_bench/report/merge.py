"""Several reports as one: runs that were resumed, servers that were measured one after the other, before and after.

Numbers are never mixed: a series of the merged report is a series of one of the files. Where two files have the same
series (server, client, model, load), one that failed or was cut off gives way to one that did not; of two good ones
both are kept, and the names tell their files. What was different between the runs is said as a warning.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from penstock_bench.durations import show
from penstock_bench.results import Report, Series


def merge(reports: Mapping[str, Report]) -> Report:
    """One report of at least one, by names that tell them apart (of their files). One alone stays as it is."""
    labels, all_of_them = list(reports), list(reports.values())
    first = all_of_them[0]
    if len(all_of_them) == 1:
        return first
    series = _series(reports)
    return msgspec.structs.replace(
        first,
        title=" / ".join(dict.fromkeys(each.title for each in all_of_them)),
        command="\n".join(dict.fromkeys(each.command for each in all_of_them)),
        started=min(each.started for each in all_of_them),
        settings=_settings(all_of_them),
        series=series,
        warnings=[
            *_conflicts(reports),
            *(f"{label}: {warning}" for label in labels for warning in reports[label].warnings),
        ],
        partial=any(point.partial for one in series for point in one.points),
    )


def _series(reports: Mapping[str, Report]) -> list[Series]:
    found: dict[tuple[str, ...], list[tuple[str, Series]]] = {}
    for label, report in reports.items():
        for one in report.series:
            key = (one.server, one.client, one.protocol, one.model, one.load)
            found.setdefault(key, []).append((label, one))
    return [one for same in found.values() for one in _told_apart(same)]


def _told_apart(same: Sequence[tuple[str, Series]]) -> Iterator[Series]:
    kept = [(label, one) for label, one in same if _is_whole(one)] or same[-1:]
    # Two of one file are told apart by whoever wrote it.
    several = len({label for label, _ in kept}) > 1
    for label, one in kept:
        yield msgspec.structs.replace(one, server=f"{one.server} ({label})") if several else one


def _is_whole(series: Series) -> bool:
    return bool(series.points) and not series.failure and not any(point.partial for point in series.points)


def _settings(reports: Sequence[Report]) -> dict[str, str]:
    """Where they differ, all of them."""
    names = dict.fromkeys(key for report in reports for key in report.settings)
    return {
        key: " | ".join(dict.fromkeys(report.settings[key] for report in reports if key in report.settings))
        for key in names
    }


def _conflicts(reports: Mapping[str, Report]) -> Iterator[str]:
    """Differences that make a comparison doubtful, a sentence each."""
    machines = {label: report.machine for label, report in reports.items()}
    yield from _differing("the processor", {label: each.processor for label, each in machines.items()})
    yield from _differing("the cores", {label: str(each.cores) for label, each in machines.items()})
    yield from _differing("the system", {label: each.system for label, each in machines.items()})
    yield from _differing("Python", {label: each.python for label, each in machines.items()})
    for package in dict.fromkeys(package for each in machines.values() for package in each.versions):
        found = {label: each.versions[package] for label, each in machines.items() if package in each.versions}
        yield from _differing(package, found)
    yield from _differing("the seed", {label: str(report.seed) for label, report in reports.items()})
    slos = {label: "none" if report.slo is None else show(report.slo) for label, report in reports.items()}
    yield from _differing("the SLO", slos)


def _differing(what: str, found: Mapping[str, str]) -> Iterator[str]:
    if len(set(found.values())) > 1:
        values = ", ".join(f"{value} in {label}" for label, value in found.items())
        yield f"not measured alike: {what} is {values}"
