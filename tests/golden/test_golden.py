"""The real Triton's answers against Penstock's: status, text and content of each, with `--compat triton`.

Each case of the golden file is one test. Where Penstock differs on purpose, differences.toml says why and what comes
instead, and holds both ways: the reason is stale as soon as the answers agree.
"""

import tomllib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from tests.golden.cases import Case, Json, Observation, load_cases, models_of
from tests.golden.graphs import GRAPHS
from tests.golden.repository import SERVED
from tests.golden.serving import Call

HELD = (
    "server", "wire", "ready", "metadata", "config", "infer", "types", "bytes", "validate", "params", "classify",
    "model-error", "statistics", "stream", "decoupled", "sequence",
)  # fmt: skip
LATER = {
    "repository": "loading and unloading on request",
}
"""Groups that come with a later part of Penstock, and which one it is. The harness runs them as they are."""

PAUSES = {"sequence/idle-too-long": (2.1,)}
"""Seconds before the second step that the file does not tell: the model's sequences end after two of silence."""

TIMED = ("decoupled/overtakes-unary-in-front", "decoupled/overtaken-by-unary-behind")
"""What comes first is for a model's sleep of half a second to decide: asked again if this machine slept for longer."""
TRIES = 5

ALL = load_cases()
CASES = [case for case in ALL if case.group in HELD]


def _differences() -> dict[str, dict[int, Observation]]:
    """The deliberate differences, by case and step."""
    found: dict[str, dict[int, Observation]] = {}
    raw = tomllib.loads((Path(__file__).parent / "differences.toml").read_text(encoding="utf-8"))
    for each in raw["difference"]:
        assert each["reason"]
        answer = cast("Json", each.get("answer"))  # TOML has no null: it is left out
        step = each.get("step", 0)
        found.setdefault(each["case"], {})[step] = Observation(each["status"], each.get("details", ""), answer)
    return found


DIFFERENCES = _differences()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_answers_as_triton_does(case: Case, triton: Call) -> None:
    """Status, text and answer of every call are the recorded ones, or the stated others."""
    _hold(case, triton)


def _on_graphs(case: Case) -> bool:
    # ONNX's strings are UTF-8, and the golden ones are any bytes.
    graphs = {model.name for model in SERVED if model.code in GRAPHS} - {"pass_BYTES"}
    return bool(models := models_of(case)) and models <= graphs


@pytest.mark.parametrize("case", [case for case in CASES if _on_graphs(case)], ids=lambda case: case.id)
def test_answers_alike_whatever_the_backend(case: Case, triton_onnx: Call) -> None:
    """The same model as an ONNX graph gets the same answers."""
    _hold(case, triton_onnx)


def _hold(case: Case, call: Call) -> None:
    for _ in range(TRIES - 1 if case.id in TIMED else 0):
        with suppress(AssertionError):
            _hold_once(case, call)
            return
    _hold_once(case, call)


def _hold_once(case: Case, call: Call) -> None:
    differences = DIFFERENCES.get(case.id, {})
    for index, step in enumerate(case.steps):
        messages = step.messages
        if index:
            messages = (*PAUSES.get(case.id, ()), *messages)
        reply = call(step.path, messages, step.metadata)
        if step.expected is None:
            continue
        stated = differences.get(index)
        if stated is None:
            assert step.observe(reply).text() == step.expected.text()
            continue
        assert step.observe(reply).text() != step.expected.text(), "no difference any more: remove it from the list"
        instead = replace(step, expected=stated)
        assert instead.observe(reply).text() == stated.text()


def test_every_difference_is_of_a_held_case() -> None:
    """A difference that names no case, or a step that is not there, would never be looked at."""
    cases = {case.id: case for case in CASES}
    assert cases.keys() >= {*PAUSES, *TIMED}
    for name, steps in DIFFERENCES.items():
        assert name in cases
        for index in steps:
            assert cases[name].steps[index].expected is not None


def test_no_group_is_forgotten() -> None:
    """A group is held, or it is said which part of Penstock brings it."""
    assert {case.group for case in ALL} == {*HELD, *LATER}
