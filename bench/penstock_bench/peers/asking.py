"""Is it ready, and is it right? Asked before any load, since numbers of a server that answers wrongly are worthless.

A row alone and many rows at once from several threads are compared with what ONNX Runtime says offline: the second is
what shows a batcher that hands one caller another's answer.
"""

import http.client
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import numpy as np

from penstock_bench.peers.base import PeerFailed, RunningPeer
from penstock_bench.peers.models import Array, BenchModel, Rows
from penstock_client import NO_RETRIES, Client, InferenceError, InputError

_RELATIVE, _ABSOLUTE = 1e-3, 1e-5
_ASKERS = 8
_ROWS = 64
_TIMEOUT_SECONDS = 20.0
_POLL_SECONDS = 0.1
_SEED = 11


class _NoAnswer(Exception):
    """Nobody is there, or it says that something is wrong."""


def wait_until_ready(peer: RunningPeer, model: BenchModel, seconds: float, check_alive: Callable[[], None]) -> None:
    """Until it answers a request, rightly or not. Raises PeerFailed."""
    row = model.draw(1, _SEED)
    until = time.monotonic() + seconds
    while True:
        check_alive()
        try:
            with ExitStack() as stack:
                _asker(peer, model, stack)(row)
            return
        except _NoAnswer as error:
            last = str(error)
        if time.monotonic() > until:
            raise PeerFailed(f"was not ready after {seconds:.0f} s: {last}")
        time.sleep(_POLL_SECONDS)


def check(peer: RunningPeer, model: BenchModel) -> None:
    """Raises PeerFailed if an answer is wrong, or does not come."""
    rows = model.draw(_ROWS, _SEED)
    right = model.expected(rows)
    with ExitStack() as stack, ThreadPoolExecutor(_ASKERS) as pool:
        askers = [_asker(peer, model, stack) for _ in range(_ASKERS)]

        def ask(first: int) -> None:
            for number in range(first, _ROWS, _ASKERS):
                _compare(model, askers[first](rows[number : number + 1]), right, number)

        try:
            _compare(model, askers[0](rows[:1]), right, 0)
            list(pool.map(ask, range(_ASKERS)))
        except _NoAnswer as error:
            raise PeerFailed(f"does not answer a known request: {error}") from None


def _compare(model: BenchModel, given: Sequence[Array], right: Sequence[Array], number: int) -> None:
    for output, values, wanted in zip(model.outputs, given, right, strict=True):
        want = wanted[number : number + 1]
        if values.shape != want.shape:
            raise PeerFailed(f"answers wrongly: '{output.name}' has shape {list(values.shape)}, not {list(want.shape)}")
        if not np.allclose(values.astype(np.float64), want.astype(np.float64), _RELATIVE, _ABSOLUTE):
            raise PeerFailed(f"answers wrongly: '{output.name}' has other values than ONNX Runtime alone")


def _asker(peer: RunningPeer, model: BenchModel, stack: ExitStack) -> Callable[[Rows], Sequence[Array]]:
    """A function that asks for one row, over a connection of its own. It raises _NoAnswer."""
    if peer.bodies is None:
        options = {"grpc.enable_http_proxy": 0, "grpc.use_local_subchannel_pool": 1}
        target = f"{peer.host}:{peer.port}"
        client = Client(target, timeout=_TIMEOUT_SECONDS, retries=NO_RETRIES, options=options)
        return _grpc_asker(stack.enter_context(client), model)
    connection = http.client.HTTPConnection(peer.host, peer.port, timeout=_TIMEOUT_SECONDS)
    return _http_asker(stack.enter_context(closing(connection)), peer, model)


def _grpc_asker(client: Client, model: BenchModel) -> Callable[[Rows], Sequence[Array]]:
    def ask(row: Rows) -> Sequence[Array]:
        try:
            answer = client.infer(model.name, {model.input: row})
        except (InferenceError, InputError) as error:
            raise _NoAnswer(str(error)) from None
        if missing := [output.name for output in model.outputs if output.name not in answer]:
            raise _NoAnswer(f"the answer has no output {', '.join(missing)}")
        return [answer[output.name] for output in model.outputs]

    return ask


def _http_asker(
    connection: http.client.HTTPConnection, peer: RunningPeer, model: BenchModel
) -> Callable[[Rows], Sequence[Array]]:
    bodies = peer.bodies
    assert bodies is not None

    def ask(row: Rows) -> Sequence[Array]:
        try:
            connection.request("POST", bodies.path, bodies.request(row.tobytes()), dict(bodies.headers))
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise _NoAnswer(f"HTTP {answer.status}: {body[:200].decode('utf-8', 'replace')}")
            return model.parse(bodies.answer(body))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _NoAnswer(str(error) or type(error).__name__) from None
        except ValueError as error:
            raise _NoAnswer(str(error)) from None

    return ask
