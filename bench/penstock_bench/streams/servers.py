"""Who serves the listener: Penstock in several ways, and Triton.

Triton gets what its manuals recommend, and what was found to be best here: see `TritonListener`.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from penstock_bench.peers.base import Peer, PeerFailed, RunningPeer
from penstock_bench.peers.models import MAX_BATCH, BenchModel, ModelSet
from penstock_bench.peers.penstock import ONE_THREAD, READY_SECONDS, Penstock
from penstock_bench.peers.process import ServerProcess
from penstock_bench.peers.triton import ONE_INSTANCE, Triton
from penstock_bench.peers.workshop import Workshop
from penstock_bench.streams.listener import NAME, NAMES, STATE, config
from penstock_bench.streams.request import SERVERS
from penstock_client import NO_RETRIES, Client, InferenceError

PENSTOCK, OWN, SINGLE, TRITON = SERVERS
_POLL_SECONDS = 0.1


class PenstockListener(Penstock):
    """Penstock, which keeps the state itself."""

    def __init__(self, name: str, transport: str, streams: int, batch: int = MAX_BATCH) -> None:
        super().__init__(transport)
        self.name = name
        self._batch = batch
        self._most = streams
        if name == SINGLE:
            self.title += ", batching off"
            self.remark = "the same with max_batch_size 1"
        elif name == OWN:
            self.title += ", no ids"
            self.remark = "requests name no sequence: each stream is one"
        else:
            self.remark = "the model and all states are in the server's process"

    def _config(self, model: BenchModel) -> str:
        return config("onnxruntime", self._batch, self._most, f"{STATE}}}\n{ONE_THREAD}\n")

    def _wait(self, running: RunningPeer, model: BenchModel, process: ServerProcess) -> None:
        wait_until_loaded(running, READY_SECONDS, process)


class TritonListener(Triton):
    """Triton's sequence batcher with the oldest strategy, which is its one for a model that keeps its state itself.

    The state is in the Python model, and so is the batch that runs: that costs less than implicit state and control
    inputs, which go through shared memory with each request.
    """

    title = "Triton 2.51.0 (sequence batcher)"
    remark = "its Python backend keeps the states and runs the model; that process is in the CPU"
    program = "triton_listener.py"

    def __init__(self, workshop: Workshop, streams: int) -> None:
        super().__init__(workshop)
        self._most = streams

    def _config(self, model: BenchModel) -> str:
        return config("python", MAX_BATCH, self._most, f"}}\n{ONE_INSTANCE}\n{NAMES}\n")

    def _wait(self, running: RunningPeer, model: BenchModel, process: ServerProcess) -> None:
        wait_until_loaded(running, self.ready_seconds, process)

    def command(self, python: Path, models: ModelSet, scratch: Path, port: int) -> Sequence[str]:
        # As many requests as there are streams are kept for the next ones; by default Triton keeps eight.
        return [*super().command(python, models, scratch, port), f"--grpc-infer-allocation-pool-size={self._most}"]


def chosen(names: Sequence[str], workshop: Workshop | None, transport: str, streams: int) -> list[Peer]:
    """The servers by their names, in that order. `workshop` is for Triton."""
    found: list[Peer] = []
    for name in dict.fromkeys(names):
        if name != TRITON:
            found.append(PenstockListener(name, transport, streams, 1 if name == SINGLE else MAX_BATCH))
        elif workshop is not None:
            found.append(TritonListener(workshop, streams))
    return found


def wait_until_loaded(running: RunningPeer, seconds: float, process: ServerProcess) -> None:
    """Until it says that the model is ready: a first request would begin a sequence. Raises PeerFailed."""
    until = time.monotonic() + seconds
    options = {"grpc.enable_http_proxy": 0, "grpc.use_local_subchannel_pool": 1}
    while True:
        process.check_alive()
        try:
            with Client(f"{running.host}:{running.port}", timeout=1.0, retries=NO_RETRIES, options=options) as client:
                if client.is_model_ready(NAME):
                    return
                last = "the model is not ready"
        except InferenceError as error:
            last = str(error)
        if time.monotonic() > until:
            raise PeerFailed(f"was not ready after {seconds:.0f} s: {last}")
        time.sleep(_POLL_SECONDS)
