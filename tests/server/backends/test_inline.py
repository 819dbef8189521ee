"""Which batches run on the event loop: told what runs took, nobody waits here."""

import pytest

from penstock_server.backends.inline import Inline

BOUND = 200e-6
WINDOW = 32


def told(inline: Inline, seconds: float, times: int = WINDOW, rows: int = 1) -> Inline:
    for _ in range(times):
        inline.ran(rows, seconds)
    return inline


def warm(below: float = BOUND, instances: int = 1, rows: int = 1) -> Inline:
    """The first run of a size does not count, whatever it took."""
    return told(Inline(below, instances), 1.0, times=1, rows=rows)


def test_a_model_is_known_before_it_runs_on_the_loop() -> None:
    """A whole window of short runs, besides the cold one."""
    inline = warm()
    told(inline, 10e-6, WINDOW - 1)
    assert not inline.may_run(1, others=False)
    told(inline, 10e-6, 1)
    assert inline.may_run(1, others=False)


def may(inline: Inline) -> list[int]:
    """The sizes that may run on the loop, as powers of two."""
    return [rows for rows in (1, 2, 4, 8, 16, 32, 64) if inline.may_run(rows, others=False)]


def test_what_is_known_of_a_size_holds_for_smaller_ones() -> None:
    """In powers of two: what four rows take says nothing of 64, but no fewer take longer."""
    inline = told(warm(rows=4), 10e-6, rows=4)
    assert [rows for rows in range(1, 20) if inline.may_run(rows, others=False)] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("seconds", "sizes"), [(99e-6, [1, 2, 4, 8]), (101e-6, [1, 2, 4])])
def test_twice_the_rows_take_at_most_twice_as_long(seconds: float, sizes: list[int]) -> None:
    """Of a size that ran in the thread, however long there, if the one below was measured on the loop."""
    inline = told(warm(rows=4), 10e-6, rows=4)
    told(inline, 1e-3, rows=8, times=3)
    told(inline, seconds, rows=4, times=WINDOW - 2)
    assert may(inline) == [1, 2, 4]
    told(inline, seconds, rows=4, times=2)
    assert may(inline) == sizes


def test_what_was_tried_begins_on_the_loop() -> None:
    """With the smaller sizes, within the bound; and is measured there as any other."""
    inline = Inline(BOUND)
    inline.tried(8, 201e-6)
    assert may(inline) == []
    inline.tried(8, 199e-6)
    assert may(inline) == [1, 2, 4, 8]
    assert not inline.may_run(8, others=True)
    told(inline, 1.0, times=1, rows=8)
    told(inline, 410e-6, rows=8)
    assert may(inline) == [1, 2, 4]


def test_a_neighbour_that_was_slow_stays_away() -> None:
    """It was on the loop, and is known better by itself."""
    inline = told(warm(rows=2), 10e-6, rows=2)
    told(inline, 410e-6, rows=2, times=1 + WINDOW)
    assert may(inline) == [1]
    told(inline, 10e-6, rows=4, times=1 + WINDOW)
    assert may(inline) == [1, 4]
    told(inline, 10e-6, rows=1, times=1 + WINDOW)
    assert may(inline) == [1, 4]


@pytest.mark.parametrize(("seconds", "is_long"), [(199e-6, False), (201e-6, True)])
def test_a_batch_is_long_if_the_last_one_was(seconds: float, is_long: bool) -> None:
    """That is for those in threads. What nobody knows is not long, and a cold run says nothing."""
    inline = Inline(BOUND)
    assert not inline.is_long(1)
    told(inline, 1.0, times=1)
    assert not inline.is_long(1)
    told(inline, seconds, times=1)
    assert inline.is_long(1) is is_long
    assert not inline.is_long(2)


@pytest.mark.parametrize(("outliers", "may"), [(1, True), (2, False)])
def test_it_goes_by_the_95th_percentile(outliers: int, may: bool) -> None:
    """One hiccup of the machine in a window is not the model's."""
    inline = told(warm(), 300e-6, outliers)
    assert told(inline, 10e-6, WINDOW - outliers).may_run(1, others=False) is may


def test_what_is_too_slow_at_first_may_become_fast() -> None:
    """As long as it runs in threads nobody waits for it."""
    inline = told(warm(), 300e-6)
    assert told(inline, 10e-6).may_run(1, others=False)


def test_it_leaves_later_than_it_comes() -> None:
    """Up to twice the bound it stays; beyond, it goes to its thread for good."""
    inline = told(told(warm(), 10e-6), 390e-6, 3 * WINDOW)
    assert inline.may_run(1, others=False)
    told(inline, 410e-6)
    assert not inline.may_run(1, others=False)
    assert not told(inline, 10e-6, 10 * WINDOW).may_run(1, others=False)


def test_what_was_measured_in_the_thread_does_not_count_on_the_loop() -> None:
    """There a window begins anew: a few slow runs are not enough to leave, nor fast ones in the thread to stay."""
    inline = told(told(warm(), 10e-6), 410e-6, WINDOW - 1)
    assert inline.may_run(1, others=False)
    assert not told(inline, 410e-6, 1).may_run(1, others=False)


def test_one_run_that_is_far_too_long_is_enough() -> None:
    """Of whatever size, wherever it ran: never again."""
    inline = told(warm(), 10e-6)
    told(inline, 1.0, times=1, rows=8)  # a cold one
    assert inline.may_run(1, others=False)
    told(inline, 101 * BOUND, times=1, rows=8)
    assert not told(inline, 10e-6, 10 * WINDOW).may_run(1, others=False)
    assert "never" in repr(inline)


@pytest.mark.parametrize(("seconds", "beside_others"), [(49e-6, True), (51e-6, False)])
def test_beside_others_only_what_is_shorter_than_the_way_to_a_thread(seconds: float, beside_others: bool) -> None:
    """While batches run in threads, their ends wait for the loop."""
    inline = told(warm(), seconds)
    assert inline.may_run(1, others=False)
    assert inline.may_run(1, others=True) is beside_others


def test_of_a_size_that_is_known_some_runs_are_measured() -> None:
    """Every run until a window was measured on the loop, then every eighth."""
    inline = told(warm(), 10e-6)
    for _ in range(WINDOW):
        assert inline.wants(1)
        inline.ran(1, 10e-6)
    assert [inline.wants(1) for _ in range(24)] == [False] * 7 + [True] + [False] * 7 + [True] + [False] * 7 + [True]
    assert inline.wants(2)


def test_several_instances_run_at_the_same_time() -> None:
    """On the loop they could not, so the bound is the way to the thread."""
    assert not told(warm(instances=2), 51e-6).may_run(1, others=False)
    assert told(warm(instances=2), 49e-6).may_run(1, others=False)


def test_it_can_be_off() -> None:
    """With a bound of 0, even for runs that cost nothing."""
    assert not told(warm(below=0.0), 0.0).may_run(1, others=False)
