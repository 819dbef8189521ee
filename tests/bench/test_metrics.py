"""What a server tells of its caches, and who does not tell."""

import pytest

from penstock_bench.metrics import hit_rates, parse, read_metrics
from penstock_bench.peers.process import free_port

_TEXT = """# HELP penstock_transport_header_blocks_total Header blocks, by cache
# TYPE penstock_transport_header_blocks_total counter
penstock_transport_header_blocks_total{{cache="hit"}} {hits}
penstock_transport_header_blocks_total{{cache="miss"}} {misses}
# TYPE nv_inference_count untyped
nv_inference_count{{model="a",version="1"}} 3.0
nv_inference_count{{model="b",version="1"}} 4.0
nv_inference_count{{model="b",version="2"}} 5.0
"""


def test_samples_are_summed_over_what_is_not_asked() -> None:
    """A name alone is all of its series."""
    found = parse(_TEXT.format(hits=1, misses=2))
    assert found.total("nv_inference_count") == 12
    assert found.total("nv_inference_count", model="b") == 9
    assert found.total("nv_inference_count", version="2", model="b") == 5
    assert found.total("nv_inference_count", model="c") == 0


def test_a_hit_rate_is_of_the_time_between() -> None:
    """What was before does not count, and a cache that nobody asked has none."""
    before, after = parse(_TEXT.format(hits=10, misses=90)), parse(_TEXT.format(hits=40, misses=100))
    assert hit_rates(before, after) == {"header blocks": 0.75}
    assert hit_rates(after, after) == {}


def test_a_server_without_metrics_is_no_error() -> None:
    """Most servers have none of ours."""
    assert read_metrics(f"http://127.0.0.1:{free_port()}/metrics") is None


def test_what_is_no_metrics_is_refused() -> None:
    """A page of something else is not read as zeros."""
    with pytest.raises(ValueError):  # noqa: PT011 - the parser's own text
        parse("{<html>\n")
