"""The blocking client: a shell that carries a `Call`'s bytes and waits where `Retries` says so."""

import random
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeAlias, TypeVar

import grpc

from penstock_client import calls, codec, streams
from penstock_client.calls import Call, Health
from penstock_client.codec import InferResult, OutputRequest, Parameter, Signature
from penstock_client.errors import InferenceError, of_rpc_error
from penstock_client.retry import NO_RETRIES, Deadline, Retries, RetryPolicy
from penstock_client.settings import Metadata, Options, Settings, Timeout, Tls
from penstock_client.streams import StreamAnswer, StreamRequest
from penstock_client.tensors import TensorLike
from penstock_proto import model_config_pb2 as model_config_pb
from penstock_proto import open_inference_pb2 as pb

T = TypeVar("T")
_Rpc: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"  # generic for type checkers only


class Client:
    """A connection to an inference server that speaks the V2 protocol.

    >>> with Client("127.0.0.1:8001", timeout=2.0) as client:
    ...     result = client.infer("iris", {"X": x})
    ...     result["label"]

    Threads may share a client, and should: it multiplexes their calls over one connection, which is
    made with the first call and again when it is lost.

    Args:
        target: `host:port`, or any other name gRPC resolves (`unix:/run/penstock.sock`).
        tls: how to secure the connection; None for plain text.
        timeout: seconds for each call that is given no other, all its tries together; None for no limit.
        retries: when to try again; see `RetryPolicy`.
        metadata: sent with each call (`{"authorization": "Bearer …"}`).
        options: gRPC channel options, over those of `settings.CHANNEL_OPTIONS`.

    Every method raises `InferenceError` when the call fails, and `RuntimeError` after `close`.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: Tls | None = None,
        timeout: float | None = None,
        retries: RetryPolicy = RetryPolicy(),  # noqa: B008 - immutable
        metadata: Metadata | None = None,
        options: Options | None = None,
    ) -> None:
        self._settings = settings = Settings.of(target, tls, timeout, retries, metadata, options)
        if tls is None:
            self._channel = grpc.insecure_channel(target, settings.options)
        else:
            self._channel = grpc.secure_channel(target, tls.credentials(), settings.options)
        self._rpcs: dict[str, _Rpc] = {}
        self._signatures: dict[tuple[str, str], Signature] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<Client of {self._settings.target}{', closed' if self._closed else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. Calls of other threads that are under way fail with CANCELLED."""
        self._closed = True
        self._channel.close()

    def is_live(self, *, timeout: Timeout = None) -> bool:
        """Whether the server is up. False also if nobody answers at the target."""
        return self._make(calls.server_live(), timeout)

    def is_ready(self, *, timeout: Timeout = None) -> bool:
        """Whether the server takes requests. False also if nobody answers at the target."""
        return self._make(calls.server_ready(), timeout)

    def is_model_ready(self, name: str, version: str = "", *, timeout: Timeout = None) -> bool:
        """Whether a model takes requests. False also if it is not known, or nobody answers."""
        return self._make(calls.model_ready(name, version), timeout)

    def server_metadata(self, *, timeout: Timeout = None) -> pb.ServerMetadataResponse:
        """The server's `name`, `version` and protocol `extensions`."""
        return self._make(calls.server_metadata(), timeout)

    def model_metadata(self, name: str, version: str = "", *, timeout: Timeout = None) -> pb.ModelMetadataResponse:
        """A model's `versions`, `platform`, `inputs` and `outputs`. Shapes include the batch axis, as -1."""
        return self._make(calls.model_metadata(name, version), timeout)

    def model_config(self, name: str, version: str = "", *, timeout: Timeout = None) -> model_config_pb.ModelConfig:
        """A model's complete configuration. Shapes do not include the batch axis."""
        return self._make(calls.model_config(name, version), timeout)

    def statistics(self, name: str = "", version: str = "", *, timeout: Timeout = None) -> Sequence[pb.ModelStatistics]:
        """Counts and durations since a model was loaded. All models if no name is given."""
        return self._make(calls.statistics(name, version), timeout)

    def repository_index(
        self, *, ready: bool = False, timeout: Timeout = None
    ) -> Sequence[pb.RepositoryIndexResponse.ModelIndex]:
        """The models the server knows, with version, state and the reason for it; `ready` for those only."""
        return self._make(calls.repository_index(ready), timeout)

    def health(self, service: str = "", *, timeout: Timeout = None) -> Health:
        """The answer of `grpc.health.v1` for a service, or for the server as a whole."""
        return self._make(calls.health(service), timeout)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, TensorLike],
        *,
        version: str = "",
        outputs: Iterable[str | OutputRequest] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        request_id: str = "",
        timeout: Timeout = None,
        metadata: Metadata | None = None,
    ) -> InferResult:
        """Run a model.

        Args:
            model: its name.
            inputs: by name. A numpy array is sent as it is. Numbers, strings and lists of them become what
                the model expects; for the first of them the client asks for the model's metadata.
                `Tensor(value, datatype)` states the datatype.
            version: of the model; empty for the server's choice.
            outputs: the outputs wanted, by name or as `OutputRequest`; None for all.
            parameters: of the request: `priority`, `sequence_id`, the model's own, …
            request_id: echoed in the result and named in the server's errors.
            timeout: seconds for all tries together, or a `Deadline`; None for the client's.
            metadata: sent with this call, over the client's.

        Raises `InputError` before anything is sent, if an input or a parameter cannot be.

        >>> client.infer("iris", {"X": [[5.1, 3.5, 1.4, 0.2]]}, outputs=["label"]).text("label")
        """
        deadline = self._settings.deadline(timeout)
        known = self._signature(model, version, deadline, metadata) if codec.needs_signature(inputs) else None
        call = calls.model_infer(
            model,
            inputs,
            known,
            version=version,
            outputs=outputs,
            parameters=parameters,
            request_id=request_id,
        )
        try:
            return self._make(call, deadline, metadata)
        except InferenceError as error:
            if error.status is grpc.StatusCode.INVALID_ARGUMENT:
                # Perhaps another model was loaded under this name: ask anew the next time.
                self._signatures.pop((model, version), None)
            raise

    def stream(
        self,
        requests: Iterable[StreamRequest],
        *,
        timeout: Timeout = None,
        metadata: Metadata | None = None,
    ) -> Generator[StreamAnswer, None, None]:
        """Ask many things on one stream, and take the answers as they come.

        The requests are sent while answers are read, so they may come from a generator that waits for something. A
        request that fails is an answer with its error; the stream goes on. Whoever stops taking answers cancels what is
        still in flight. Streams are not retried.

        Raises `InferenceError` if the stream itself fails, and what making a request raises.

        >>> for answer in client.stream(StreamRequest("iris", {"X": [row]}) for row in rows):
        ...     print(answer.result()["label"])
        """
        deadline, pairs = self._settings.deadline(timeout), self._settings.pairs(metadata)
        failures: list[Exception] = []

        def messages() -> Iterator[bytes]:
            try:
                for request in requests:
                    known = None
                    if streams.needs_signature(request):
                        known = self._signature(request.model, request.version, deadline, metadata)
                    yield streams.message(request, known)
            except Exception as error:  # gRPC would log it, and tell the caller of something else
                failures.append(error)
                rpc.cancel()

        if self._closed:
            raise RuntimeError("the client is closed")
        method: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(streams.PATH)
        rpc = method(messages(), timeout=deadline.timeout(time.monotonic()), metadata=pairs)
        try:
            for answer in rpc:
                yield streams.answer(answer)
        except grpc.RpcError as error:
            if failures:
                raise failures[0] from None
            raise of_rpc_error(error) from error
        finally:
            # A closed channel has cancelled it. And as the interpreter ends, a thread of gRPC that is gone already may
            # have the lock that this needs: whoever keeps an unfinished stream until then would never end.
            if not self._closed and not sys.is_finalizing():
                rpc.cancel()

    def _signature(self, model: str, version: str, deadline: Deadline, metadata: Metadata | None) -> Signature:
        known = self._signatures.get((model, version))
        if known is None:
            known = self._make(calls.signature(model, version), deadline, metadata)
            self._signatures[model, version] = known
        return known

    def _make(self, call: Call[T], timeout: Timeout, metadata: Metadata | None = None) -> T:
        deadline, pairs = self._settings.deadline(timeout), self._settings.pairs(metadata)
        retries = Retries(NO_RETRIES if call.once else self._settings.retries, deadline)
        while True:
            rpc = self._rpc(call.path)
            try:
                return call.read(rpc(call.message, timeout=deadline.timeout(time.monotonic()), metadata=pairs))
            except grpc.RpcError as error:
                failure = of_rpc_error(error)
            wait = retries.next_wait(failure, time.monotonic(), random.random())
            if wait is None:
                return call.failed(failure)
            time.sleep(wait)

    def _rpc(self, path: str) -> _Rpc:
        if self._closed:
            raise RuntimeError("the client is closed")
        rpc = self._rpcs.get(path)
        if rpc is None:
            rpc = self._rpcs[path] = self._channel.unary_unary(path)
        return rpc
