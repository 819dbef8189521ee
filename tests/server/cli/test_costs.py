"""What a batch costs: as it is typed, and the line through what was measured."""

import pytest

from penstock_proto.open_inference_pb2 import InferBatchStatistics, ModelStatistics, StatisticDuration
from penstock_server.cli.costs import Cost, Sample, fit, parse_cost, samples_of
from penstock_server.cli.values import BadValue


def test_a_cost_is_typed_as_two_numbers() -> None:
    """A row, and a batch besides, in milliseconds."""
    cost = parse_cost("1.05, 5.07")
    assert (cost.per_row, cost.per_batch) == (1.05, 5.07)
    assert cost.of(10) == pytest.approx(15.57)
    assert parse_cost("0,3") == Cost(0.0, 3.0)


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "a,b", "-1,2", "1,-2", "0,0", "inf,1", "1,nan"])
def test_what_is_no_cost_is_told(text: str) -> None:
    """With an example of one."""
    with pytest.raises(BadValue, match=r"such as 1\.05,5\.07, not "):
        parse_cost(text)


def test_the_fit_finds_the_line() -> None:
    """Whatever the number of batches, where all are on it."""
    cost = fit([Sample(rows, 2.5 * rows + 4.0, rows + 1) for rows in (1, 2, 7, 32)])
    assert cost.per_row == pytest.approx(2.5)
    assert cost.per_batch == pytest.approx(4.0)


def test_a_size_counts_as_often_as_it_was_run() -> None:
    """One slow batch of 2 does not bend the line through thousands."""
    samples = [Sample(1, 2.0, 10_000), Sample(2, 50.0, 1), Sample(4, 5.0, 10_000)]
    assert fit(samples).of(2) == pytest.approx(3.0, abs=0.1)


def test_no_line_falls_and_none_begins_below_0() -> None:
    """Noise can make it look so, and a simulation would believe it."""
    assert fit([Sample(1, 6.0, 1), Sample(3, 4.0, 1)]) == Cost(0.0, 5.0)
    steep = fit([Sample(1, 1.0, 1), Sample(2, 4.0, 1)])
    assert steep.per_batch == 0.0
    assert steep.per_row == pytest.approx(9 / 5)


@pytest.mark.parametrize(
    ("samples", "seen"), [([], "has run no batch so far"), ([Sample(3, 1.0, 9)], "only batches of 3")]
)
def test_one_size_tells_no_line(samples: list[Sample], seen: str) -> None:
    """What to do is said, too."""
    with pytest.raises(BadValue, match=rf"{seen}.*more load, or give --cost"):
        fit(samples)


def test_samples_are_means_over_all_versions() -> None:
    """Input, inference and output together are the time of a batch."""

    def batches(rows: int, count: int, milliseconds: int) -> InferBatchStatistics:
        part = StatisticDuration(count=count, ns=count * milliseconds * 10**6)
        return InferBatchStatistics(batch_size=rows, compute_input=part, compute_infer=part, compute_output=part)

    one = ModelStatistics(batch_stats=[batches(4, 1, 10), batches(1, 2, 3)])
    two = ModelStatistics(batch_stats=[batches(4, 3, 2), batches(8, 0, 0)])
    assert samples_of([one, two]) == [Sample(1, 9.0, 2), Sample(4, 12.0, 4)]
