"""A server of the example models for all tests that only ask, and a process whose logging stays as it was."""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest

from penstock_server.app.settings import TransportName
from penstock_server.examples import REPOSITORY
from tests.server.cli.processes import Server, environment, serving


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A command that runs in this process sets logging up for a process that it thinks its own."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def _neutral_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no setting of the machine's owner takes part in what is tested."""
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)


class Said(NamedTuple):
    """What a command has said since the last look."""

    out: str
    err: str


Ear: TypeAlias = Callable[[], Said]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Ear:
    """What commands of this process say, without colours: whoever runs the tests may have asked for them."""
    return lambda: Said(*(re.sub(r"\x1b\[[0-9;]*m", "", text) for text in capsys.readouterr()))


@pytest.fixture(scope="session", params=TransportName, ids=lambda name: name.value)
def examples(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of the example models in a process of its own, with each transport in turn."""
    with serving(REPOSITORY, "--reflection", "--transport", request.param.value) as server:
        server.until("ready")
        yield server


@pytest.fixture
def iris(tmp_path: Path) -> Path:
    """A repository with one model, of which a test may spoil the files."""
    (tmp_path / "models").mkdir()
    return copy_of("iris", tmp_path / "models")


def copy_of(model: str, repository: Path) -> Path:
    """Copy an example model into that repository, which is returned."""
    shutil.copytree(REPOSITORY / model, repository / model)
    return repository
