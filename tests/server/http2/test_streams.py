"""The table of states, and that the short paths keep to it."""

from itertools import product

import pytest

from penstock_server.http2.errors import ErrorCode
from penstock_server.http2.streams import TRANSITIONS, UNLISTED, Event, State
from tests.server.http2.peers import RESPONSE, TRAILERS, data, headers, opened, request

RECEIVED = {Event.RECEIVE_HEADERS, Event.RECEIVE_DATA, Event.RECEIVE_END}


def test_the_table_is_whole() -> None:
    """Every state has a row and an answer to what its row does not list."""
    assert set(TRANSITIONS) == set(UNLISTED) == set(State)


def test_a_reset_closes_every_stream_that_was_used() -> None:
    """From each state but IDLE a RST_STREAM of either side leads to CLOSED."""
    for state, event in product(set(State) - {State.IDLE, State.CLOSED}, (Event.RECEIVE_RESET, Event.SEND_RESET)):
        assert TRANSITIONS[state][event] is State.CLOSED


def test_nothing_is_received_behind_the_end() -> None:
    """A side that has ended says nothing more."""
    for state in (State.HALF_CLOSED_REMOTE, State.CLOSED):
        assert not RECEIVED & TRANSITIONS[state].keys()
        assert UNLISTED[state] is ErrorCode.STREAM_CLOSED
    for state in (State.HALF_CLOSED_LOCAL, State.CLOSED):
        assert Event.SEND_END not in TRANSITIONS[state]


def test_nothing_leads_back() -> None:
    """Along any transition a stream is at least as far as before: the states are in order, but for the two halves."""
    rank = {State.IDLE: 0, State.OPEN: 1, State.HALF_CLOSED_LOCAL: 2, State.HALF_CLOSED_REMOTE: 2, State.CLOSED: 3}
    for state, row in TRANSITIONS.items():
        for after in row.values():
            assert after is state or rank[after] > rank[state]


@pytest.mark.parametrize("apart", [False, True], ids=["in one read", "in two"])
def test_the_short_path_keeps_to_the_table(apart: bool) -> None:
    """A request in one read ends in the states that it would have gone through."""
    server = opened()
    server.receive(*((headers(1), data(1, b"abc", end=True)) if apart else (request(1),)))
    assert server.at_once == (0 if apart else 1)
    opening = TRANSITIONS[State.IDLE][Event.RECEIVE_HEADERS]
    stream = server.streams[1].stream
    assert stream.state is TRANSITIONS[opening][Event.RECEIVE_END]
    server.connection.respond(stream, RESPONSE, (b"abc",), TRAILERS)
    assert stream.state is TRANSITIONS[State.HALF_CLOSED_REMOTE][Event.SEND_END] is State.CLOSED
    assert not server.connection.streams
