"""A trace of arrivals: written by a server, read by whoever wants to replay them.

A trace is text, one JSON object a line, in order of arrival:

    {"at":0.013207,"model":"iris","rows":4,"deadline_ms":50.0,"tenant":"9f2c41d07ab3"}

What is not said has the default of `TracedRequest`. Every request that the scheduler was asked to take is in it, also
those that it then refused: a replay needs the load that came, not what one setting made of it. There is no content in
it, and no name of a tenant: tenants are hashed with a key that is thrown away with the process, so equal names within
one trace are equal, and that is all that can be told.

`TraceRecorder.record` is called on the event loop, for every request. It makes one object and puts it into a deque; a
thread encodes and writes. The trace ends at its limit, or with the first error of the disk; serving goes on.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from math import inf
from pathlib import Path
from secrets import token_bytes
from typing import Annotated, BinaryIO, Literal, TypeAlias

import msgspec

from penstock_server.engine.jobs import Job
from penstock_server.errors import LoadError

_log = logging.getLogger(__name__)

DEFAULT_LIMIT = 1_000_000

TrafficName: TypeAlias = Literal["interactive", "stream", "bulk"]

_TRAFFIC: Sequence[TrafficName] = ("interactive", "stream", "bulk")  # by TrafficClass
_FLUSH_SECONDS = 0.25
_BLOCK = 512  # lines that are encoded in one go: 0.1 ms of the interpreter's lock


class TracedRequest(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line of a trace: a request as it came in."""

    at: Annotated[float, msgspec.Meta(ge=0)]
    """Seconds since the recording began."""
    model: str
    rows: Annotated[int, msgspec.Meta(ge=1)] = 1
    deadline_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Until the client's deadline; None if it brought none. (Older traces have a lesser `timeout` here.)"""
    traffic: TrafficName = "interactive"
    priority: Annotated[int, msgspec.Meta(ge=0)] = 0
    """As the request says; 0 is the model's default."""
    tenant: str = ""
    """A hash."""
    timeout_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """The `timeout` parameter: what it means is for the policy to say. None: it has none."""

    @property
    def patience_ms(self) -> float | None:
        """How long the client wants to wait: until its deadline or its timeout, whatever is first. None: for ever."""
        return min((each for each in (self.deadline_ms, self.timeout_ms) if each is not None), default=None)


class BadTrace(Exception):
    """A file is no trace; the text says where and why."""


def read_trace(path: Path, model: str = "") -> list[TracedRequest]:
    """The arrivals of a trace in order of time, of all models or of one.

    Raises BadTrace for a file that cannot be read, a line that is no arrival, and a trace without any.
    """
    try:
        with path.open("rb") as file:
            arrivals = list(_parse(file, path))
    except OSError as error:
        raise BadTrace(f"cannot read {path}: {error.strerror or error}") from None
    found = [arrival for arrival in arrivals if not model or arrival.model == model]
    if not found:
        models = ", ".join(f"'{name}'" for name in sorted({arrival.model for arrival in arrivals})[:10])
        of = f" of model '{model}', only of {models}" if arrivals else ""
        raise BadTrace(f"{path}: there is no request in this trace{of}")
    return sorted(found, key=lambda arrival: arrival.at)


def _parse(file: BinaryIO, path: Path) -> Iterator[TracedRequest]:
    decoder = msgspec.json.Decoder(TracedRequest)
    for number, line in enumerate(file, 1):
        if line.isspace():
            continue
        try:
            yield decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadTrace(f"{path}, line {number}: {error}") from None


class TraceRecorder:
    """Writes a trace of the requests that it is told of, from when it is made to `close`.

    Raises LoadError if the file cannot be written. A file that is there is replaced.
    """

    def __init__(self, path: Path, start: float, limit: int = DEFAULT_LIMIT) -> None:
        self._path = path
        self._start = start
        self._room = limit
        self._tenant_key = token_bytes(16)
        self._waiting: deque[TracedRequest] = deque()
        self._ended = threading.Event()
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise LoadError(f"cannot write the trace: {error.strerror or error}", file=str(path)) from None
        self._thread = threading.Thread(target=self._write_on, name="penstock trace", daemon=True)
        self._thread.start()

    def record(self, job: Job) -> None:
        """Note a request that is about to be scheduled. Does not block."""
        if self._room <= 0:
            return
        self._room -= 1
        patience = job.deadline - job.arrived
        self._waiting.append(
            TracedRequest(
                max(0.0, round(job.arrived - self._start, 6)),
                job.plan.version.spec.name,
                job.rows,
                # What is past its deadline already came in with next to no time left.
                max(0.001, round(patience * 1e3, 3)) if patience < inf else None,
                _TRAFFIC[job.traffic],
                job.level,
                self._hash(job.tenant) if job.tenant else "",
                round(job.timeout * 1e3, 3) if job.timeout else None,
            )
        )
        if not self._room:
            _log.warning("the trace %s is full: recording ends here", self._path)

    def close(self) -> None:
        """Write what is left. Then nothing is recorded any more."""
        self._room = 0
        self._ended.set()
        self._thread.join()

    def _hash(self, tenant: str) -> str:
        return blake2b(tenant.encode("utf-8", "surrogatepass"), key=self._tenant_key, digest_size=6).hexdigest()

    def _write_on(self) -> None:
        encoder = msgspec.json.Encoder()
        try:
            with self._file as file:
                ended = False
                while not ended:
                    ended = self._ended.wait(_FLUSH_SECONDS)
                    while self._waiting:
                        count = min(_BLOCK, len(self._waiting))
                        file.write(encoder.encode_lines([self._waiting.popleft() for _ in range(count)]))
                    file.flush()
        except OSError as error:
            self._room = 0
            self._waiting.clear()
            _log.error("cannot write the trace %s any further: %s", self._path, error.strerror or error)
