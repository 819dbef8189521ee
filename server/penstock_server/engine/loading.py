"""From a model on disk to a version that answers requests.

    source ─▶ open ─▶ complete config ─▶ labels ─▶ instances ─▶ warm-up ─▶ ServedVersion

All of it but the last step may block and runs in a worker thread (`prepare`); the last one touches the
loop (`serve`). A warm-up that fails is a model that failed: better to hear of it at start than from
the first client.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from penstock_proto.model_config_pb2 import ModelConfig
from penstock_scheduler import Bounds, Settings
from penstock_server.backends.base import (
    Backend,
    DecoupledInstance,
    ModelBatch,
    ModelFiles,
    ModelInstance,
    RequestInfo,
    Tensors,
)
from penstock_server.backends.generators import GeneratorRunner
from penstock_server.backends.inline import INLINE_SECONDS, Inline, Threads
from penstock_server.backends.runner import Runner, ThreadRunner, close
from penstock_server.engine.assembly import BadOutput, check_outputs
from penstock_server.engine.batching import scheduler_settings
from penstock_server.engine.decoupled import LIVE, DecoupledDriver
from penstock_server.engine.driver import Driver, SharedDevice
from penstock_server.engine.round_robin import RoundRobin
from penstock_server.engine.sequences import SequenceDriver, first_step
from penstock_server.engine.trials import cpu_seconds, has_fixed_shapes, zeros
from penstock_server.engine.versions import ServedModel, ServedVersion, VersionState
from penstock_server.errors import LoadError, ModelError
from penstock_server.models.completion import complete_config
from penstock_server.models.labels import load_labels
from penstock_server.models.repository import ModelSource
from penstock_server.models.sequences import read_sequences
from penstock_server.models.spec import ModelSpec, model_spec
from penstock_server.models.warmup import WarmupSample, warmup_samples

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """What the operator chose for all models."""

    default_max_batch_size: int = 4
    """For models that can be batched and whose config does not say how far."""
    max_queued_rows: int = 4096
    max_queued_bytes: int = 1 << 30
    """The bounds of each version's queue."""
    bounds: Bounds | None = None
    """Bounds that all queues share."""
    device: SharedDevice | None = None
    """If given, all models take turns on it."""
    inline_seconds: float = INLINE_SECONDS
    """Batches of models on the CPU that take less run on the loop instead of in a thread; 0: none does."""
    threads: Threads = field(default_factory=Threads)
    """How many batches run in threads, over all models that are loaded with these settings."""
    round_robin: RoundRobin = field(default_factory=RoundRobin)
    """Their turns."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version that is loaded and warm, but has no queue yet."""

    version: int
    config: ModelConfig
    spec: ModelSpec
    scheduling: Settings
    instances: Sequence[ModelInstance | DecoupledInstance]
    costs: Sequence[tuple[int, float]]
    """What the warm-up has measured: rows and seconds."""
    short: Sequence[tuple[int, float]] = ()
    """What may run on the loop from the beginning: rows, and the seconds of CPU that they took."""


async def load_model(source: ModelSource, backends: Mapping[str, Backend], settings: LoadSettings) -> ServedModel:
    """Load every version of a model. What fails is told in the result, not raised."""
    model = ServedModel(source.name)
    for problem in source.problems:
        if problem.level == "warning":
            _log.warning("model '%s': %s", source.name, problem)
    if source.errors:
        model.failure = "; ".join(map(str, source.errors))
        _log.error("model '%s' cannot be loaded: %s", source.name, model.failure)
        return model
    for version in source.versions:
        await _load_version(model, source, version, backends, settings)
    return model


async def _load_version(
    model: ServedModel, source: ModelSource, version: int, backends: Mapping[str, Backend], settings: LoadSettings
) -> None:
    model.states[version] = (VersionState.LOADING, "")
    began = time.monotonic()
    try:
        prepared = await asyncio.to_thread(prepare, source, version, backends, settings)
    except LoadError as error:
        model.states[version] = (VersionState.UNAVAILABLE, str(error))
        reason = "; ".join(line.strip() for line in str(error).splitlines())  # a log has one line for an event
        _log.error("model '%s' version %d cannot be loaded: %s", source.name, version, reason)
        return
    model.serve(serve(prepared, settings))
    model.states[version] = (VersionState.READY, "")
    _log.info("model '%s' version %d is ready (%.2f s)", source.name, version, time.monotonic() - began)


def prepare(source: ModelSource, version: int, backends: Mapping[str, Backend], settings: LoadSettings) -> Prepared:
    """Load one version and warm it up. Raises LoadError, which names file, field and reason, and nothing else.

    Blocks, in a thread that is not the main one: there a KeyboardInterrupt would be the operator's, here it is the
    model's.
    """
    files = ModelFiles(source.name, version, source.versions[version])
    try:
        backend = backends.get(source.config.backend)
        if backend is None:
            known = ", ".join(sorted(backends))
            reason = f"unknown backend '{source.config.backend}' (there are: {known})"
            raise LoadError(reason, model=source.name, file=_config_file(source.name), field="backend")
        opened = backend.open(files, source.config)
        config = complete_config(
            source.config, opened.signature, default_max_batch_size=settings.default_max_batch_size
        )
        spec = model_spec(config, load_labels(config, source.path), read_sequences(config, source.path))
        scheduling = scheduler_settings(
            spec,
            spec.instance_count * (LIVE if spec.decoupled and spec.sequences is None else 1),
            max_queued_rows=settings.max_queued_rows,
            max_queued_bytes=settings.max_queued_bytes,
        )
        samples = warmup_samples(config, source.path)
        costs: list[tuple[int, float]] = []
        instances = opened.instances(config, spec.instance_count)
        try:
            _check_kind(instances, spec)
            for sample in samples:
                for instance in instances:
                    costs += _warm_up(instance, spec, sample)
            short = _what_is_short(instances, spec, settings.inline_seconds)
        except BaseException:
            for instance in instances:
                close(instance, f"an instance of model '{source.name}'")
            raise
    except LoadError:
        raise
    except (
        BaseException
    ) as error:  # a model may raise SystemExit, KeyboardInterrupt, CancelledError; the others load on
        raise LoadError(f"{type(error).__name__}: {error}", model=source.name, file=str(files.path)) from error
    return Prepared(version, config, spec, scheduling, instances, costs, short)


def serve(prepared: Prepared, settings: LoadSettings) -> ServedVersion:
    """Give a loaded version its queue and its threads. On the loop."""
    post = asyncio.get_running_loop().call_soon_threadsafe
    name = f"model '{prepared.spec.name}' version {prepared.version}"
    spec, scheduling = prepared.spec, prepared.scheduling
    kind: type[Driver]
    runners: Sequence[Runner]
    if spec.decoupled and spec.sequences is None:
        generators = [
            GeneratorRunner(each, post, name) for each in prepared.instances if isinstance(each, DecoupledInstance)
        ]
        kind, runners = DecoupledDriver, generators * LIVE
    else:
        instances = [each for each in prepared.instances if not isinstance(each, DecoupledInstance)]
        # A sequence's own instance may be busy while another one is free (engine/sequences.py): never beside itself.
        is_bound = spec.sequences is not None and spec.sequences.direct
        inline = None
        if not is_bound and all(map(_may_run_inline, instances)):
            inline = Inline(settings.inline_seconds, len(instances))
            for rows, seconds in prepared.short:
                inline.tried(rows, seconds)
        runners = [ThreadRunner(instance, post, name, inline, settings.threads) for instance in instances]
        kind = Driver if spec.sequences is None else SequenceDriver
    driver = kind(
        spec,
        scheduling,
        runners,
        name=name,
        bounds=settings.bounds,
        device=settings.device,
        round_robin=settings.round_robin,
    )
    for rows, seconds in prepared.costs:
        driver.scheduler.cost.seed(rows, seconds)
    return ServedVersion(prepared.version, prepared.spec, prepared.config, driver)


def _may_run_inline(instance: ModelInstance | DecoupledInstance) -> bool:
    return getattr(instance, "may_run_inline", False)


def _what_is_short(
    instances: Sequence[ModelInstance | DecoupledInstance], spec: ModelSpec, seconds: float
) -> Sequence[tuple[int, float]]:
    """Try what may run on the loop: one row, then a full batch, up to the first that takes longer than `seconds`.

    Not sequences: a batch of states may be larger than all that the server will ever keep.
    """
    instance = instances[0]
    if isinstance(instance, DecoupledInstance) or not _may_run_inline(instance) or spec.sequences is not None:
        return ()
    found: list[tuple[int, float]] = []
    for rows in sorted({1, max(1, spec.max_batch_size)}):
        inputs = zeros(spec, rows) if has_fixed_shapes(spec) else None
        if inputs is None:
            break
        taken = cpu_seconds(instance, spec, _as_model_takes(inputs, spec), rows)
        if taken is None or taken > seconds:
            break
        found.append((rows, taken))
    return found


def why_zeros_fail(prepared: Prepared) -> str | None:
    """Run one row of zeros through an instance; None if it is answered, or too large to be tried. Blocks.

    For a dry run of models without warm-up samples. Zeros may be no valid input, so a failure proves nothing.
    Axes of any length are 1, or as long as the smallest length bucket.
    """
    spec = prepared.spec
    inputs = zeros(spec, 1)
    if inputs is None:
        return None
    return _why_it_fails(prepared.instances[0], spec, WarmupSample("zeros", 1, inputs, 1))


def _warm_up(
    instance: ModelInstance | DecoupledInstance, spec: ModelSpec, sample: WarmupSample
) -> Iterator[tuple[int, float]]:
    """Run a sample as often as it says. Yields rows and seconds of each run but the first, which is a cold one."""
    for run in range(sample.count):
        began = time.monotonic()
        reason = _why_it_fails(instance, spec, sample)
        if reason is not None:
            raise LoadError(
                f"warm-up '{sample.name}' failed: {reason}",
                model=spec.name, file=_config_file(spec.name), field="model_warmup",
            )  # fmt: skip
        if run:
            yield (sample.rows, time.monotonic() - began)


def _why_it_fails(instance: ModelInstance | DecoupledInstance, spec: ModelSpec, sample: WarmupSample) -> str | None:
    """Run a sample once. None if all outputs are there and as they should be."""
    request = RequestInfo(sample.rows, outputs=tuple(tensor.name for tensor in spec.outputs))
    inputs = _as_model_takes(sample.inputs, spec) | first_step(spec, sample.rows)
    batch = ModelBatch(inputs, sample.rows, [request])
    try:
        for outputs in _responses(instance, batch):
            check_outputs(outputs, range(len(spec.outputs)), spec, sample.rows)
    except (BadOutput, ModelError) as error:
        return str(error)
    except BaseException as error:  # as in `prepare`
        return f"{type(error).__name__}: {error}"
    return batch.failures[0].message if batch.failures else None


def _responses(instance: ModelInstance | DecoupledInstance, batch: ModelBatch) -> Sequence[Tensors]:
    """What an instance answers: all of it if it is a decoupled model's."""
    if not isinstance(instance, DecoupledInstance):
        return [instance.run(batch)]

    async def collect() -> Sequence[Tensors]:
        return [tensors async for tensors in instance.stream(batch)]

    return asyncio.run(collect())


def _check_kind(instances: Sequence[ModelInstance | DecoupledInstance], spec: ModelSpec) -> None:
    """Raise LoadError if the model answers in another way than its configuration says."""
    for instance in instances:
        if (spec.decoupled and spec.sequences is None) == isinstance(instance, DecoupledInstance):
            continue
        if spec.sequences is not None:
            reason = "a step of a sequence has one response: infer() may not be a generator"
        elif spec.decoupled:
            reason = "a decoupled model is a Python model whose infer() is a generator, and this is none"
        else:
            reason = "its infer() is a generator, so it has to be decoupled: true"
        raise LoadError(
            reason, model=spec.name, file=_config_file(spec.name), field="model_transaction_policy.decoupled"
        )


def _config_file(model: str) -> str:
    return f"{model}/config.pbtxt"


def _as_model_takes(inputs: Tensors, spec: ModelSpec) -> Tensors:
    """Arrays in the clients' shapes, reshaped where the model's differ."""
    batch_axes = 1 if spec.max_batch_size else 0
    reshaped = dict(inputs)
    for name, reshape in spec.input_reshapes.items():
        if name in reshaped:
            shape = reshaped[name].shape
            reshaped[name] = reshaped[name].reshape(shape[:batch_axes] + reshape.to_model(shape[batch_axes:]))
    return reshaped
