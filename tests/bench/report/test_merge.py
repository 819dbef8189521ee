"""Several reports as one: nothing is mixed, nothing is lost, and differences are said."""

import msgspec

from penstock_bench.report.merge import merge
from penstock_bench.results import Report
from tests.bench.report.reports import MACHINE, point, report, single


def servers(of: Report) -> list[str]:
    return [one.server for one in of.series]


def test_one_report_stays_as_it_is() -> None:
    """Whatever is in it."""
    one = report([single("a", 1)])
    assert merge({"x": one}) is one


def test_servers_stand_side_by_side() -> None:
    """In the order of the files, with both commands."""
    one, other = report([single("a", 1)]), report([single("b", 2)], command="another", started="2025")
    found = merge({"x": one, "y": other})
    assert servers(found) == ["a", "b"]
    assert found.command == f"{one.command}\nanother"
    assert found.started == "2025"
    assert found.warnings == []


def test_what_failed_gives_way_to_what_did_not() -> None:
    """A resumed run has one row for each peer."""
    good = single("a", 5)
    for bad in (single("a", 1, points=[], failure="gone"), single("a", 1, points=[point(partial=True)])):
        for order in ([bad, good], [good, bad]):
            found = merge({str(number): report([one], partial=True) for number, one in enumerate(order)})
            assert list(found.series) == [good]
            assert not found.partial


def test_of_two_failures_the_last_is_told() -> None:
    """One row with a reason is enough."""
    reports = {text: report([single("a", 1, points=[], failure=text)]) for text in ("first", "last")}
    assert [one.failure for one in merge(reports).series] == ["last"]


def test_two_good_ones_are_told_apart_by_their_files() -> None:
    """Before and after stand side by side; no number of either is lost."""
    found = merge({"before": report([single("a", 1)]), "after": report([single("a", 2)])})
    assert servers(found) == ["a (before)", "a (after)"]
    assert [one.points[0].throughput for one in found.series] == [1, 2]


def test_another_load_is_another_series() -> None:
    """Only what is the same in all that matters is held against each other."""
    rows = [single("a", 1), single("a", 1, load="else"), single("a", 1, model="else"), single("a", 1, client="h2load")]
    assert servers(merge({"x": report(rows), "y": report([])})) == ["a"] * 4


def test_differences_are_said() -> None:
    """Whoever compares must know of another machine, other versions, another seed or SLO."""
    other = msgspec.structs.replace(MACHINE, processor="Else", versions={"penstock": "0.3.0", "numpy": "2"})
    found = merge({"x": report([]), "y": report([], machine=other, seed=8, slo=0.01, warnings=["odd"])})
    assert found.warnings == [
        "not measured alike: the processor is Imagined CPU @ 3 GHz in x, Else in y",
        "not measured alike: penstock is 0.2.0 in x, 0.3.0 in y",
        "not measured alike: the seed is 7 in x, 8 in y",
        "not measured alike: the SLO is none in x, 10ms in y",
        "y: odd",
    ]


def test_settings_that_differ_are_all_there() -> None:
    """One after the other."""
    found = merge({"x": report([]), "y": report([], settings={"seconds": "5"})})
    assert found.settings == {"connections": "4", "seconds": "10 | 5"}
