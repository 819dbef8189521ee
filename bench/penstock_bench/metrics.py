"""Penstock's own metrics, as its metrics port tells them: what caches were worth, and what the server holds.

A server that has none, or is gone, is no error: whoever measures does without.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from types import MappingProxyType
from urllib.request import ProxyHandler, build_opener

from prometheus_client.parser import text_string_to_metric_families

_SECONDS = 10.0
_BLOCKS = "penstock_transport_header_blocks_total"


@dataclass(frozen=True, slots=True)
class Metrics:
    """All samples of one moment."""

    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series of this name that have these labels; 0 if there are none."""
        wanted = labels.items()
        return sum(value for (known, has), value in self.samples.items() if known == name and wanted <= has)


NOTHING = Metrics(MappingProxyType({}))


def read_metrics(url: str) -> Metrics | None:
    """Ask for them. None if nobody answers there, or something else does."""
    try:
        # Never by way of a proxy: it is this machine that is asked.
        with build_opener(ProxyHandler({})).open(url, timeout=_SECONDS) as answer:
            return parse(answer.read().decode())
    except (OSError, HTTPException, ValueError):
        return None


def parse(text: str) -> Metrics:
    """Metrics in Prometheus' text format. Raises ValueError."""
    return Metrics(dict(_samples(text)))


def _samples(text: str) -> Iterator[tuple[tuple[str, frozenset[tuple[str, str]]], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield (sample.name, frozenset(sample.labels.items())), float(sample.value)


def hit_rates(before: Metrics, after: Metrics) -> dict[str, float]:
    """By cache the part of its look-ups that were hits; caches that nobody asked are left out."""

    def since(name: str, **labels: str) -> float:
        return after.total(name, **labels) - before.total(name, **labels)

    counts = {
        "header blocks": (since(_BLOCKS, cache="hit"), since(_BLOCKS, cache="miss")),
        "request skeletons": (since("penstock_skeleton_hits_total"), since("penstock_skeleton_misses_total")),
    }
    return {name: hits / (hits + misses) for name, (hits, misses) in counts.items() if hits + misses > 0}
