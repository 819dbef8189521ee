"""Penstock's dynamic batching, as a pure library: told the time, it answers with effects."""

from penstock_scheduler.scheduler import Scheduler
from penstock_scheduler.values import Batch, Effect, Expire, Policy, Reason, Rejected, Start, Statistics, Ticket

__all__ = ["Batch", "Effect", "Expire", "Policy", "Reason", "Rejected", "Scheduler", "Start", "Statistics", "Ticket"]
