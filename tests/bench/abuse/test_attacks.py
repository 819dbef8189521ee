"""Hostile peers beside a healthy client, against a server in a process of its own: each attack for a moment.

`make abuse` does the same for longer, and waits where the server gives a peer time; the times themselves are tested in
tests/server/transports/test_wire.py, which can make them short.
"""

from collections.abc import Iterator

import pytest

from penstock_bench.abuse.attacks import ATTACKS, Attack
from penstock_bench.abuse.trial import Arena, arena

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ring() -> Iterator[Arena]:
    """One server for all of them: what an attack leaves behind is the next one's beginning."""
    with arena() as made:
        yield made


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_beside_a_healthy_client(ring: Arena, attack: Attack) -> None:
    """The healthy client sees no error, memory stays bounded, and the attacker is told what the limits promise."""
    trial = ring.trial(attack, 0.2, before=0.0, after=0.0, patiently=False)
    assert trial.faults() == []
