"""Penstock's dynamic batching, as a pure library: told the time, it answers with effects."""

from penstock_scheduler.bounds import Bounds
from penstock_scheduler.device import Device
from penstock_scheduler.scheduler import Scheduler
from penstock_scheduler.settings import PolicyName, QueuePolicy, Settings, TimeoutAction, settings_problems
from penstock_scheduler.statistics import ClassStatistics, Histogram, Statistics
from penstock_scheduler.values import (
    Batch,
    Drop,
    Effect,
    FireReason,
    Reason,
    Refused,
    Release,
    Share,
    Start,
    State,
    Ticket,
    TrafficClass,
)

__all__ = [
    "Batch",
    "Bounds",
    "ClassStatistics",
    "Device",
    "Drop",
    "Effect",
    "FireReason",
    "Histogram",
    "PolicyName",
    "QueuePolicy",
    "Reason",
    "Refused",
    "Release",
    "Scheduler",
    "Settings",
    "Share",
    "Start",
    "State",
    "Statistics",
    "Ticket",
    "TimeoutAction",
    "TrafficClass",
    "settings_problems",
]
