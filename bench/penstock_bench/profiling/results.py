"""What a profile has found, as data: kept as JSON, so that before and after can be compared."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from penstock_bench.results import Machine, Point

FORMAT = 1


class Hot(msgspec.Struct, frozen=True, kw_only=True):
    """A function, and the part of the time that was spent in itself."""

    function: str
    layer: str
    share: float


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One load, by layer."""

    format: int = FORMAT
    kind: str = "profile"
    """So that no report is taken for one."""
    server: str
    model: str
    load: str
    command: str
    started: str
    """ISO 8601, UTC."""
    machine: Machine
    seed: int
    point: Point
    """The load while nobody watched: what a request costs is from here."""
    cpu: float
    """Seconds of CPU time for a request."""
    kernel: float
    """The part of it that was spent in the kernel."""
    layers: Mapping[str, float]
    """Seconds of CPU time for a request, by layer; together they are `cpu`."""
    ranges: Mapping[str, tuple[float, float]] = {}
    """The smallest and the largest of these in the rounds: how far they can be believed."""
    native: bool = False
    """Whether C's own frames were seen."""
    samples: int
    hottest: Sequence[Hot] = ()
    warnings: Sequence[str] = ()


def read_profile(path: Path) -> Profile:
    """Raises OSError, and ValueError with a sentence for what is no profile."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Profile)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no profile of penstock bench: {error}") from None
    if found.format != FORMAT or found.kind != "profile":
        raise ValueError(f"{path} is no profile that this version of penstock bench reads")
    return found


def write_profile(profile: Profile, path: Path) -> None:
    """Whole or not at all. Raises OSError."""
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n")
    beside.replace(path)
