"""The servers of the golden suites: one for each transport and each way of having the models."""

from asyncio import AbstractEventLoop
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock_server.app.settings import Compat, TransportName
from tests.golden.repository import SERVED, UNSERVABLE, write_repository
from tests.golden.serving import Call, calling, loop_in_thread, running, settings_for


@pytest.fixture(scope="module", params=TransportName, ids=lambda name: name.value)
def transport(request: pytest.FixtureRequest) -> TransportName:
    """Each transport in turn: what they carry must not differ."""
    name = request.param
    assert isinstance(name, TransportName)
    return name


@pytest.fixture(scope="session")
def python_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with every model in Python."""
    return write_repository(tmp_path_factory.mktemp("python"), SERVED)


@pytest.fixture(scope="session")
def onnx_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with ONNX graphs for what is plain arithmetic."""
    return write_repository(tmp_path_factory.mktemp("onnx"), SERVED, onnx=True)


@pytest.fixture(scope="session")
def unservable_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with models that do not load, beside one that does."""
    spare = [model for model in SERVED if model.name == "spare"]
    return write_repository(tmp_path_factory.mktemp("unservable"), (*spare, *UNSERVABLE))


@pytest.fixture(scope="module")
def loop() -> Iterator[AbstractEventLoop]:
    """The loop of all servers of a module."""
    with loop_in_thread() as loop:
        yield loop


@pytest.fixture(scope="module")
def triton(python_models: Path, transport: TransportName, loop: AbstractEventLoop) -> Iterator[Call]:
    """A server that speaks Triton's dialect."""
    with running(settings_for(python_models, transport, Compat.TRITON), loop) as server, calling(server.port) as call:
        yield call


@pytest.fixture(scope="module")
def triton_onnx(onnx_models: Path, transport: TransportName, loop: AbstractEventLoop) -> Iterator[Call]:
    """The same with the ONNX graphs."""
    with running(settings_for(onnx_models, transport, Compat.TRITON), loop) as server, calling(server.port) as call:
        yield call


@pytest.fixture(scope="module")
def penstock(python_models: Path, transport: TransportName, loop: AbstractEventLoop) -> Iterator[Call]:
    """A server that speaks Penstock's own dialect."""
    with running(settings_for(python_models, transport, Compat.NONE), loop) as server, calling(server.port) as call:
        yield call


@pytest.fixture(params=["triton", "penstock"])
def either(request: pytest.FixtureRequest, triton: Call, penstock: Call) -> Call:
    """A server of each dialect in turn."""
    return triton if request.param == "triton" else penstock
