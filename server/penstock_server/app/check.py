"""The dry run of a repository: every model is loaded and warmed up, no port is opened.

A model without warm-up samples is asked a row of zeros instead; that this fails is a warning only.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from threading import Thread

from penstock_server.app.server import backends, find_models, load_settings
from penstock_server.app.settings import ServerSettings
from penstock_server.engine.loading import Prepared, prepare, why_zeros_fail
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
        yield _off_main_thread(partial(_check_version, source, version, settings, warnings))


def _check_version(
    source: ModelSource, version: int, settings: ServerSettings, warnings: tuple[str, ...]
) -> CheckResult:
    try:
        prepared = prepare(source, version, backends(), load_settings(settings))
    except LoadError as error:
        return CheckResult(source.name, version, (str(error),), warnings)
    if not any(sample.batch_size for sample in prepared.config.model_warmup):
        reason = why_zeros_fail(prepared)
        if reason is not None:
            warnings += (f"a request of zeros fails: {reason}",)
    errors = tuple(_close(prepared))
    return CheckResult(source.name, version, errors, warnings, "" if errors else prepared.spec.describe())


def _off_main_thread(work: Callable[[], CheckResult]) -> CheckResult:
    """Where models run in a server, too. A Ctrl-C on the main thread is then the operator's and ends the wait.

    The thread is a daemon, so a model that hangs does not hold up the end.
    """
    future: Future[CheckResult] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name="penstock check", daemon=True).start()
    return future.result()


def _close(prepared: Prepared) -> Iterator[str]:
    for instance in prepared.instances:
        try:
            instance.close()
        except BaseException as error:  # the model's own code: that it fails here is a finding, too
            yield f"closing it raised {type(error).__name__}: {error}"
