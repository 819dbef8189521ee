"""Whether an answer is the right one. Used for a sample of the answers, since it costs more than sending a request."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import numpy as np

from penstock_client import InferenceError, InferResult
from penstock_client.codec import infer_result

_RELATIVE, _ABSOLUTE = 1e-3, 1e-5
"""How far floating-point values may differ: a model computes a batch of 64 in another order than a single row."""


class Judge(Protocol):
    """What a checked answer is shown to."""

    def verdict(self, message: bytes, request_id: str) -> str:
        """What is wrong with the answer; empty: nothing."""
        ...


class ModelJudge:
    """Judges the answers to one request of the V2 protocol.

    `outputs` are the datatypes and shapes that are due, by name (-1: any length); `expected` is a serialised answer
    whose values are right, if one is known.
    """

    def __init__(
        self, model: str, outputs: Mapping[str, tuple[str, Sequence[int]]], expected: bytes | None = None
    ) -> None:
        self._model = model
        self._outputs = outputs
        self._expected = expected
        self._known: InferResult | None = None

    def verdict(self, message: bytes, request_id: str) -> str:
        try:
            answer = infer_result(message)
        except InferenceError as error:
            return error.message
        if answer.id != request_id:
            return f"the answer to request {request_id} has the id '{answer.id}'"
        if answer.model_name != self._model:
            return f"model '{self._model}' was asked, and '{answer.model_name}' answered"
        return self._form(answer) or self._values(answer)

    def _form(self, answer: InferResult) -> str:
        if set(answer) != set(self._outputs):
            return f"outputs {', '.join(sorted(answer)) or 'none'}, and not {', '.join(sorted(self._outputs))}"
        for name, (datatype, shape) in self._outputs.items():
            given = answer[name].shape
            if answer.datatypes[name] != datatype:
                return f"output '{name}' is {answer.datatypes[name]}, and not {datatype}"
            if len(given) != len(shape) or any(want not in (-1, have) for want, have in zip(shape, given, strict=True)):
                return f"output '{name}' has shape {list(given)}, and not {list(shape)}"
        return ""

    def _values(self, answer: InferResult) -> str:
        if self._expected is None:
            return ""
        if self._known is None:
            self._known = infer_result(self._expected)
        for name, right in self._known.items():
            given = answer[name]
            if given.shape != right.shape:
                return f"output '{name}' has shape {list(given.shape)}, and {list(right.shape)} before"
            if right.dtype.kind == "f":
                same = np.allclose(given, right, _RELATIVE, _ABSOLUTE, equal_nan=True)
            else:
                same = np.array_equal(given, right)
            if not same:
                return f"output '{name}' has other values than the first answer to the same request"
        return ""


class BodyJudge:
    """Judges a body of HTTP/1.1: equal bytes, or JSON that is equal but for a tolerance of numbers."""

    def __init__(self, expected: bytes | None, tolerance: float | None) -> None:
        self._expected = expected
        self._tolerance = tolerance

    def verdict(self, message: bytes, request_id: str) -> str:
        if self._expected is None:
            return ""
        if self._tolerance is None:
            return "" if message == self._expected else "the body is not the one expected"
        try:
            given = cast("object", json.loads(message))
        except ValueError:
            return "the body is no JSON"
        return "" if _alike(given, json.loads(self._expected), self._tolerance) else "the body has other values"


def _alike(given: object, right: object, tolerance: float) -> bool:
    if isinstance(right, list):
        rights = cast("list[object]", right)
        givens = cast("list[object]", given) if isinstance(given, list) else []
        return len(givens) == len(rights) and all(map(_alike, givens, rights, [tolerance] * len(rights)))
    if isinstance(right, dict):
        pairs = cast("dict[str, object]", right)
        others = cast("dict[str, object]", given) if isinstance(given, dict) else {}
        return pairs.keys() <= others.keys() and all(_alike(others[key], pairs[key], tolerance) for key in pairs)
    if isinstance(right, int | float) and not isinstance(right, bool):
        return isinstance(given, int | float) and math.isclose(given, right, rel_tol=tolerance, abs_tol=tolerance)
    return given == right
