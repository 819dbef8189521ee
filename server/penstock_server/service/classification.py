"""The classification extension: the best classes of an output instead of the output.

Each class is a string, `value:index` or `value:index:label`, best first; of equals the lower index
comes first, and what is no number comes last. Values are printed as C's `%f` and `%d` would.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np

from penstock_server.tensors.codec import Array, object_array
from penstock_server.tensors.spec import TensorSpec


def classify(array: Array, count: int, spec: TensorSpec, batched: bool) -> Array:
    """The `count` best classes of each row, `[rows, count]`, or of the whole array without a batch axis, `[count]`.

    Fewer if there are not as many elements. A BYTES tensor.
    """
    rows = array.reshape(array.shape[0], -1) if batched else array.reshape(1, -1)
    best = min(count, rows.shape[1])
    elements = [text.encode() for row in rows for text in _best(row, best, spec.labels)]
    return object_array(elements, (len(rows), best) if batched else (best,))


def _best(row: Array, count: int, labels: Sequence[str]) -> list[str]:
    # A stable sort of the reversed order keeps the lower index first among equals, without negating
    # values (an unsigned or the smallest signed number has no negative). It has NaN at the end.
    order = row.size - 1 - np.argsort(row[::-1], kind="stable")[::-1]
    if row.dtype.kind == "f":
        order = np.roll(order, -np.count_nonzero(np.isnan(row)))
    form = "%f:%d" if row.dtype.kind == "f" else "%d:%d"
    texts: list[str] = []
    for index in cast("list[int]", order[:count].tolist()):
        text = form % (row[index], index)
        label = labels[index] if index < len(labels) else ""
        texts.append(f"{text}:{label}" if label else text)
    return texts
