"""Batches made by hand, for what is between the scheduler and an instance."""

from collections.abc import Sequence
from typing import cast

from penstock_proto.model_config_pb2 import ModelConfig
from penstock_scheduler import Batch, FireReason, Share
from penstock_server.backends.base import RequestInfo
from penstock_server.engine.driver import Driver
from penstock_server.engine.jobs import Job, Plan
from penstock_server.engine.versions import ServedVersion
from penstock_server.models.spec import ModelSpec
from penstock_server.tensors.codec import Buffer

NO_DRIVER = cast("Driver", None)  # nobody looks at it here


def ticket(
    spec: ModelSpec,
    rows: int,
    *tensors: Buffer,
    shapes: Sequence[tuple[int, ...]] = (),
    outputs: Sequence[int] = (0,),
    length: int = 0,
) -> Job:
    """A request of a model, with raw contents for its first inputs in the shapes in which the model takes them."""
    version = ServedVersion(1, spec, ModelConfig(), NO_DRIVER)
    inputs = spec.inputs[: len(tensors)]
    plan = Plan(version, rows, inputs, tuple(shapes), tuple(outputs), (0,) * len(outputs), None, length)
    return Job(plan, tensors, RequestInfo(rows), 0.0)


def batch_of(
    *jobs: Job, padded_rows: int = 0, length: int = 0, shares: Sequence[Share | None] | None = None
) -> Batch[Job]:
    """These requests, or these parts of them, in one batch."""
    parts = shares or [None] * len(jobs)
    rows = sum(job.rows if share is None else share.rows for job, share in zip(jobs, parts, strict=True))
    batch = Batch(None, length, list(jobs), rows, FireReason.IDLE)
    batch.padded_rows = padded_rows or rows
    batch.shares = None if shares is None else list(shares)
    return batch
