"""What is asked of the server besides the load: what its models take, right answers, its statistics.

All of it goes through the reference client, which knows nothing of the generator's own frames: an error of one is seen
by the other.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Self

import numpy as np

from penstock_bench.load.messages import KNOWN_ANSWERS, Signature, TensorSpec, affordable, inputs_of
from penstock_bench.load.plan import LoadError, LoadPlan, MixItem
from penstock_client import NO_RETRIES, Client, InferenceError, InferResult, InputError, Tensor, Tls
from penstock_client.tensors import converted, raw_of
from penstock_proto.datatypes import DATATYPES
from penstock_proto.open_inference_pb2 import ModelInferResponse, ModelMetadataResponse, ModelStatistics

_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What a server has counted of the models of a mix, all together."""

    rows: int = 0
    executions: int = 0
    queued: int = 0
    """Requests that were in a queue, and below the nanoseconds they were in it."""
    queue_ns: int = 0

    def since(self, before: "Counts") -> "Counts":
        return Counts(
            self.rows - before.rows,
            self.executions - before.executions,
            self.queued - before.queued,
            self.queue_ns - before.queue_ns,
        )

    @property
    def batch_rows(self) -> float | None:
        return self.rows / self.executions if self.executions > 0 else None

    @property
    def queue_time(self) -> float | None:
        return self.queue_ns / self.queued / 1e9 if self.queued > 0 else None


class Target:
    """A V2 server, asked by the reference client. Raises LoadError, in a sentence."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        tls = None if plan.tls is None else Tls(ca=plan.tls.ca, cert=plan.tls.cert, key=plan.tls.key)
        try:
            options = {"grpc.enable_http_proxy": 0} if _is_loopback(plan.host) else {}
            self._client = Client(plan.target, tls=tls, timeout=_SECONDS, retries=NO_RETRIES, options=options)
        except (OSError, ValueError) as error:
            raise LoadError(f"{plan.target}: {error}") from None

    def __repr__(self) -> str:
        return f"<Target {self._plan.target}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def name(self) -> str:
        """What the server calls itself, with its version; its address if it does not say."""
        try:
            found = self._client.server_metadata()
        except InferenceError:
            return self._plan.target
        return f"{found.name} {found.version}".strip() or self._plan.target

    def signatures(self) -> list[Signature]:
        """Of each item of the mix."""
        return [self._signature(item) for item in self._plan.mix]

    def _signature(self, item: MixItem) -> Signature:
        try:
            found = self._client.model_metadata(item.model, item.version)
        except InferenceError as error:
            raise self._failed(error) from None
        try:
            batched = self._client.model_config(item.model, item.version).max_batch_size > 0
        except InferenceError:  # a server without this extension: where all first axes are free, they are the batch
            batched = all(tensor.shape and tensor.shape[0] < 0 for tensor in (*found.inputs, *found.outputs))
        if unknown := {tensor.datatype for tensor in found.inputs} - set(DATATYPES):
            raise LoadError(f"model '{item.model}' has inputs of the unknown datatype {', '.join(sorted(unknown))}")
        if not batched and item.rows != 1:
            raise LoadError(f"model '{item.model}' has no batch axis, so its requests have no {item.rows} rows")
        return Signature(inputs=_specs(found.inputs), outputs=_specs(found.outputs), batched=batched)

    def answers(self, signatures: Sequence[Signature]) -> tuple[list[list[bytes]], list[str]]:
        """The answers to the first variants of each item, and remarks.

        A model that gives another answer to the same question the second time has no right answers.
        """
        found: list[list[bytes]] = []
        remarks: list[str] = []
        for number, (item, signature) in enumerate(zip(self._plan.mix, signatures, strict=True)):
            count = min(KNOWN_ANSWERS, affordable(self._plan, item, signature))
            results = list(self._ask(item, number, signature, count))
            if same(results[0], results[1]):
                found.append([_serialised(result) for result in results[1:]])
            else:
                found.append([])
                remarks.append(f"model '{item.model}' answers the same request differently: values are not compared")
        return found, remarks

    def _ask(self, item: MixItem, number: int, signature: Signature, count: int) -> Iterator[InferResult]:
        """The answers to the first variants, that to the first one twice."""
        inputs = list(islice(inputs_of(item, number, signature, self._plan.seed), count))
        for each in (inputs[0], *inputs):
            tensors = {name: Tensor(values, datatype.name) for name, (values, datatype) in each.items()}
            try:
                yield self._client.infer(
                    item.model,
                    tensors,
                    version=item.version,
                    outputs=item.outputs or None,
                    parameters=item.parameters,
                    metadata=item.metadata,
                )
            except InferenceError as error:
                raise self._failed(error) from None
            except InputError as error:
                raise LoadError(str(error)) from None

    def counts(self) -> Counts | None:
        """The server's statistics by now; None from a server that has none, or is gone."""
        try:
            names = {item.model for item in self._plan.mix}
            return _sum(one for name in names for one in self._client.statistics(name))
        except InferenceError:
            return None

    def _failed(self, error: InferenceError) -> LoadError:
        where = self._plan.target
        if error.status.name == "UNAVAILABLE" and ("connect" in error.message or "resolution" in error.message):
            return LoadError(f"nobody answers at {where}: {error.message}")
        return LoadError(f"{where} answers {error.status.name}: {error.message}")


def same(one: InferResult, other: InferResult) -> bool:
    """Whether two answers have the same values, but for rounding."""
    if set(one) != set(other):
        return False
    for name, values in one.items():
        if values.shape != other[name].shape:
            return False
        if values.dtype.kind == "f":
            if not np.allclose(values, other[name], 1e-3, 1e-5, equal_nan=True):
                return False
        elif not np.array_equal(values, other[name]):
            return False
    return True


def _serialised(result: InferResult) -> bytes:
    """The answer as bytes again, for those who compare with it."""
    response = ModelInferResponse(model_name=result.model_name, model_version=result.model_version, id=result.id)
    for name, values in result.items():
        datatype = DATATYPES[result.datatypes[name]]
        response.outputs.add(name=name, datatype=datatype.name, shape=values.shape)
        response.raw_output_contents.append(bytes(raw_of(converted(values, datatype), datatype)))
    return response.SerializeToString()


def _specs(tensors: Iterable[ModelMetadataResponse.TensorMetadata]) -> list[TensorSpec]:
    return [TensorSpec(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in tensors]


def _sum(statistics: Iterable[ModelStatistics]) -> Counts:
    rows = executions = queued = queue_ns = 0
    for one in statistics:
        rows += one.inference_count
        executions += one.execution_count
        queued += one.inference_stats.queue.count
        queue_ns += one.inference_stats.queue.ns
    return Counts(rows, executions, queued, queue_ns)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
