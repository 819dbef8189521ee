"""What a report says of the machine."""

from penstock_bench.machine import this_machine


def test_the_machine_is_told() -> None:
    """Enough to tell two of them apart; packages that are not there are not named."""
    found = this_machine(["numpy", "no-such-package"])
    assert found.processor
    assert found.cores >= 1
    assert found.memory > 1 << 20
    assert found.python.count(".") == 2
    assert set(found.versions) - {"commit"} == {"numpy"}
