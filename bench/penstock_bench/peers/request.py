"""What was asked for on the command line, checked for form only: no package beside the standard library is needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MODELS = ("iris", "mlp", "image")
"""Those that are measured if none is named."""
ALL_MODELS = (*MODELS, "mix")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of `penstock bench peers`. Times are seconds."""

    only: Sequence[str]
    """Names of peers; empty: the usual ones."""
    everything: bool
    models: Sequence[str]
    loads: Sequence[str]
    """As typed; empty: the usual ones."""
    seconds: float
    warmup: float
    rounds: int
    processes: int
    h2load: bool
    seed: int
    resume: bool
    results: Path
    work: Path
    keep: bool
    typed: Sequence[str]
    """The command's words after `penstock bench`."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.seconds <= 3600:
            raise ValueError("a load is measured for 0.1 s to an hour")
        if not 0 <= self.warmup <= 600:
            raise ValueError("a warm-up is at most ten minutes")
