"""What a soak rests on: counts, slopes, and the knowledge of what is right."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_bench.load.plan import check_plan
from penstock_bench.machine import this_machine
from penstock_bench.soak.command import SoakReport, markdown, summary
from penstock_bench.soak.memory import Sample, slope_of
from penstock_bench.soak.models import Example, write_repository
from penstock_bench.soak.running import load_plan
from penstock_bench.soak.tally import Lost, Tally, Wrong

MIB = 1 << 20


def samples(*memory: float, each: int = 1000) -> list[Sample]:
    return [
        Sample(seconds=float(number), requests=number * each, memory=int(size)) for number, size in enumerate(memory)
    ]


@given(st.integers(-50, 500), st.integers(1, 100_000))
def test_a_slope_is_in_bytes_for_each_request(leak: int, each: int) -> None:
    """Whatever the first third did."""
    memory = [9e9] * 20 + [1e9 + number * each * leak for number in range(20, 60)]
    found = slope_of(samples(*memory, each=each))
    assert found is not None
    assert found.bytes_per_request == pytest.approx(leak, abs=1e-3)
    assert found.requests == 39 * each


def test_noise_is_told_beside_the_slope() -> None:
    """A slope that is smaller than its error is none."""
    random = np.random.default_rng(1)
    found = slope_of(samples(*(100 * MIB + random.normal(0, MIB) for _ in range(300))))
    assert found is not None
    assert abs(found.bytes_per_request) < 3 * found.error
    assert found.error > 0


def test_too_little_has_no_slope() -> None:
    """Neither few samples nor a server that served nothing."""
    assert slope_of(samples(1, 2, 3)) is None
    assert slope_of(samples(*range(100), each=0)) is None


def test_a_tally() -> None:
    """What is wrong and what is lost are counted apart, and the first of each is remembered."""
    tally = Tally()
    tally.good("streams", 5)
    tally.bad("streams", Wrong("another value"))
    tally.bad("calls", Lost("UNAVAILABLE: gone"))
    tally.load("steady load", requests=7, wrong=1, lost=2, example="2 requests failed")
    tally.load("steady load", requests=3, wrong=0, lost=0)
    assert (tally.requests, tally.wrong, tally.lost) == (15, 2, 3)
    assert tally.kinds["streams"].visits == 2
    assert tally.examples == [
        "streams: another value",
        "calls: UNAVAILABLE: gone",
        "steady load: 2 requests failed",
    ]
    assert repr(tally) == "<Tally: 15 requests, 2 wrong, 3 lost>"


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return write_repository(tmp_path_factory.mktemp("soak") / "models")


def test_a_wrong_answer_is_seen(examples: list[Example]) -> None:
    """In a single value, in a single string, in a shape, in a name."""
    for example in examples:
        rows = [1, 0, 1]
        right = {name: values[rows] for name, values in example.expected.items()}
        assert example.differences(rows, right) == ""
        assert "other values" in example.differences([0, 1, 0], right)
        assert "has shape" in example.differences([1, 0], right)
        assert "the outputs are label" in example.differences(rows, {"label": right["label"]})
        off = {**right, "probabilities": right["probabilities"] + 10 * np.float32(example.tolerance)}
        assert example.differences(rows, off) == "'probabilities' has other values"
    assert {example.inputs[name].dtype.kind for example in examples for name in example.inputs} == {"f", "O"}


def test_the_steady_load_makes_sense() -> None:
    """Every answer of it is looked at."""
    plan = load_plan("127.0.0.1", 1, 1000.0, 30.0, 7)
    check_plan(plan)
    assert plan.check_every == 1


def report(**changes: object) -> SoakReport:
    known: dict[str, object] = {
        "command": "c",
        "started": "now",
        "machine": this_machine(),
        "seconds": 600.0,
        "seed": 0,
        "rate": 0.0,
        "requests": 5,
        "wrong": 0,
        "lost": 0,
        "examples": [],
        "kinds": {},
        "slope": slope_of(samples(*range(100))),
        "before": None,
        "after": None,
        "residues": {},
        "samples": samples(*range(100)),
        "partial": False,
        "ended": False,
    }
    return SoakReport(**{**known, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"wrong": 2}, "2 answers were wrong"),
        ({"lost": 1}, "1 requests got no answer"),
        ({"ended": True}, "the server has ended"),
        ({"requests": 0}, "nothing was answered"),
        ({"residues": {"penstock_calls_in_flight": 3.0}}, "penstock_calls_in_flight is 3 at the end, and should be 0"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, object], fault: str) -> None:
    """Each in a sentence, which the summary and the page have, too."""
    assert report().faults() == []
    found = report(**changes)
    assert found.faults() == [fault]
    assert fault in summary(found)
    assert f"* {fault}" in markdown(found)


def test_the_repository_can_be_written_once(tmp_path: Path) -> None:
    """All of what the visits ask for is in it."""
    write_repository(tmp_path / "models")
    assert {each.name for each in (tmp_path / "models").iterdir()} == {
        "iris", "digits", "language", "doubled", "slow", "mean", "counter",
    }  # fmt: skip
