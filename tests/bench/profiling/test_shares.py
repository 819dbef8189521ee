"""Stacks weighed by the CPU time of their threads, on a recording of a server."""

from itertools import pairwise
from pathlib import Path

import pytest

from penstock_bench.profiling.flame import flame_graph
from penstock_bench.profiling.layers import ORDER
from penstock_bench.profiling.sampling import ThreadTimes, between
from penstock_bench.profiling.shares import Shares, Thread, attribute, ranges, together
from penstock_bench.profiling.stacks import Frame, Stack, parse

RECORDED = Path(__file__).parent / "stacks.txt"
"""A grpcio server with the iris model under load, from py-spy; only the paths are shortened."""
# What the kernel said of its threads meanwhile.
THREADS = {
    1: Thread("python", 4.0),
    2: Thread("python", 0.7),
    3: Thread("python", 0.3),
    4: Thread("event_engine", 0.1),
    5: Thread("python", 0.05),
}


def no_source(file: str, line: int) -> str:
    return ""


def recorded() -> Shares:
    return attribute(parse(RECORDED.read_text(encoding="utf-8")), THREADS, no_source)


def test_all_parts_are_one() -> None:
    """Whatever is in the recording, no time is lost and none is counted twice."""
    shares = recorded()
    assert sum(shares.layers.values()) == pytest.approx(1)
    assert sum(each.share for each in shares.stacks) == pytest.approx(1)
    assert list(shares.layers) == [name for name in ORDER if name in shares.layers]


def test_layers_of_a_recording() -> None:
    """Every layer that runs in each request is found."""
    shares = recorded()
    assert {"transport", "service", "engine", "scheduler", "backend", "model", "response", "event loop"} <= set(
        shares.layers
    )
    assert shares.layers.get("other", 0) < 0.03


def test_a_thread_weighs_what_the_kernel_says() -> None:
    """Not what the sampler saw of it: ten samples of a thread that hardly ran are little."""
    loop = Stack(1, "main", [Frame("run", "/asyncio/runners.py", 1)], 10)
    model = Stack(2, "worker", [Frame("run", "/site-packages/onnxruntime/x.py", 1)], 30)
    other = Stack(2, "worker", [Frame("loop", "/penstock_server/backends/runner.py", 1)], 10)
    shares = attribute([loop, model, other], {1: Thread("a", 3.0), 2: Thread("b", 1.0)}, no_source)
    assert shares.layers == pytest.approx({"backend": 1 / 16, "model": 3 / 16, "event loop": 3 / 4})
    assert shares.samples == 50


def test_threads_that_were_never_sampled_count_by_their_names() -> None:
    """gRPC's own threads run no Python, and cost all the same."""
    threads = {1: Thread("event_engine", 1.0), 2: Thread("what", 1.0), 3: Thread("idle", 0.0)}
    shares = attribute([], threads, no_source)
    assert shares.layers == {"transport": 0.5, "other": 0.5}


def test_a_thread_that_is_gone_counts_nothing() -> None:
    """Nobody knows what it cost."""
    gone = Stack(9, "x", [Frame("f", "/penstock_server/service/x.py", 1)], 5)
    assert attribute([gone], {1: Thread("event_engine", 1.0)}, no_source).layers == {"transport": 1.0}


def test_who_waits_does_not_run() -> None:
    """With C's frames, a thread in a wait is no sign of work, unless nothing else is known of it."""
    loop = Frame("run", "/asyncio/runners.py", 1)
    wait = [loop, Frame("uv__io_poll", "linux.c", 1), Frame("epoll_pwait", "/lib/libc.so.6")]
    stacks = [
        Stack(1, "main", wait, 90),
        Stack(1, "main", [loop, Frame("f", "/penstock_server/service/x.py", 1)], 10),
        Stack(2, "worker", [Frame("g", "/penstock_server/backends/runner.py", 1), Frame("take_gil", "")], 50),
    ]
    shares = attribute(stacks, {1: Thread("a", 3.0), 2: Thread("b", 1.0)}, no_source)
    assert shares.layers == {"service": 0.75, "backend": 0.25}


def test_rounds_make_a_mean_and_a_range() -> None:
    """Each counts the same, however many samples it has; one that found nothing does not count."""

    def found(**layers: float) -> Shares:
        frames = {"service": "/penstock_server/service/x.py", "model": "/site-packages/onnxruntime/x.py"}
        stacks = [Stack(place, "", [Frame("f", frames[each])], 1) for place, each in enumerate(layers)]
        threads = {place: Thread("", part) for place, part in enumerate(layers.values())}
        return attribute(stacks, threads, no_source)

    rounds = [found(service=1.0, model=3.0), found(service=1.0), found()]
    assert together(rounds).layers == pytest.approx({"service": 0.625, "model": 0.375})
    assert ranges(rounds) == {"service": (0.25, 1.0), "model": (0.0, 0.75)}
    assert together([]).layers == {}


def test_nothing_ran() -> None:
    """No time, no shares."""
    assert attribute([], {}, no_source).layers == {}


def test_the_hottest_functions_are_those_that_run_themselves() -> None:
    """All lines of a function are one; callers are not charged for what they call."""
    outer = Frame("outer", "/penstock_server/service/x.py", 1)
    stacks = [
        Stack(1, "", [outer, Frame("inner", "/penstock_server/service/y.py", 3)], 2),
        Stack(1, "", [outer, Frame("inner", "/penstock_server/service/y.py", 4)], 1),
        Stack(1, "", [outer], 1),
    ]
    shares = attribute(stacks, {1: Thread("", 1.0)}, no_source)
    found = [(frame.function, layer, share) for frame, layer, share in shares.hottest(5)]
    assert found == [("inner", "service", 0.75), ("outer", "service", 0.25)]
    assert len(shares.hottest(1)) == 1


def test_time_between_two_looks() -> None:
    """A thread that is new began at nothing; the kernel's part is of all of it."""
    before = {1: ThreadTimes("a", 1.0, 1.0), 3: ThreadTimes("gone", 5.0, 5.0)}
    after = {1: ThreadTimes("a", 2.0, 1.5), 2: ThreadTimes("b", 0.25, 0.25)}
    threads, kernel = between(before, after)
    assert threads == {1: Thread("a", 1.5), 2: Thread("b", 0.5)}
    assert kernel == pytest.approx(0.375)
    assert between({}, {}) == ({}, 0.0)


def test_the_flame_graph_is_as_wide_as_the_time() -> None:
    """Well-formed; children are within their parents; a tip tells layer and time."""
    from xml.etree import ElementTree

    shares = recorded()
    root = ElementTree.fromstring(flame_graph("a < b", shares, 0.0005))
    svg = "{http://www.w3.org/2000/svg}"
    boxes = [group.find(f"{svg}rect") for group in root.findall(f"{svg}g")]
    rows: dict[str, float] = {}
    for box in boxes:
        assert box is not None
        rows[box.attrib["y"]] = rows.get(box.attrib["y"], 0.0) + float(box.attrib["width"])
        assert 10 <= float(box.attrib["x"]) <= float(box.attrib["x"]) + float(box.attrib["width"]) <= 1390.1
    widths = [width for _, width in sorted(rows.items(), key=lambda each: int(each[0]))]
    assert widths[0] == pytest.approx(1380, abs=1)
    assert all(later <= earlier + 1 for earlier, later in pairwise(widths))
    tips = [title.text or "" for title in root.iter(f"{svg}title")]
    assert tips[0] == "all: 500.0 us of a request, 100.0% (event loop)"


def test_a_flame_graph_of_nothing_is_a_picture() -> None:
    """Nothing breaks."""
    assert flame_graph("t", attribute([], {}, no_source), 0.0).startswith("<svg")
