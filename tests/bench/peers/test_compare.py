"""Medians, ratios and tables out of turns."""

import msgspec
import pytest

from penstock_bench.peers.compare import Group, groups, ratio_of, series_of
from penstock_bench.peers.loads import Load, for_protocol, parse
from penstock_bench.peers.store import Measured, PeerResult, Turn
from penstock_bench.peers.tables import markdown
from penstock_bench.results import Point

DEEP, WIDE = Load(4, 64), Load(64, 1)


def point(throughput: float) -> Point:
    return Point(connections=4, concurrency=256, duration=1.0, sent=9, ok=9, throughput=throughput, generator_cpu=0.1)


def result(name: str, *throughputs: float, load: Load = DEEP, protocol: str = "gRPC", failure: str = "") -> PeerResult:
    turns = [
        Turn(
            model="iris",
            round=round,
            measured=[Measured(load=str(load), words=f"{load}", client="penstock bench", point=point(value))],
        )
        for round, value in enumerate(throughputs)
    ]
    return PeerResult(
        name=name, title=name.upper(), protocol=protocol, remark="a remark", settings={}, failure=failure, turns=turns
    )


def table(*results: PeerResult, load: Load = DEEP, rounds: int = 2) -> Group:
    (group,) = groups(results, ["iris"], [load], ["penstock bench"], rounds)
    return group


def test_a_ratio_is_taken_within_a_round() -> None:
    """A machine that is half as fast in the second round changes no ratio."""
    found = ratio_of({0: point(300.0), 1: point(150.0)}, {0: point(100.0), 1: point(50.0)})
    assert found is not None
    assert (found.middle, found.least, found.most, found.rounds) == (3.0, 3.0, 3.0, 2)
    assert str(found) == "3.0"


def test_a_ratio_tells_its_spread() -> None:
    """The smallest and the largest of the rounds."""
    found = ratio_of({0: point(40.0), 1: point(20.0), 2: point(30.0)}, dict.fromkeys(range(3), point(10.0)))
    assert str(found) == "3.0 (2.0-4.0)"


def test_without_a_common_round_there_is_no_ratio() -> None:
    """Nor with a server that answered nothing."""
    assert ratio_of({0: point(1.0)}, {1: point(1.0)}) is None
    assert ratio_of({0: point(1.0)}, {0: point(0.0)}) is None


def test_a_row_is_the_median_of_its_rounds() -> None:
    """With the spread; and it is partial if a round is missing."""
    whole, part = table(result("a", 100.0, 120.0, 110.0), result("b", 50.0), rounds=3).rows
    assert (whole.series.points[0].throughput, whole.partial) == (110.0, False)
    assert whole.series.points[0].spread == pytest.approx(20 / 110)
    assert (part.series.points[0].throughput, part.partial) == (50.0, True)
    assert str(part.ratio) == "0.5"


def test_who_could_not_be_measured_stands_in_the_table() -> None:
    """With the reason."""
    group = table(result("a", 1.0, 1.0), result("b", failure="cannot be installed: no"))
    assert group.rows[1].series.failure == "cannot be installed: no"
    text = markdown([group])
    assert "| B | gRPC | failed |" in text
    assert "* B: failed: cannot be installed: no; a remark" in text


def test_http_is_marked_and_compared_under_equal_loads_alone() -> None:
    """A row of HTTP in a table of deep connections has no ratio, and says how it was driven; reports have it once."""
    ours = result("a", 100.0)
    http = result("b", 50.0, load=WIDE, protocol="HTTP/1.1")
    deep = table(ours, http, rounds=1)
    assert deep.rows[1].ratio is None
    assert deep.rows[1].series.remark.startswith("driven by 64x1, since HTTP/1.1")
    assert deep.rows[1].series.protocol == "HTTP/1.1"
    wide = table(result("a", 100.0, load=WIDE), http, load=WIDE, rounds=1)
    assert str(wide.rows[1].ratio) == "0.5"
    assert [one.server for one in series_of([deep, wide])] == ["A", "B", "A"]


def test_tables_without_any_measurement_are_left_out() -> None:
    """As they are when a comparison was interrupted before them."""
    assert groups([result("a", 1.0)], ["mlp"], [DEEP], ["penstock bench"], 1) == []


def test_what_timeouts_cost_is_told_by_their_row() -> None:
    """In CPU, against the same peer's load without them, round by round; h2load has none."""
    late = Load(4, 64, timeouts=True)
    turns = [
        Turn(
            model="iris",
            round=round,
            measured=[
                Measured(
                    load=str(load),
                    words=f"{load}",
                    client="penstock bench",
                    point=msgspec.structs.replace(point(10.0), server_cpu=cpu),
                )
                for load, cpu in ((DEEP, plain), (late, timed))
            ],
        )
        for round, (plain, timed) in enumerate([(10e-6, 15e-6), (20e-6, 40e-6)])
    ]
    ours = PeerResult(name="a", title="A", protocol="gRPC", remark="a remark", settings={}, turns=turns)
    found = groups([ours], ["iris"], [DEEP, late], ["penstock bench", "h2load"], 2)
    assert [group.load for group in found] == [DEEP, late]
    assert found[0].rows[0].series.remark == "a remark"
    assert found[1].rows[0].series.remark.startswith("1.8 (1.5-2.0) x the CPU/request of 4x64 without timeouts")
    assert "4 connections x 64, a timeout on every call" in markdown(found)


def test_loads_over_http() -> None:
    """Depth becomes 64 connections, once; timeouts are gRPC's."""
    assert for_protocol([WIDE, Load(64, 1, timeouts=True)], multiplexed=False) == [WIDE]
    assert for_protocol([Load(4, 64, timeouts=True)], multiplexed=True) == [Load(4, 64, timeouts=True)]
    assert for_protocol([Load(1, 1), WIDE, DEEP], multiplexed=False) == [Load(1, 1), WIDE]
    assert for_protocol([DEEP, Load(2, 8)], multiplexed=False) == [WIDE]
    assert for_protocol([DEEP], multiplexed=True) == [DEEP]


@pytest.mark.parametrize("text", ["4x64", "64x1+timeout"])
def test_loads_are_read_as_they_are_written(text: str) -> None:
    """Results are found by these words."""
    assert str(parse(text)) == text
    assert parse(text).timeouts == text.endswith("timeout")


@pytest.mark.parametrize("text", ["", "64", "0x1", "1x0", "-1x2", "axb", "100x100", "1x2x3", "4x64+", "4x64+tea"])
def test_a_load_that_makes_no_sense(text: str) -> None:
    """Is refused with a sentence that shows a right one."""
    with pytest.raises(ValueError, match="such as 4x64"):
        parse(text)
