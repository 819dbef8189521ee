"""Which version a request means, and what it is told if there is none."""

import pytest

from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.engine.versions import LATEST, Models, ServedModel, VersionState
from penstock_server.errors import NotFound, NotReady, PenstockError
from penstock_server.status import Status
from tests.server.engine.conftest import MakeStage
from tests.server.engine.puppets import Stage

READY = (VersionState.READY, "")
FAILED = (VersionState.UNAVAILABLE, "it raised ValueError")


def model(stage: Stage, name: str, good: tuple[int, ...] = (), bad: tuple[int, ...] = ()) -> ServedModel:
    made = ServedModel(name)
    for number in sorted(good + bad):
        made.states[number] = READY if number in good else FAILED
        if number in good:
            served = type(stage.version)(number, stage.spec, ModelConfig(), stage.driver)
            made.serve(served)
    return made


def models(*members: ServedModel) -> Models:
    found = Models()
    for member in members:
        found.add(member)
    return found


async def test_the_latest_version_is_the_largest_that_is_served(make_stage: MakeStage) -> None:
    """Also beside a larger one that has failed to load."""
    stage = make_stage()
    served = models(model(stage, "m", good=(1, 3), bad=(7,)))
    assert served.find("m").version == 3
    assert served.find("m", LATEST).version == 3
    assert served.find("m", 1).version == 1


async def test_what_cannot_be_found_is_told_as_triton_tells_it(make_stage: MakeStage) -> None:
    """NOT_FOUND for what does not exist, UNAVAILABLE for what does and cannot answer; the texts to the letter."""
    stage = make_stage()
    failed = ServedModel("failed", failure="no config")
    served = models(model(stage, "m", good=(1,), bad=(2,)), model(stage, "broken", bad=(4, 5)), failed)
    told = {
        ("x", LATEST): (NotFound, "Request for unknown model: 'x' is not found"),
        ("x", 1): (NotFound, "Request for unknown model: 'x' is not found"),
        ("m", 9): (NotFound, "Request for unknown model: 'm' version 9 is not found"),
        ("m", 2): (NotReady, "Request for unknown model: 'm' version 2 is not at ready state"),
        ("broken", LATEST): (NotReady, "Request for unknown model: 'broken' version 5 is not at ready state"),
        ("broken", 4): (NotReady, "Request for unknown model: 'broken' version 4 is not at ready state"),
        ("failed", LATEST): (NotFound, "Request for unknown model: 'failed' has no available versions"),
        ("failed", 1): (NotFound, "Request for unknown model: 'failed' has no available versions"),
        ("x" * 500, LATEST): (NotFound, f"Request for unknown model: '{'x' * 128}' is not found"),
    }
    for (name, version), (kind, text) in told.items():
        with pytest.raises(PenstockError) as caught:
            served.find(name, version)
        assert (type(caught.value), caught.value.message) == (kind, text)
        assert caught.value.status is (Status.NOT_FOUND if kind is NotFound else Status.UNAVAILABLE)


async def test_ready_is_when_everything_is_that_should_be(make_stage: MakeStage) -> None:
    """One version that failed, or one model, and the server is not ready; what is served is served."""
    stage = make_stage()
    good, half = model(stage, "good", good=(1, 2)), model(stage, "half", good=(1,), bad=(2,))
    none = ServedModel("none", failure="no config")
    assert models().ready
    assert models(good).ready
    assert not models(good, half).ready
    assert not models(good, none).ready
    everything = models(good, half, none)
    assert [(version.version) for version in everything.versions()] == [1, 2, 1]
    assert repr(everything) == "<Models: 1 of 3 ready>"


async def test_a_model_without_any_version_is_no_model_to_ask(make_stage: MakeStage) -> None:
    """`get` knows the ones whose versions can be told of, ready or not."""
    stage = make_stage()
    bad = model(stage, "bad", bad=(1,))
    served = models(bad, ServedModel("none", failure="no config"))
    assert served.get("bad") is bad
    assert served.get("none") is None
    assert served.get("x") is None
    assert [one.name for one in served] == ["bad", "none"]
