"""What was measured of each peer, in a file of its own that is written after every turn: what a run can resume from.

A file counts only for a run with equal settings; else the peer is measured anew.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from penstock_bench.results import Point

FORMAT = 1


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One load of a turn."""

    load: str
    """As typed, `4x64`."""
    words: str
    """As in reports."""
    client: str
    point: Point | None = None
    failure: str = ""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One start of a server with one model."""

    model: str
    round: int
    measured: Sequence[Measured] = ()
    failure: str = ""
    """Why nothing was measured: it did not start, or answered wrongly."""


class PeerResult(msgspec.Struct, frozen=True, kw_only=True):
    """All of one peer."""

    format: int = FORMAT
    name: str
    title: str
    protocol: str
    remark: str
    settings: Mapping[str, str]
    """What must be equal for its turns to count."""
    failure: str = ""
    """Why there are no turns: it could not be installed."""
    turns: Sequence[Turn] = ()

    def turn(self, model: str, round: int) -> Turn | None:
        return next((turn for turn in self.turns if (turn.model, turn.round) == (model, round)), None)

    def failed_with(self, model: str) -> str:
        """Why it cannot serve this model, if it could not once."""
        return next((turn.failure for turn in self.turns if turn.model == model and turn.failure), "")


class Store:
    """The files of a results folder."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError."""
        self._folder = folder / "peers"
        self._folder.mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"<Store {self._folder}>"

    def read(self, name: str, settings: Mapping[str, str], title: str) -> PeerResult | None:
        """What is known of a peer with these settings; None: nothing. A failure to install is not kept: it may be
        mended by now."""
        try:
            found = msgspec.json.decode(self._path(name).read_bytes(), type=PeerResult)
        except (OSError, msgspec.DecodeError):
            return None
        same = found.format == FORMAT and found.settings == settings and found.title == title
        if not same or found.failure:
            return None
        return msgspec.structs.replace(found, turns=[turn for turn in found.turns if _whole(turn)])

    def write(self, result: PeerResult) -> None:
        """Whole or not at all. Raises OSError."""
        path = self._path(result.name)
        part = path.with_name(path.name + ".part")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
        part.replace(path)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _whole(turn: Turn) -> bool:
    """Whether a turn needs no second try."""
    return not turn.failure and all(
        each.point is not None and not each.point.partial and not each.failure for each in turn.measured
    )
