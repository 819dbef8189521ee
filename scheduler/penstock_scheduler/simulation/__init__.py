"""Replays arrivals against a cost model, with the scheduler's own code, and tells how each policy does."""

from penstock_scheduler.simulation.results import Result, optimum
from penstock_scheduler.simulation.simulate import Model, simulate
from penstock_scheduler.simulation.traces import Arrival, bursty, diurnal, poisson, recorded

__all__ = ["Arrival", "Model", "Result", "bursty", "diurnal", "optimum", "poisson", "recorded", "simulate"]
