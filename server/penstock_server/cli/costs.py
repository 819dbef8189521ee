"""What a batch costs: typed, or fitted to what a server has measured.

A straight line, `per_row · rows + per_batch`, as most models are over the batch sizes that matter. All times are
milliseconds, as an operator types them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from penstock_proto.open_inference_pb2 import ModelStatistics
from penstock_server.cli.values import BadValue


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of a batch."""

    per_row: float
    per_batch: float

    def of(self, rows: float) -> float:
        return self.per_row * rows + self.per_batch

    def __str__(self) -> str:
        return f"{self.per_row:.4g} ms a row + {self.per_batch:.4g} ms a batch"


@dataclass(frozen=True, slots=True)
class Sample:
    """Batches of one size."""

    rows: int
    milliseconds: float
    """The mean."""
    batches: int


def parse_cost(text: str) -> Cost:
    """`1.05,5.07`: milliseconds for each row, and for each batch besides. Raises BadValue."""
    try:
        per_row, per_batch = (float(part) for part in text.split(","))
    except ValueError:
        per_row = per_batch = -1.0
    if not (0 <= per_row < inf and 0 <= per_batch < inf and per_row + per_batch > 0):
        raise BadValue(f"--cost is the milliseconds of a row and of a batch, such as 1.05,5.07, not '{text}'")
    return Cost(per_row, per_batch)


def samples_of(statistics: Iterable[ModelStatistics]) -> list[Sample]:
    """What a server has measured of a model, its versions together; ascending by rows."""
    sums: dict[int, tuple[int, int]] = {}
    for version in statistics:
        for batch in version.batch_stats:
            count, ns = sums.get(batch.batch_size, (0, 0))
            taken = batch.compute_input.ns + batch.compute_infer.ns + batch.compute_output.ns
            sums[batch.batch_size] = count + batch.compute_infer.count, ns + taken
    return [Sample(rows, ns / count / 1e6, count) for rows, (count, ns) in sorted(sums.items()) if count]


def fit(samples: Sequence[Sample]) -> Cost:
    """The line that is nearest to the measured batches, each with its weight (least squares), and nowhere falling.

    Raises BadValue unless there are two sizes: one does not tell what another row costs.
    """
    if len(samples) < 2:
        seen = f"only batches of {samples[0].rows}" if samples else "no batch"
        raise BadValue(f"the server has run {seen} so far, which tells no line: send it more load, or give --cost")
    weight = sum(sample.batches for sample in samples)
    rows = sum(sample.batches * sample.rows for sample in samples) / weight
    mean = sum(sample.batches * sample.milliseconds for sample in samples) / weight
    spread = sum(sample.batches * (sample.rows - rows) ** 2 for sample in samples)
    slope = sum(sample.batches * (sample.rows - rows) * (sample.milliseconds - mean) for sample in samples) / spread
    if slope < 0:
        return Cost(0.0, mean)
    if mean < slope * rows:  # the line would meet 0 rows below 0 ms: the nearest one through the origin
        products = sum(sample.batches * sample.rows * sample.milliseconds for sample in samples)
        return Cost(products / sum(sample.batches * sample.rows**2 for sample in samples), 0.0)
    return Cost(slope, mean - slope * rows)
