"""Several models on one device, in the simulator: deadlines are met when each takes what it needs and no less."""

import pytest

from penstock_scheduler import PolicyName, Settings
from penstock_scheduler.simulation import Model
from tests.scheduler.shared import in_time

pytestmark = pytest.mark.slow

FAST = Model(per_row=0.0001, per_batch=0.0015)
FULL = 2750.0
"""Rows a second of each of two: batches take 3.3 ms, and who has just missed one waits for two and its own."""


@pytest.mark.parametrize(("load", "least"), [(0.7, 0.995), (0.9, 0.98), (1.0, 0.95), (1.3, 0.80)])
def test_two_models_on_one_device_answer_in_time(load: float, least: float) -> None:
    """With needs that know nothing of each other it was 0.998, 0.93, 0.82 and 0.67."""
    settings = Settings(policy=PolicyName.DEADLINE, slo=0.010)
    parts = in_time(settings, [FAST, FAST], [load * FULL, load * FULL], 4000, seed=1)
    assert min(parts) >= least


def test_the_rarer_model_is_not_the_loser() -> None:
    """One that has three times the rate of another does not live at its cost, nor the other way round."""
    settings = Settings(policy=PolicyName.DEADLINE, slo=0.010)
    often, seldom = in_time(settings, [FAST, FAST], [1.5 * FULL, 0.5 * FULL], 4000, seed=1)
    assert often >= 0.9
    assert seldom >= 0.99
