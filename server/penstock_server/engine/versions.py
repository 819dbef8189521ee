"""Models in memory: their versions, the state of each, and how a request finds one."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.engine.driver import Driver
from penstock_server.errors import NotFound, NotReady
from penstock_server.models.spec import ModelSpec

LATEST = -1
"""The version a request means that names none."""


class VersionState(Enum):
    """The states of the protocol's model index."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(slots=True, eq=False)
class ServedVersion:
    """A version that answers requests."""

    version: int
    spec: ModelSpec
    config: ModelConfig
    """Completed: nothing is left to defaults."""
    driver: Driver

    def __repr__(self) -> str:
        return f"<ServedVersion {self.spec.name} {self.version}: {self.driver!r}>"


@dataclass(slots=True, eq=False)
class ServedModel:
    """A model of the repository, loaded or not."""

    name: str
    states: dict[int, tuple[VersionState, str]] = field(default_factory=dict[int, tuple[VersionState, str]])
    """State and reason of each version that is, or should be, served."""
    failure: str = ""
    """Why the model as a whole cannot be served, for the operator; empty if it can."""
    _served: dict[int, ServedVersion] = field(default_factory=dict[int, ServedVersion], init=False)
    _watchers: list[Callable[[str], None]] = field(default_factory=list[Callable[[str], None]], init=False)

    @property
    def served(self) -> Mapping[int, ServedVersion]:
        """The versions that are ready, ascending."""
        return self._served

    def serve(self, version: ServedVersion) -> None:
        """A version is ready. Another one of its number is replaced."""
        self._served = dict(sorted({**self._served, version.version: version}.items()))
        self._changed()

    def withdraw(self, version: int) -> ServedVersion:
        """No request finds this version any more. What it has accepted is its driver's to finish."""
        withdrawn = self._served.pop(version)
        self._changed()
        return withdrawn

    def watch(self, callback: Callable[[str], None]) -> None:
        """Call back with the model's name whenever its requests may mean another version than before."""
        self._watchers.append(callback)

    def _changed(self) -> None:
        for callback in self._watchers:
            callback(self.name)

    @property
    def ready(self) -> bool:
        """Whether everything that should be served is."""
        return not self.failure and all(state is VersionState.READY for state, _ in self.states.values())


class Models:
    """All models of the server, by name. Names are looked up, never interpreted."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}
        self._watchers: list[Callable[[str], None]] = []

    def __repr__(self) -> str:
        ready = sum(model.ready for model in self._models.values())
        return f"<Models: {ready} of {len(self._models)} ready>"

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def add(self, model: ServedModel) -> None:
        """Take a model in, under its name."""
        self._models[model.name] = model
        model.watch(self._changed)
        self._changed(model.name)

    def watch(self, callback: Callable[[str], None]) -> None:
        """Call back with a model's name whenever `find` may answer something else for it than before.

        For those who remember what `find` has answered.
        """
        self._watchers.append(callback)

    def _changed(self, name: str) -> None:
        for callback in self._watchers:
            callback(name)

    @property
    def ready(self) -> bool:
        """Whether every model is served as its operator wants it."""
        return all(model.ready for model in self._models.values())

    def versions(self) -> Iterator[ServedVersion]:
        """Every version that is served."""
        for model in self._models.values():
            yield from model.served.values()

    def get(self, name: str) -> ServedModel | None:
        """A model that has at least one version, ready or not."""
        model = self._models.get(name)
        return model if model is not None and model.states else None

    def find(self, name: str, version: int = LATEST) -> ServedVersion:
        """The version that a request means.

        Raises NotFound if there is no such model or version, NotReady if it is not at the ready state.
        """
        model = self._models.get(name)
        if model is not None:
            if version == LATEST and model.served:
                return model.served[max(model.served)]
            served = model.served.get(version)
            if served is not None:
                return served
        raise _unknown(name[:128], version, model)


def _unknown(name: str, version: int, model: ServedModel | None) -> NotFound | NotReady:
    request = f"Request for unknown model: '{name}'"
    if model is None:
        return NotFound(f"{request} is not found")
    if not model.states:
        return NotFound(f"{request} has no available versions")
    if version == LATEST:
        version = max(model.states)
    if version not in model.states:
        return NotFound(f"{request} version {version} is not found")
    return NotReady(f"{request} version {version} is not at ready state")
