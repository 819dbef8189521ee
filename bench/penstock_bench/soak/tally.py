"""What came of all visits: a pure count.

An answer is *wrong* if it is another one than is due, be it values, an id, a status or their order. It is *lost* if
none came: the client's own deadline passed, which is far longer than anything takes, or the connection broke.
"""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

_EXAMPLES = 5


class Wrong(Exception):
    """Another answer than is due. One sentence."""


class Lost(Exception):
    """No answer came. One sentence."""


class Kind(msgspec.Struct, kw_only=True):
    """One kind of visit."""

    visits: int = 0
    requests: int = 0
    """Those that were due an answer and got the right one, an error that was asked for included."""
    wrong: int = 0
    lost: int = 0


class Tally:
    """All kinds."""

    def __init__(self) -> None:
        self._kinds: dict[str, Kind] = {}
        self.examples: list[str] = []
        """The first of what went wrong."""

    def __repr__(self) -> str:
        return f"<Tally: {self.requests} requests, {self.wrong} wrong, {self.lost} lost>"

    @property
    def kinds(self) -> Mapping[str, Kind]:
        return MappingProxyType(self._kinds)

    @property
    def requests(self) -> int:
        return sum(kind.requests for kind in self._kinds.values())

    @property
    def wrong(self) -> int:
        return sum(kind.wrong for kind in self._kinds.values())

    @property
    def lost(self) -> int:
        return sum(kind.lost for kind in self._kinds.values())

    def good(self, name: str, requests: int) -> None:
        """A visit in which everything was right."""
        kind = self._kind(name)
        kind.visits += 1
        kind.requests += requests

    def bad(self, name: str, failure: Wrong | Lost) -> None:
        """A visit that ended because something was not."""
        kind = self._kind(name)
        kind.visits += 1
        if isinstance(failure, Wrong):
            kind.wrong += 1
        else:
            kind.lost += 1
        self._remember(f"{name}: {failure}")

    def load(self, name: str, *, requests: int, wrong: int, lost: int, example: str = "") -> None:
        """A part of the steady load."""
        kind = self._kind(name)
        kind.visits += 1
        kind.requests += requests
        kind.wrong += wrong
        kind.lost += lost
        if example:
            self._remember(f"{name}: {example}")

    def _kind(self, name: str) -> Kind:
        return self._kinds.setdefault(name, Kind())

    def _remember(self, sentence: str) -> None:
        if len(self.examples) < _EXAMPLES and sentence not in self.examples:
            self.examples.append(sentence)
