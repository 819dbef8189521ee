"""What is typed for an input of `penstock infer`, as a value to send.

    x=5.1,3.5,1.4,0.2       numbers or text, separated by commas
    x=[[5.1,3.5],[6.0,3.0]] JSON, nested as the tensor is
    x=@flower.npy           numpy's file format
    x=@flower.json          JSON in a file

The model's metadata says what the text means. A flat list is put into the model's shape if it fits.
"""

import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock_proto.datatypes import DATATYPES


class BadValue(Exception):
    """What was typed cannot be sent; the text says why."""


def parse_input(text: str, datatype: str, shape: Sequence[int]) -> NDArray[Any]:
    """The array that this text means for an input of this datatype and shape (-1: any length)."""
    if text.startswith("@"):
        array = _from_file(Path(text[1:]), datatype)
    elif text.startswith("["):
        array = _to_array(_json(text, "the value"), datatype)
    else:
        array = _to_array(text.split(","), datatype)
    return _fit(array, shape)


def split_pair(text: str, what: str) -> tuple[str, str]:
    """`name=value` in two."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise BadValue(f"{what} must look like NAME=VALUE, not '{text}'")
    return name, value


def _from_file(path: Path, datatype: str) -> NDArray[Any]:
    try:
        if path.suffix == ".json":
            return _to_array(_json(path.read_text(encoding="utf-8"), str(path)), datatype)
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except OSError as error:
        raise BadValue(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise BadValue(f"{path} is no .npy file: {error}") from None
    if datatype == "BYTES":
        return array
    return _cast(array, datatype)


def _json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadValue(f"{where} is no JSON: {error}") from None


def _to_array(value: object, datatype: str) -> NDArray[Any]:
    if datatype == "BYTES":
        return np.array(value, np.str_)
    try:
        array = np.array(value)
    except ValueError:
        raise BadValue("lists of different lengths make no tensor") from None
    if array.dtype.kind == "U":  # typed without JSON: still text
        array = _numbers(array, datatype)
    return _cast(array, datatype)


def _numbers(texts: NDArray[np.str_], datatype: str) -> NDArray[Any]:
    def number(text: str) -> float | int | bool:
        text = text.strip()
        if datatype == "BOOL" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        return float(text) if datatype.startswith(("FP", "BF")) else int(text)

    try:
        return np.array([number(str(text)) for text in texts.flat]).reshape(texts.shape)
    except ValueError:
        raise BadValue(f"'{','.join(map(str, texts.flat))[:60]}' is no {datatype}") from None


def _cast(array: NDArray[Any], datatype: str) -> NDArray[Any]:
    if datatype == "BF16":
        return array.astype(np.float32)  # the client rounds it
    target = np.dtype(DATATYPES[datatype].numpy)
    with np.errstate(over="ignore"):
        converted = array.astype(target)
    exact = target.kind in "iub" and not np.array_equal(converted, array)
    if array.dtype.kind not in "iufb" or exact:
        raise BadValue(f"the values do not fit into {datatype}")
    return converted


def _fit(array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """A flat list in the model's shape: one row of it, or as many as there are."""
    if array.ndim != 1 or len(shape) < 2:
        return array
    free = [axis for axis, length in enumerate(shape) if length < 0]
    if len(free) > 1:
        return array
    known = prod(length for length in shape if length >= 0)
    if known and array.size % known == 0 and (free or array.size == known):
        return array.reshape(shape)
    return array
