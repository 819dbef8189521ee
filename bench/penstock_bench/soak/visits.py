"""What clients do. A visit makes some requests, looks at every answer, and returns how many there were.

It raises `Wrong` or `Lost`. Whatever is random is drawn from the generator that it is given.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

import grpc
import numpy as np

from penstock_bench.abuse.attacks import call_fields, data, headers, infer
from penstock_bench.load import frames
from penstock_bench.soak.models import COUNTER, DOUBLED, LARGEST, MEAN, SLOW, SLOW_SECONDS, Array, Example
from penstock_bench.soak.tally import Lost, Wrong
from penstock_client import NO_RETRIES, AsyncClient, InferenceError, InferResult, StreamAnswer, StreamRequest

T = TypeVar("T")
_TIMEOUT_SECONDS = 30.0
"""Far longer than anything takes: what passes it is lost."""
_OPTIONS: Mapping[str, int] = {"grpc.enable_http_proxy": 0, "grpc.use_local_subchannel_pool": 1}
_GZIP = {"grpc.default_compression_algorithm": int(grpc.Compression.Gzip)}
_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


@dataclass(frozen=True, slots=True)
class World:
    """Where the visits go."""

    host: str
    port: int
    client: AsyncClient
    zipped: AsyncClient
    """Its requests are compressed."""
    examples: Sequence[Example]


Visit = Callable[[World, np.random.Generator], Awaitable[int]]


def client_of(host: str, port: int, *, gzip: bool = False) -> AsyncClient:
    """A client with connections of its own."""
    options = {**_OPTIONS, **(_GZIP if gzip else {})}
    return AsyncClient(f"{host}:{port}", timeout=_TIMEOUT_SECONDS, retries=NO_RETRIES, options=options)


# ── single calls ──────────────────────────────────────────────────────────────────────────────────


async def known_answers(world: World, random: np.random.Generator) -> int:
    """Some rows for one of the example models: numbers, pictures or sentences."""
    await _ask_example(world.client, _one_of(world.examples, random), random)
    return 1


async def compressed(world: World, random: np.random.Generator) -> int:
    """The same, with gzip; and a tensor that is worth it."""
    await _ask_example(world.zipped, _one_of(world.examples, random), random)
    await _ask_doubled(world.zipped, np.repeat(random.standard_normal(64, np.float32), 256))
    return 2


async def large_tensors(world: World, random: np.random.Generator) -> int:
    """From 64 to 602 KB, in a size of its own each."""
    await _ask_doubled(world.client, random.standard_normal(int(random.integers(16_384, LARGEST)), np.float32))
    return 1


async def timeouts(world: World, random: np.random.Generator) -> int:
    """Calls for which the model is too slow."""
    timeout = float(random.uniform(0.001, SLOW_SECONDS / 3))
    call = world.client.infer(SLOW, {"X": np.array([[1]], np.int32)}, timeout=timeout)
    await _fails(call, grpc.StatusCode.DEADLINE_EXCEEDED)
    return 1


async def cancellations(world: World, random: np.random.Generator) -> int:
    """Calls that are given up, at any moment of their life."""
    value = int(random.integers(1000))
    call = asyncio.ensure_future(_answer(world.client.infer(SLOW, {"X": np.array([[value]], np.int32)})))
    await asyncio.sleep(float(random.uniform(0, SLOW_SECONDS * 1.5)))
    call.cancel()
    try:
        answer = await call
    except asyncio.CancelledError:
        return 1
    _same(answer["Y"], np.array([[value + 1]], np.int32), SLOW)  # it was faster
    return 1


async def bad_requests(world: World, random: np.random.Generator) -> int:
    """What the server must refuse, with the right status; and it serves the next one."""
    client = world.client
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    rows = np.zeros((1, 4), np.float32)
    await _fails(client.infer("iris", {"X": np.zeros((1, 5), np.float32)}), invalid)
    await _fails(client.infer("iris", {"X": np.zeros((1, 4), np.int64)}), invalid)
    await _fails(client.infer("iris", {"Z": rows}), invalid)
    await _fails(client.infer("iris", {"X": rows}, outputs=["no such"]), invalid)
    await _fails(client.infer("no-such-model", {"X": rows}), missing)
    await _fails(client.infer("iris", {"X": rows}, version="77"), missing)
    await _ask_example(client, world.examples[0], random)
    return 7


async def questions(world: World, random: np.random.Generator) -> int:
    """What is asked besides: health, metadata, statistics."""
    client = world.client
    if not (await _answer(client.is_live()) and await _answer(client.is_ready())):
        raise Wrong("the server says that it is not ready")
    metadata = await _answer(client.model_metadata("language"))
    if [tensor.datatype for tensor in metadata.inputs] != ["BYTES"]:
        raise Wrong("the metadata of 'language' is another")
    if len(await _answer(client.statistics("iris"))) != 1:
        raise Wrong("the statistics of 'iris' are missing")
    return 4


# ── streams ───────────────────────────────────────────────────────────────────────────────────────


async def many_on_a_stream(world: World, random: np.random.Generator) -> int:
    """Answers come in order, and a request that fails does not end the stream."""
    example = world.examples[0]
    (name,) = example.inputs
    rows = [int(row) for row in random.integers(example.rows, size=24)]
    broken = {int(number) for number in random.integers(24, size=2)}
    requests = [
        StreamRequest(
            example.model,
            {name: np.zeros((1, 3), np.float32) if number in broken else example.inputs[name][row : row + 1]},
            request_id=f"{number}",
        )
        for number, row in enumerate(rows)
    ]
    answers = await _all_of(world.client, requests)
    if [answer.id for answer in answers] != [request.request_id for request in requests]:
        raise Wrong("answers on a stream are not in order")
    for number, (answer, row) in enumerate(zip(answers, rows, strict=True)):
        if number in broken:
            if not isinstance(answer.outcome, InferenceError):
                raise Wrong("a request that is wrong was answered on a stream")
        else:
            _right(example, [row], _result(answer))
    return len(rows)


async def sequences(world: World, random: np.random.Generator) -> int:
    """The mean of what was sent so far, of two sequences in turns on one stream."""
    count = int(random.integers(2, 12))
    sequence_ids = [int(each) for each in random.integers(1, 2**60, 2)]
    values = random.integers(0, 100, (count, 2)).astype(np.float32)
    requests = [
        StreamRequest(
            MEAN,
            {"X": values[step : step + 1, which : which + 1]},
            parameters={
                "sequence_id": sequence_id,
                "sequence_start": step == 0,
                "sequence_end": step == count - 1,
            },
            request_id=f"{step}-{which}",
        )
        for step in range(count)
        for which, sequence_id in enumerate(sequence_ids)
    ]
    found = {answer.id: _result(answer) for answer in await _all_of(world.client, requests)}
    for step in range(count):
        for which in range(2):
            answer = found.get(f"{step}-{which}")
            if answer is None:
                raise Lost("a step of a sequence was not answered")
            due = values[: step + 1, which].mean(dtype=np.float64)
            if not np.allclose(answer["MEAN"], due, 1e-5):
                raise Wrong(f"step {step} of a sequence is {answer['MEAN'].item()}, not {due}")
    return len(requests)


async def decoupled(world: World, random: np.random.Generator) -> int:
    """Any number of answers to each request, beside each other."""
    counts = [int(count) for count in random.integers(1, 12, 4)]
    requests = [
        StreamRequest(COUNTER, {"N": np.array([count], np.int32)}, request_id=f"{number}")
        for number, count in enumerate(counts)
    ]
    found: dict[str, list[int]] = {}
    for answer in await _all_of(world.client, requests):
        found.setdefault(answer.id, []).append(int(_result(answer)["I"].item()))
    if found != {f"{number}": list(range(count)) for number, count in enumerate(counts)}:
        raise Wrong("a decoupled model's answers are others")
    return len(requests)


async def abandoned_streams(world: World, random: np.random.Generator) -> int:
    """Streams that are left in the middle of their answers."""
    count = np.array([1000], np.int32)
    requests = (StreamRequest(COUNTER, {"N": count}, request_id=f"{number}") for number in range(4))
    wanted = int(random.integers(1, 20))
    taken = 0
    async with aclosing(world.client.stream(requests)) as answers:
        async for answer in _checked(answers):
            _result(answer)
            taken += 1
            if taken == wanted:
                return 4
    raise Lost("a stream ended before its answers did")


# ── connections ───────────────────────────────────────────────────────────────────────────────────


async def new_connections(world: World, random: np.random.Generator) -> int:
    """A client that comes, asks and goes."""
    async with client_of(world.host, world.port) as client:
        await _ask_example(client, world.examples[0], random)
    return 1


async def broken_connections(world: World, random: np.random.Generator) -> int:
    """A client that goes without a word, in the middle of a call or before its answer."""
    block, request = call_fields(), infer("iris", 1, 4)
    whole = frames.PREFACE + frames.settings({}) + headers(1, block) + data(1, request, end=True)
    try:
        _, writer = await asyncio.open_connection(world.host, world.port)
    except OSError as error:
        raise Lost(f"no connection: {error}") from None
    writer.write(whole[: int(random.integers(1, len(whole) + 1))])
    await asyncio.sleep(float(random.choice([0.0, 0.005])))
    writer.transport.abort()
    return 0


VISITS: Mapping[str, tuple[float, Visit]] = {
    "known answers": (30, known_answers),
    "gzip": (6, compressed),
    "large tensors": (10, large_tensors),
    "timeouts": (5, timeouts),
    "cancellations": (5, cancellations),
    "bad requests": (4, bad_requests),
    "questions": (3, questions),
    "many on a stream": (6, many_on_a_stream),
    "sequences": (6, sequences),
    "decoupled": (6, decoupled),
    "abandoned streams": (3, abandoned_streams),
    "new connections": (4, new_connections),
    "broken connections": (6, broken_connections),
}
"""All kinds, with their weights."""


# ── what they share ───────────────────────────────────────────────────────────────────────────────


def _one_of(examples: Sequence[Example], random: np.random.Generator) -> Example:
    return examples[int(random.integers(len(examples)))]


async def _answer(call: Awaitable[T]) -> T:
    """The answer to a call. Raises Lost, and Wrong for a status that is not due."""
    try:
        return await call
    except InferenceError as error:
        raise _failed(error) from None


async def _fails(call: Awaitable[InferResult], status: grpc.StatusCode) -> None:
    """It must end with this status."""
    try:
        await call
    except InferenceError as error:
        if error.status is not status:
            raise _failed(error) from None
    else:
        raise Wrong(f"a call was answered that should end with {status.name}")


def _failed(error: InferenceError) -> Wrong | Lost:
    words = f"{error.status.name}: {error.message}"
    return Lost(words) if error.status in _NO_ANSWER else Wrong(words)


async def _checked(answers: AsyncIterator[StreamAnswer]) -> AsyncGenerator[StreamAnswer, None]:
    """The same. Raises Lost if the stream breaks, and Wrong for a status that is not due."""
    try:
        async for answer in answers:
            yield answer
    except InferenceError as error:
        raise _failed(error) from None


async def _all_of(client: AsyncClient, requests: Sequence[StreamRequest]) -> list[StreamAnswer]:
    async with aclosing(client.stream(requests)) as answers:
        return [answer async for answer in _checked(answers)]


def _result(answer: StreamAnswer) -> InferResult:
    if isinstance(answer.outcome, InferenceError):
        raise _failed(answer.outcome)
    return answer.outcome


async def _ask_example(client: AsyncClient, example: Example, random: np.random.Generator) -> None:
    rows = [int(row) for row in random.integers(example.rows, size=random.integers(1, 7))]
    _right(example, rows, await _answer(client.infer(example.model, {n: a[rows] for n, a in example.inputs.items()})))


async def _ask_doubled(client: AsyncClient, values: Array) -> None:
    answer = await _answer(client.infer(DOUBLED, {"X": values[None]}))
    _same(answer["Y"], values[None] * np.float32(2), DOUBLED)


def _right(example: Example, rows: Sequence[int], answer: Mapping[str, Array]) -> None:
    difference = example.differences(rows, answer)
    if difference:
        raise Wrong(f"model '{example.model}': {difference}")


def _same(given: Array, due: Array, model: str) -> None:
    if not np.array_equal(given, due):
        raise Wrong(f"model '{model}' answers with other values")
