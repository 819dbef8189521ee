"""Header blocks, held against the `hpack` library."""

import pytest
from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st

from penstock_bench.load.headers import Blocks, blocks, request_fields

FIELDS = request_fields("/inference.GRPCInferenceService/ModelInfer", "127.0.0.1:8001")


def decoded(decoder: Decoder, block: bytes) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in decoder.decode(block)]


@given(
    items=st.lists(st.lists(st.tuples(st.sampled_from(["tenant", "x-long-name"]), st.text("abc", max_size=200)))),
    order=st.lists(st.integers(0, 5), max_size=300),
    digits=st.sampled_from([0, 5, 6]),
    indexed=st.booleans(),
    table=st.integers(0, 6000),
)
def test_every_block_says_what_it_should(
    items: list[list[tuple[str, str]]], order: list[int], digits: int, indexed: bool, table: int
) -> None:
    """Whatever the order of requests, the table's size and the kind of timeout: a decoder reads the same fields."""
    made = [blocks(FIELDS, own, timeout_digits=digits, indexed=indexed, table_size=table) for own in (items or [[]])]
    decoder, position = Decoder(), 0
    decoder.max_allowed_table_size = table
    for call, which in enumerate(order):
        item = which % len(made)
        value = b"%0*dm" % (digits - 1, call) if digits else b""
        block = made[item].cycle[position] + value
        position = made[item].following(position)
        own = items[item] if items else []
        timeout = [("grpc-timeout", value.decode())] if digits else []
        assert decoded(decoder, block) == [*FIELDS, *own, *timeout]


def sizes(made: Blocks) -> list[int]:
    return [len(block) for block in made.cycle]


def test_blocks_are_short_after_the_first() -> None:
    """Without timeouts the second block is indices only: a byte a field, and it stays right."""
    made = blocks(FIELDS)
    assert made.restart == 1
    assert sizes(made)[1] == len(FIELDS)


def test_timeouts_change_the_table() -> None:
    """As grpcio sends them, each timeout moves the other fields on, until they enter again."""
    made = blocks(FIELDS, timeout_digits=6)
    assert made.restart == 0
    assert len(made.cycle) > 50
    assert len(set(made.cycle)) == len(made.cycle)


@pytest.mark.parametrize("timeout_digits", [0, 6])
def test_plain_timeouts_leave_the_table_alone(timeout_digits: int) -> None:
    """Without indexing, two blocks are enough."""
    assert len(blocks(FIELDS, timeout_digits=timeout_digits, indexed=False).cycle) == 2
