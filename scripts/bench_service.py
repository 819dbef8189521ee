"""What a ModelInfer costs between the transport and back: microseconds of CPU for each request, by layer.

    python scripts/bench_service.py              a table over bursts
    python scripts/bench_service.py --profile    where the time goes, for one burst of 256

A burst is what a transport reads in one pass of the loop: so many messages, each handed to `Inference.call`; the next
one comes when all of them are answered. Ids and data differ from message to message. The columns:

* all: everything in this process, the model included;
* scheduler, model: of that, in the scheduler, and in the instance's `run` (without the way to its thread and back);
* ours: the rest, which is the service, the engine, the runner and the event loop.

`nothing` is a model that runs on the loop and costs nothing, so `ours` is the service and the engine alone. The bar
for it is 4 µs for bursts of 256, where a grpc.aio echo costs 170 to 240 µs.
"""

import argparse
import asyncio
import cProfile
import gc
import pstats
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvloop
from bench_scheduler import echo_microseconds  # type: ignore[import-not-found]  # it lies beside this file

from penstock_proto import open_inference_pb2 as pb
from penstock_proto.datatypes import DATATYPES
from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.backends.base import ModelBatch
from penstock_server.backends.onnx import OnnxBackend
from penstock_server.backends.runner import Done
from penstock_server.engine.batching import scheduler_settings
from penstock_server.engine.driver import Driver
from penstock_server.engine.loading import LoadSettings, load_model
from penstock_server.engine.versions import Models, ServedModel, ServedVersion, VersionState
from penstock_server.errors import Failure, Trailers
from penstock_server.examples import REPOSITORY
from penstock_server.models.repository import scan
from penstock_server.models.spec import Batching, ModelSpec
from penstock_server.service.budget import ByteBudget
from penstock_server.service.decode import Decoder
from penstock_server.service.dialect import PENSTOCK
from penstock_server.service.inference import Inference
from penstock_server.service.seam import Parts, RequestHead
from penstock_server.tensors.spec import TensorSpec

BURSTS = (1, 8, 64, 256)
RUNS = 3
FP32 = DATATYPES["FP32"]
LARGE = (3, 224, 224)


class Spent:
    """Seconds that went into some functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self, owner: object, *names: str) -> None:
        """Measure these methods of an object from now on."""
        for name in names:
            setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*given)
            finally:
                self.seconds += time.thread_time() - began

        return timed


class Nothing:
    """A runner whose model costs nothing."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._loop = asyncio.get_running_loop()
        self._outputs = np.zeros((64, *shape), np.float32)

    def start(self, batch: ModelBatch, done: Done) -> None:
        batch.started = batch.ended = time.monotonic()
        self._loop.call_soon(done, batch, {"Y": self._outputs[: batch.rows]})

    def close(self, timeout: float) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class House:
    """A service with one model behind it, and requests for it."""

    inference: Inference
    version: ServedVersion
    messages: Sequence[bytes]
    scheduler: Spent
    model: Spent


def house_of(model: ServedModel, tensor: str, shape: tuple[int, ...], run: Spent) -> House:
    models = Models()
    models.add(model)
    (version,) = model.served.values()
    inference = Inference(Decoder(models, PENSTOCK), PENSTOCK, ByteBudget(1 << 40), 1 << 30)
    scheduler = Spent()
    scheduler.watch(version.driver.scheduler, "submit_many", "poll", "finish", "next_wakeup")
    return House(inference, version, _messages(model.name, tensor, shape), scheduler, run)


def _messages(model: str, tensor: str, shape: tuple[int, ...]) -> list[bytes]:
    rng = random.Random(1)
    row = np.arange(np.prod(shape), dtype=np.float32)
    messages: list[bytes] = []
    for number in range(512 if len(shape) == 1 else 8):
        request = pb.ModelInferRequest(model_name=model, id=f"{rng.randrange(10**6)}")
        request.inputs.add(name=tensor, datatype="FP32", shape=[1, *shape])
        request.raw_input_contents.append((row + number).tobytes())
        messages.append(request.SerializeToString())
    return messages


async def nothing(shape: tuple[int, ...] = (4,)) -> House:
    spec = ModelSpec(
        "nothing",
        64,
        (TensorSpec("X", FP32, shape),),
        (TensorSpec("Y", FP32, (3,)),),
        1,
        batching=Batching(enabled=True),
    )
    settings = scheduler_settings(spec, 1, max_queued_rows=1 << 20, max_queued_bytes=1 << 40)
    model = ServedModel("nothing", states={1: (VersionState.READY, "")})
    driver = Driver(spec, settings, [Nothing((3,))], name="nothing")
    model.serve(ServedVersion(1, spec, ModelConfig(), driver))
    return house_of(model, "X", shape, Spent())


async def iris(inline_seconds: float = 0.0) -> House:
    source = scan(REPOSITORY).models["iris"]
    run = Spent()
    settings = LoadSettings(max_queued_rows=1 << 20, inline_seconds=inline_seconds)
    model = await load_model(source, {"onnxruntime": _Timed(run)}, settings)
    return house_of(model, next(iter(model.served.values())).spec.inputs[0].name, (4,), run)


class _Timed(OnnxBackend):
    """The backend, with instances that are watched."""

    def __init__(self, run: Spent) -> None:
        self._run = run

    def open(self, files: Any, config: ModelConfig) -> Any:
        opened = super().open(files, config)
        make = opened.instances

        def instances(config: ModelConfig, count: int) -> Sequence[object]:
            made = make(config, count)
            for each in made:
                self._run.watch(each, "run")
            return made

        opened.instances = instances  # type: ignore[method-assign,assignment]
        return opened


class Burst:
    """Hands messages over and waits for the answers."""

    def __init__(self, house: House, size: int) -> None:
        self._house = house
        self._size = size
        self._left = 0
        self._over = asyncio.Event()
        self._head = RequestHead("/m", (("user-agent", "bench"),))

    def reply(self, outcome: Parts | Failure, trailers: Trailers = (), /) -> None:
        if isinstance(outcome, Failure):
            raise SystemExit(f"the benchmark measures nothing: {outcome.message}")
        self._left -= 1
        if not self._left:
            self._over.set()

    async def run(self, requests: int) -> int:
        """Returns how many requests it were."""
        call, messages, head, reply = self._house.inference.call, self._house.messages, self._head, self.reply
        number = 0
        for _ in range(max(1, requests // self._size)):
            self._over.clear()
            self._left = self._size
            for _ in range(self._size):
                call(head, messages[number % len(messages)], reply)
                number += 1
            await self._over.wait()
        return number


Row = tuple[float, float, float]


async def measure(make: Callable[[], Any], burst: int, requests: int) -> Row:
    """Microseconds for a request: all, in the scheduler, in the model."""
    house: House = await make()
    await Burst(house, burst).run(300)
    best: Row | None = None
    for _ in range(RUNS):
        gc.collect()
        house.scheduler.seconds = house.model.seconds = 0.0
        began = time.process_time()
        done = await Burst(house, burst).run(requests)
        spent = time.process_time() - began
        scale = 1e6 / done
        row = (spent * scale, house.scheduler.seconds * scale, house.model.seconds * scale)
        best = row if best is None or row < best else best
    await house.version.driver.close(1.0)
    assert best is not None
    return best


@contextmanager
def profiled(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    profile = cProfile.Profile()
    with profile:
        yield
    pstats.Stats(profile).sort_stats("tottime").print_stats(30)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a ModelInfer costs between the transport and back.")
    parser.add_argument("--profile", action="store_true", help="print where the time goes, for bursts of 256")
    parser.add_argument("--echo", action="store_true", help="also what a grpc.aio echo costs here")
    parser.add_argument("--requests", type=int, default=30_000, help="for each number (default: %(default)s)")
    options = parser.parse_args()
    if options.profile:
        with profiled(True):
            asyncio.run(measure(nothing, 256, options.requests))
        return
    if options.echo:
        print(f"grpc.aio echo here: {min(asyncio.run(echo_microseconds(3200)) for _ in range(RUNS)):.0f} µs\n")
    print("µs per request                   burst      all  scheduler  model    ours")
    rows: tuple[tuple[str, Callable[[], Any], Sequence[int], int], ...] = (
        ("nothing", nothing, BURSTS, 1),
        ("iris (ONNX Runtime), in a thread", iris, BURSTS, 1),
        ("iris, inline", lambda: iris(200e-6), BURSTS, 1),
        ("nothing, 602 KB", lambda: nothing(LARGE), (1, 8, 64), 10),
    )
    for name, make, bursts, fewer in rows:
        for burst in bursts:
            count = options.requests // fewer // (5 if burst == 1 else 1)
            spent, scheduler, model = uvloop.run(measure(make, burst, count))
            ours = spent - scheduler - model
            print(f"{name:32} {burst:5} {spent:8.2f} {scheduler:10.2f} {model:6.2f} {ours:7.2f}", flush=True)


if __name__ == "__main__":
    main()
