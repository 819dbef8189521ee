"""A server of the example models for all tests that only ask, and a process whose logging stays as it was."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock_server.examples import REPOSITORY
from tests.server.cli.processes import Server, serving


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
    for name in ("PENSTOCK_URL", "PENSTOCK_SOURCE", "http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def examples() -> Iterator[Server]:
    """A server of the example models in a process of its own."""
    with serving(REPOSITORY, "--reflection") as server:
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
