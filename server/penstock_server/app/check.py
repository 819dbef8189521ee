"""The dry run of a repository: every model is loaded and warmed up, no port is opened."""

from collections.abc import Iterator
from dataclasses import dataclass

from penstock_server.app.server import backends, find_models, load_settings
from penstock_server.app.settings import ServerSettings
from penstock_server.engine.loading import Prepared, prepare
from penstock_server.errors import LoadError
from penstock_server.models.repository import ModelSource


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was found about one version of a model, or about a model that has none."""

    model: str
    version: int | None
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    summary: str = ""
    """What it takes and gives, in one line, if it is good."""

    @property
    def good(self) -> bool:
        return not self.errors


def check_models(settings: ServerSettings) -> Iterator[CheckResult]:
    """Check model after model, as results come. Blocks. Raises LoadError if there is nothing to check."""
    for source in find_models(settings):
        yield from _check(source, settings)


def _check(source: ModelSource, settings: ServerSettings) -> Iterator[CheckResult]:
    warnings = tuple(str(problem) for problem in source.problems if problem.level == "warning")
    if source.errors:
        yield CheckResult(source.name, None, tuple(map(str, source.errors)), warnings)
        return
    for version in source.versions:
        try:
            prepared = prepare(source, version, backends(), load_settings(settings))
        except LoadError as error:
            yield CheckResult(source.name, version, (str(error),), warnings)
            continue
        errors = tuple(_close(prepared))
        yield CheckResult(source.name, version, errors, warnings, "" if errors else prepared.spec.describe())


def _close(prepared: Prepared) -> Iterator[str]:
    for instance in prepared.instances:
        try:
            instance.close()
        except Exception as error:  # the model's own code: that it fails here is a finding, too
            yield f"closing it raised {type(error).__name__}: {error}"
