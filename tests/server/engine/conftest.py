"""A stage for the test, whose driver is closed when it ends."""

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import pytest

from tests.server.engine.puppets import Stage

MakeStage: TypeAlias = Callable[..., Stage]


@pytest.fixture
async def make_stage() -> AsyncIterator[MakeStage]:
    stages: list[Stage] = []

    def make(**settings: Any) -> Stage:
        stages.append(Stage(**settings))
        return stages[-1]

    yield make
    for stage in stages:
        await stage.driver.close(0.0)
