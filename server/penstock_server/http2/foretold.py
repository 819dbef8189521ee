"""The header block that comes next, as far as the last one tells.

grpcio sends `grpc-timeout` as a literal with incremental indexing. Where indices and this literal are all there is in a
block, the same header list looks the same the next time, but for its value and for its dynamic indices, which are
higher by one:

    c3 c2 83 86 c1 c0 bf | 40 0c grpc-timeout 06 30100m | be    on the wire
    c4 c3 83 86 c2 c1 c0 | 40 0c grpc-timeout 06 29877m | bf    foretold, but for 29877m and its length

A `Step` is such a block. A client goes through the same steps again and again, so each remembers the one behind it.
"""

from collections.abc import Sequence

from hpack.table import HeaderTable

FIRST_DYNAMIC = HeaderTable.STATIC_TABLE_LENGTH + 1

_MOST_INDICES = 32
"""Of a step: those of longer lists are not worth their memory."""
_TWO_BYTES = 0x7F
_THREE_BYTES = _TWO_BYTES + 0x80
"""The indices from which on a field takes as many bytes."""


class Step:
    """What a block is to be before the length of its value and behind its value."""

    __slots__ = ("_after", "_before", "_behind", "_moves", "_opening", "head", "reach", "tail", "value_at")

    def __init__(self, before: list[int], opening: bytes, behind: list[int]) -> None:
        """The indices before the literal and behind it, and the literal as far as the length of its value."""
        self.head = _encoded(before) + opening
        self.tail = _encoded(behind)
        self.value_at = len(self.head) + 1
        """Where the value begins, if its length takes a byte."""
        self.reach = max(0, 1 + max(before, default=0) - FIRST_DYNAMIC, max(behind, default=0) - FIRST_DYNAMIC)
        """How far back in the dynamic table it refers, counted in entries before the block."""
        self._before, self._opening, self._behind = before, opening, behind
        self._moves = max((*before, *behind), default=0) >= FIRST_DYNAMIC
        self._after: Step | None = None

    def __repr__(self) -> str:
        return f"<Step {self.head.hex()} … {self.tail.hex()}>"

    def after(self) -> "Step | None":
        """The step behind this one; None if it needs an index of three bytes."""
        if not self._moves:
            return self  # not kept as the next: that would be a circle, which only the collector takes apart
        if self._after is None:
            before, behind = _moved(self._before), _moved(self._behind)
            if max((*before, *behind), default=0) < _THREE_BYTES:
                self._after = Step(before, self._opening, behind)
        return self._after


def step_of(block: bytes, opening: bytes) -> Step | None:
    """The step that a decoded block is, if it is one. `opening` is of its literal, as far as the value's length."""
    before, at = _decoded(block, 0)
    if not block.startswith(opening, at):
        return None
    at += len(opening)
    if at >= len(block) or block[at] >= _TWO_BYTES:
        return None
    behind, end = _decoded(block, at + 1 + block[at])
    if end < len(block) or len(before) + len(behind) > _MOST_INDICES:
        return None
    return Step(before, opening, behind)


def _moved(indices: Sequence[int]) -> list[int]:
    """The indices of the same fields after an insertion."""
    return [index + 1 if index >= FIRST_DYNAMIC else index for index in indices]


def _encoded(indices: Sequence[int]) -> bytes:
    """Indexed fields (RFC 7541, section 6.1)."""
    return b"".join(
        bytes((0x80 | index,)) if index < _TWO_BYTES else bytes((0xFF, index - _TWO_BYTES)) for index in indices
    )


def _decoded(block: bytes, at: int) -> tuple[list[int], int]:
    """The indices that stand from `at` on, and where something else does, or one of more than two bytes."""
    indices: list[int] = []
    while at < len(block) and block[at] > 0x80:
        if block[at] < 0xFF:
            indices.append(block[at] & 0x7F)
            at += 1
        elif at + 1 < len(block) and block[at + 1] < 0x80:
            indices.append(_TWO_BYTES + block[at + 1])
            at += 2
        else:
            break
    return indices, at
