"""A program that opens streams of every kind and treats them badly, until somebody kills it.

    python -m tests.server.app.restless_client PORT SEED

It writes a line for each stream that has had its first answer. What it does to a stream is drawn: it reads it to its
end, breaks it off, stops reading for a while, never ends it; sequences are the stream's own, or have ids and no end.
"""

import asyncio
import random
import sys
from collections.abc import AsyncIterator

from penstock_client import AsyncClient, InferenceError, StreamRequest

AT_ONCE = 24
_KINDS = ("twice", "sums", "named sums", "rounds", "pour", "drip")


async def main(port: int, rng: random.Random) -> None:
    async with AsyncClient(f"127.0.0.1:{port}", timeout=60.0) as client:
        await asyncio.gather(*(_for_ever(client, rng) for _ in range(AT_ONCE)))


async def _for_ever(client: AsyncClient, rng: random.Random) -> None:
    while True:
        await _one(client, rng)


async def _one(client: AsyncClient, rng: random.Random) -> None:
    patience = rng.choice([1, 2, 5, 30])
    stream = client.stream(_requests(rng))
    answers = 0
    try:
        async for _ in stream:
            answers += 1
            if answers == 1:
                print(flush=True)
            if answers == patience:
                break
        if rng.random() < 0.3:
            await asyncio.sleep(rng.random() * 0.1)  # what comes now is not read
    except InferenceError:
        pass  # a seat may be there too late
    finally:
        await stream.aclose()


async def _requests(rng: random.Random) -> AsyncIterator[StreamRequest]:
    kind = rng.choice(_KINDS)
    model = kind.split()[-1]
    largest = {"pour": 5000, "rounds": 100, "drip": 30}.get(model, 9)
    name = rng.randrange(1, 1 << 60)
    for number in range(rng.choice([1, 2, 4, 30])):
        parameters = {"sequence_id": name, "sequence_start": not number} if kind == "named sums" else None
        yield StreamRequest(model, {"X": [[rng.randrange(largest)]]}, parameters=parameters)
        if rng.random() < 0.3:
            await asyncio.sleep(rng.random() * 0.01)
    if rng.random() < 0.2:
        await asyncio.Event().wait()  # the client never says that this was all


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), random.Random(int(sys.argv[2]))))
