"""Steps: header blocks that come one after the other, written down as indices."""

from collections.abc import Sequence

import pytest
from hpack.hpack import encode_integer
from hypothesis import given
from hypothesis import strategies as st

from penstock_server.http2.foretold import Step, step_of
from tests.server.http2.peers import literal

OPENING = literal(b"t", b"", 0x40)[:-1]

INDICES = st.lists(st.integers(1, 253), max_size=8)


def block(before: Sequence[int], value: bytes, behind: Sequence[int]) -> bytes:
    return indexed(before) + literal(b"t", value, 0x40) + indexed(behind)


def indexed(indices: Sequence[int]) -> bytes:
    fields = [encode_integer(index, 7) for index in indices]
    for field in fields:
        field[0] |= 0x80
    return b"".join(map(bytes, fields))


@given(INDICES, st.binary(max_size=126), INDICES)
def test_the_step_behind_one(before: list[int], value: bytes, behind: list[int]) -> None:
    """Its dynamic indices are higher by one, those of the static table stay, and the value does not matter."""
    step = step_of(block(before, value, behind), OPENING)
    assert step is not None
    assert step.head + bytes((len(value),)) + value + step.tail == block(before, value, behind)
    assert step.value_at == len(step.head) + 1
    after = step.after()
    assert after is not None
    moved = [[index + (index > 61) for index in indices] for indices in (before, behind)]
    assert (after.head, after.tail) == (indexed(moved[0]) + OPENING, indexed(moved[1]))
    assert step.after() is after


@given(INDICES, INDICES)
def test_the_reach_of_a_step(before: list[int], behind: list[int]) -> None:
    """The oldest entry that is meant. What stands behind the literal was moved by it already."""
    positions = [index - 61 for index in before if index > 61] + [index - 62 for index in behind if index > 61]
    assert Step(before, OPENING, behind).reach == max(positions, default=0)


def test_there_is_an_end() -> None:
    """An index of three bytes is not foretold."""
    step = Step([253], OPENING, [])
    after = step.after()
    assert after is not None
    assert after.head == indexed([254]) + OPENING
    assert after.after() is None
    behind = Step([], OPENING, [254])
    assert behind.after() is None
    assert "Step" in repr(step)


@pytest.mark.parametrize(
    "other",
    [
        b"",
        indexed([62, 3]),
        indexed([62]) + OPENING,
        indexed([255]) + literal(b"t", b"1", 0x40),
        indexed([62]) + literal(b"u", b"1", 0x40),
        indexed([62]) + literal(b"t", b"1", 0x00),
        indexed([62]) + literal(b"t", b"1" * 127, 0x40),
        literal(b"t", b"1", 0x40) + indexed([255]),
        literal(b"t", b"1", 0x40) + literal(b"a", b"b"),
        literal(b"a", b"b", 0x40) + literal(b"t", b"1", 0x40),
        b"\x80" + literal(b"t", b"1", 0x40),
    ],
)
def test_what_is_no_step(other: bytes) -> None:
    """Anything but indices of up to two bytes, and the literal with a short value."""
    assert step_of(other, OPENING) is None
