"""The Python client of Penstock, and of any server that speaks the V2 (KServe, Triton) protocol.

numpy in, numpy out, blocking or with asyncio:

>>> from penstock_client import Client
>>> with Client("127.0.0.1:8001") as client:
...     client.infer("iris", {"X": [[5.1, 3.5, 1.4, 0.2]]})["label"]

Inside, everything that decides is pure and shared (`codec`, `calls`, `retry`, `tensors`); the clients
are two shells that carry bytes and wait. It imports gRPC, protobuf, numpy and Penstock's stubs only.
"""

from penstock_client.async_client import AsyncClient
from penstock_client.calls import Health
from penstock_client.codec import InferResult, OutputRequest
from penstock_client.errors import InferenceError, InputError
from penstock_client.retry import NO_RETRIES, Deadline, RetryPolicy
from penstock_client.settings import Tls
from penstock_client.streams import StreamAnswer, StreamRequest
from penstock_client.sync_client import Client
from penstock_client.tensors import Tensor

__all__ = [
    "NO_RETRIES",
    "AsyncClient",
    "Client",
    "Deadline",
    "Health",
    "InferResult",
    "InferenceError",
    "InputError",
    "OutputRequest",
    "RetryPolicy",
    "StreamAnswer",
    "StreamRequest",
    "Tensor",
    "Tls",
]
