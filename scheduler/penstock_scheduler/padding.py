"""The sizes that are really run: rows padded to sizes the model takes, lengths padded to buckets.

Both cost compute on nothing, so both are counted: rows of padding for each batch, and elements of padding (rows times
the missing length) for each request.
"""

from bisect import bisect_left
from collections.abc import Sequence


def row_sizes(allowed: Sequence[int], max_rows: int) -> list[int]:
    """For each number of rows from 0 to `max_rows`: the size that is run for it. All sizes if none is named."""
    if not allowed:
        return list(range(max_rows + 1))
    return [0, *(allowed[bisect_left(allowed, rows)] for rows in range(1, max_rows + 1))]


def bucket_of(length: int, buckets: Sequence[int]) -> int | None:
    """The least bucket that holds a length; None if it is longer than all."""
    index = bisect_left(buckets, length)
    return buckets[index] if index < len(buckets) else None
