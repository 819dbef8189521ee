"""Stacks and threads to shares of the CPU time.

A sampler tells where a thread is, the kernel how much it runs, and the kernel is exact. So the CPU time of each thread
is spread over its own samples; a thread that was never sampled counts as a whole, by its name.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from penstock_bench.profiling.layers import ORDER, SourceLine, layer_of, layer_of_thread, waits
from penstock_bench.profiling.stacks import Frame, Stack


@dataclass(frozen=True, slots=True)
class Thread:
    """What the kernel knows of a thread."""

    name: str
    cpu: float
    """Seconds, while it was sampled."""


@dataclass(frozen=True, slots=True)
class Weighted:
    """A stack with its part of all CPU time."""

    stack: Stack
    layer: str
    share: float


@dataclass(frozen=True, slots=True)
class Shares:
    """All parts together are 1, or nothing if nothing has run."""

    stacks: tuple[Weighted, ...]
    layers: Mapping[str, float]
    """In the order of `ORDER`, those that have any."""
    samples: int

    def hottest(self, count: int) -> list[tuple[Frame, str, float]]:
        """The functions in which most of the time was spent themselves, with their layers."""
        found: dict[tuple[str, str, str], float] = {}
        for each in self.stacks:
            frame = each.stack.frames[-1] if each.stack.frames else Frame(each.stack.thread_name)
            key = (frame.function, frame.file, each.layer)
            found[key] = found.get(key, 0.0) + each.share
        ordered = sorted(found.items(), key=lambda each: -each[1])[:count]
        return [(Frame(function, file), layer, share) for (function, file, layer), share in ordered]


def together(rounds: Sequence[Shares]) -> Shares:
    """The mean of several rounds that have found something; each counts the same."""
    found = [each for each in rounds if each.stacks]
    stacks = [Weighted(each.stack, each.layer, each.share / len(found)) for shares in found for each in shares.stacks]
    return Shares(tuple(stacks), _by_layer(stacks), sum(each.samples for each in found))


def ranges(rounds: Sequence[Shares]) -> dict[str, tuple[float, float]]:
    """The smallest and the largest share of each layer in the rounds."""
    parts = {name: [each.layers.get(name, 0.0) for each in rounds if each.stacks] for name in ORDER}
    return {name: (min(found), max(found)) for name, found in parts.items() if any(found)}


def attribute(stacks: Iterable[Stack], threads: Mapping[int, Thread], source: SourceLine) -> Shares:
    """Spread the threads' CPU time over the stacks. A thread that the kernel does not know any more counts nothing."""
    known = [stack for stack in stacks if stack.thread in threads]
    busy = [stack for stack in known if not waits(stack)]
    # A thread that was only seen waiting ran in between: where it waits still tells whose it is.
    seen_busy = {stack.thread for stack in busy}
    known = [*busy, *(stack for stack in known if stack.thread not in seen_busy)]
    seen: dict[int, int] = {}
    for stack in known:
        seen[stack.thread] = seen.get(stack.thread, 0) + stack.samples
    weights = [(stack, threads[stack.thread].cpu * stack.samples / seen[stack.thread]) for stack in known]
    weights += [
        (Stack(number, thread.name, (), 0), thread.cpu) for number, thread in threads.items() if number not in seen
    ]
    total = sum(weight for _, weight in weights)
    if not total > 0:
        return Shares((), {}, 0)
    weighted = [
        Weighted(stack, layer_of(stack, source) if stack.frames else layer_of_thread(stack.thread_name), weight / total)
        for stack, weight in weights
        if weight > 0
    ]
    return Shares(tuple(weighted), _by_layer(weighted), sum(seen.values()))


def _by_layer(stacks: Iterable[Weighted]) -> dict[str, float]:
    found = dict.fromkeys(ORDER, 0.0)
    for each in stacks:
        found[each.layer] += each.share
    return {name: part for name, part in found.items() if part > 0}
