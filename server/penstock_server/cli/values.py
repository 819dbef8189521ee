"""What is typed for an input of `penstock infer`, as a value to send.

    x=5.1,3.5,1.4,0.2       numbers or text, separated by commas
    x=[[5.1,3.5],[6.0,3.0]] JSON, nested as the tensor is
    x=@flower.npy           numpy's file format
    x=@flower.json          JSON in a file

The model's metadata says what the text means. Only the notation is read here; whether a value can become
the datatype is the client's one rule (`penstock_client.tensors`). A flat list is put into the model's shape.
"""

import json
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from penstock_server.tensors.spec import show_shape

# Any: what is in a file or in JSON is known when it is read.
Value: TypeAlias = NDArray[Any] | list[Any]
"""An array of its own type, or lists nested like a tensor."""
_Json: TypeAlias = "list[Any] | dict[str, Any] | str | float | None"


class BadValue(Exception):
    """What was typed cannot be sent; the text says why, and what would do."""


def parse_input(text: str, datatype: str, shape: Sequence[int]) -> Value:
    """The value that this text means for an input of this datatype and shape (-1: any length).

    Raises BadValue.
    """
    if text.startswith("@"):
        return _fit(_from_file(Path(text[1:])), shape)
    if text.startswith("["):
        return _fit(_json(text, "what begins with '['"), shape)
    return _fit([_element(part, datatype) for part in text.split(",")], shape)


def split_pairs(texts: Sequence[str], what: str) -> dict[str, str]:
    """Each `name=value` in two. `what` is the option they were given with."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise BadValue(f"{what} must look like NAME=VALUE, not '{text}'")
        if name in pairs:
            raise BadValue(f"{what} {name}=… is given twice; once is enough")
        pairs[name] = value
    return pairs


# ── the notations ─────────────────────────────────────────────────────────────────────────────────


def _element(text: str, datatype: str) -> object:
    read, words = _elements(datatype)
    try:
        return read(text)
    except ValueError:
        raise BadValue(f"'{text[:40]}' is no {datatype}; write {words}") from None


def _elements(datatype: str) -> tuple[Callable[[str], object], str]:
    """How an element of this datatype is read, and how it is written."""
    if datatype == "BYTES":
        return str, "text, such as spring,autumn"
    if datatype == "BOOL":
        return _bool, "true or false, such as true,false"
    if datatype.startswith(("FP", "BF")):
        return float, "numbers, such as 1.5,2"
    return int, "whole numbers, such as 1,2"


def _bool(text: str) -> bool:
    match text.strip().lower():
        case "true" | "1":
            return True
        case "false" | "0":
            return False
        case _:
            raise ValueError(text)


def _from_file(path: Path) -> Value:
    try:
        if path.suffix == ".json":
            return _json(path.read_bytes(), str(path))
        with path.open("rb") as file:
            # Not `load`, which takes files of other kinds too.
            return npy.read_array(file, allow_pickle=False)
    except OSError as error:
        raise BadValue(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, TypeError, OverflowError, MemoryError) as error:  # its header may say anything
        raise BadValue(f"{path} is no .npy file: {error} (JSON is read from files that end with .json)") from None


def _json(text: str | bytes, where: str) -> list[Any]:
    try:
        value = cast("_Json", json.loads(text))
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, a number of thousands of digits
        raise BadValue(f'{where} must be JSON, such as [[1,2],[3,4]] or ["a","b"]: {error}') from None
    if not isinstance(value, list):
        raise BadValue(f"{where} must be a JSON list, such as [[1,2],[3,4]]")
    return value


# ── a flat list in the model's shape ──────────────────────────────────────────────────────────────


def _fit(value: Value, shape: Sequence[int]) -> Value:
    if len(shape) < 2 or not _is_flat(value):
        return value
    rows = np.array(value, object) if isinstance(value, list) else value
    rows = rows.reshape(_row_shape(len(value), shape))
    # As lists again: they tell the client that nobody chose the type of their elements.
    return rows.tolist() if isinstance(value, list) and rows.size else rows


def _is_flat(value: Value) -> bool:
    if isinstance(value, list):
        return not any(isinstance(one, list) for one in value)
    return value.ndim == 1


def _row_shape(count: int, shape: Sequence[int]) -> Sequence[int]:
    """One row, or as many as there are: the shape that `count` values make."""
    target = list(shape)
    free = [axis for axis, length in enumerate(target) if length < 0]
    if len(free) > 2:
        raise BadValue(
            f"a list of values does not tell the lengths of {show_shape(list(shape))}; nest it as JSON, [[…],[…]]"
        )
    if len(free) == 2:  # the batch, and one more
        target[free.pop(0)] = 1
    known = prod(length for length in target if length >= 0)
    rows, rest = divmod(count, known) if known else (0, count)
    if rest or (not free and rows != 1):
        raise BadValue(
            f"{count} values do not fill {show_shape(list(shape))}; give whole rows, or nest them as JSON, [[…],[…]]"
        )
    for axis in free:
        target[axis] = rows
    return target
