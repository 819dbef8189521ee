"""What belongs together, what is compared with what, and what nobody may overlook."""

from typing import Any

import pytest

from penstock_bench.report.rows import (
    Ratio,
    alarms,
    baseline_of,
    check_baseline,
    columns,
    groups,
    looks,
    marks,
    name,
    ratios,
    remarks,
)
from penstock_bench.results import Series
from tests.bench.report.reports import point, report, single, sweep


def test_series_of_one_model_and_load_are_a_group() -> None:
    """In the order in which they were measured; another model or load is another group."""
    found = groups(report([single("a", 10), single("a", 10, model="mlp"), single("b", 5), sweep("a", 9)]))
    assert [[one.server for one in group.series] for group in found] == [["a", "b"], ["a"], ["a"]]
    assert [group.compared for group in found] == [True, False, False]
    assert [group.swept for group in found] == [False, False, True]


def test_a_name_says_what_is_unusual() -> None:
    """Over HTTP, or asked by another client: so it is not taken for the same."""
    assert name(single("a", 1)) == "a"
    assert name(single("a", 1, protocol="HTTP/1.1")) == "a (HTTP/1.1)"
    assert name(single("a", 1, client="h2load")) == "a, by h2load"
    assert looks(report([single("a", 1), single("b", 1), single("a", 1, model="mlp")])) == {"a": 0, "b": 1}


def test_ratios_are_of_throughput_with_what_both_spreads_allow() -> None:
    """The interval holds the smallest of one by the largest of the other, and the other way round."""
    one, other = single("fast", 3000.0, spread=0.2), single("slow", 1000.0, spread=0.0)
    (group,) = groups(report([one, other]))
    what, found = ratios(group, other)
    assert what == "good/s / slow"
    assert found == {id(one.points[0]): "3.00x (2.70 to 3.30)"}


def test_a_ratio_without_spreads_has_no_interval() -> None:
    """Nothing is claimed that was not measured."""
    one, other = single("fast", 300.0, spread=None), single("slow", 100.0, spread=None)
    (group,) = groups(report([one, other]))
    assert list(ratios(group, other)[1].values()) == ["3.00x"]
    assert str(Ratio(1234.5, 1234.5, 1234.5)) == "1,234x"


def test_an_open_loop_is_compared_by_its_slow_answers() -> None:
    """At the same rate its throughput is the same by construction; at other rates nothing is compared."""
    fast = Series(server="fast", protocol="gRPC", model="m", load="l", points=[point(mean=0.01, offered=100.0)])
    slow = Series(server="slow", protocol="gRPC", model="m", load="l", points=[point(mean=0.02, offered=101.0)])
    (group,) = groups(report([fast, slow]))
    what, found = ratios(group, fast)
    assert (what, found) == ("p99 / fast", {id(slow.points[0]): "2.00x"})
    (group,) = groups(report([sweep("a", 1000), sweep("b", 333)]))
    assert ratios(group, baseline_of(group, None)) == ("", {})


def test_the_baseline_is_the_first_with_numbers_or_the_named_one() -> None:
    """A word of its name is enough; one that is not there is said."""
    all_of_it = report([single("a", 1, points=[], failure="gone"), single("Bee 1.0", 2), single("Cat 2", 3)])
    (group,) = groups(all_of_it)
    first, second = baseline_of(group, None), baseline_of(group, "cat")
    assert first is not None
    assert first.server == "Bee 1.0"
    assert second is not None
    assert second.server == "Cat 2"
    check_baseline(all_of_it, "cat")
    with pytest.raises(ValueError, match=r"no server of the report is called 'dog'; there are: a, Bee 1\.0, Cat 2"):
        check_baseline(all_of_it, "dog")


def test_nobody_is_compared_with_himself() -> None:
    """One server has no baseline."""
    (group,) = groups(report([single("a", 1), single("b", 1, points=[], failure="gone")]))
    assert baseline_of(group, None) is None


def test_columns_that_know_nothing_are_left_out() -> None:
    """And the load, where there is only one."""
    bare = [single("a", 1, points=[point(latency=None)])]
    heads = [column.head for column in columns(report(bare), bare)]
    assert heads == ["good/s", "generator"]
    full = [sweep("a", 100)]
    heads = [column.head for column in columns(report(full, slo=0.02), full)]
    assert heads[:2] == ["load", "good/s"]
    assert {"p50", "p99.9", "in 20ms", "CPU/req", "batch", "queue"} <= set(heads)


def test_bad_answers_are_told_by_kind() -> None:
    """A failure is no wrong answer, and neither is silence."""
    bad = point(failed={"UNAVAILABLE": 1200, "INTERNAL": 0}, wrong=2, unanswered=3)
    series = [single("a", 1, points=[bad])]
    cells = {column.head: column.cell(bad) for column in columns(report(series), series)}
    assert cells["bad"] == "1,200 UNAVAILABLE, 2 wrong, 3 unanswered"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"partial": True}, ["partial"]),
        ({"spread": 0.16}, ["noisy"]),
        ({"spread": 0.15}, []),
        ({"warnings": ["noisy: parts differ by 20%"]}, ["noisy"]),
        ({"wrong": 1}, ["wrong answers"]),
        ({"generator_cpu": 0.95}, ["generator-bound"]),
    ],
)
def test_points_that_need_a_mark_have_one(changes: dict[str, Any], said: list[str]) -> None:
    """And no others."""
    assert marks(point(**changes)) == said


def test_alarms_tell_of_everything_that_is_not_as_it_should_be() -> None:
    """Failures with their reasons, of those with numbers as well."""
    found = list(
        alarms(
            report(
                [
                    single("cut", 1, points=[point(partial=True)]),
                    single("gone", 1, points=[], failure="was not ready after 60 s"),
                    sweep("late", 10, failure="the server was lost"),
                    single("loud", 1, spread=0.5),
                    single("liar", 1, points=[point(wrong=3)]),
                ],
                warnings=["not measured alike"],
            )
        )
    )
    assert [any(word in each for each in found) for word in ("cut", "gone", "late", "loud", "liar")] == [True] * 5
    assert "gone, iris, closed loop, 4 connections x 64: could not be measured: was not ready after 60 s" in found
    assert any(each.startswith("late,") and "measured further: the server was lost" in each for each in found)
    assert "Wrong answers: 3 of liar, iris, 256 in flight." in found
    assert found[-1] == "not measured alike"
    assert list(alarms(report([single("fine", 1)]))) == []
    assert list(alarms(report([single("fine", 1)], partial=True))) == ["Partial: the run was cut off before its end."]


def test_equal_remarks_share_a_number() -> None:
    """As footnotes do."""
    rows = [single(each, 1, remark=remark) for each, remark in (("a", "x"), ("b", ""), ("c", "y"), ("d", "x"))]
    assert remarks(report(rows)) == {"x": 1, "y": 2}
