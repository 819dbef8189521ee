"""The classification extension: the best classes of an output instead of the output.

Each class is a string, `value:index` or `value:index:label`, best first; of equals the lower index
comes first. Values are printed as C's `%f` and `%d` would.
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
    # values (an unsigned or the smallest signed number has no negative).
    order = row.size - 1 - np.argsort(row[::-1], kind="stable")[::-1][:count]
    form = "%f:%d" if row.dtype.kind == "f" else "%d:%d"
    texts: list[str] = []
    for index in cast("list[int]", order.tolist()):
        text = form % (row[index], index)
        texts.append(f"{text}:{labels[index]}" if index < len(labels) else text)
    return texts
