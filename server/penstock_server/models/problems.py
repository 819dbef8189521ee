"""What is wrong with a model, as values.

An operator who has three mistakes wants to hear of three, so the checks of this package return
problems instead of raising at the first. An *error* keeps the model from loading; a *warning* is
logged and the model loads. `refuse` makes one LoadError of all the errors.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from penstock_server.errors import LoadError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, and why."""

    field: str
    """The path of the field in `config.pbtxt`, `input[0].dims`; empty where no single field is to blame."""
    reason: str
    level: Literal["error", "warning"] = "error"
    file: str = ""
    """The file or folder, relative to the repository; empty if it is the configuration at hand."""

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.file, self.field and f"field '{self.field}'") if part)
        return f"{where}: {self.reason}" if where else self.reason


def errors_of(problems: Iterable[Problem]) -> list[Problem]:
    """Those that keep the model from loading."""
    return [problem for problem in problems if problem.level == "error"]


def refuse(problems: Iterable[Problem], *, model: str, file: str = "") -> None:
    """Raise one LoadError that tells all the errors among these problems; do nothing if there are none."""
    match errors_of(problems):
        case []:
            return
        case [only]:
            raise LoadError(only.reason, model=model, file=only.file or file, field=only.field)
        case several:
            text = "".join(f"\n  {problem}" for problem in several)
            raise LoadError(f"{len(several)} problems{text}", model=model, file=file)
