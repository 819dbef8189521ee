"""Whose is a stack? The innermost frame that belongs to a layer says so.

Code that many layers use (tensors, errors, numpy, the standard library) counts for the layer that called it. Calls into
C leave no frame: what protobuf's parser and a socket cost is told from the line of source that called them. A system
call counts for whoever makes it. What runs in threads without Python (gRPC's, ONNX Runtime's) is told by the threads'
names. With C's own frames (`--native`), a library's path tells the layer like any other, and threads that wait have to
be told from those that run. All of these tables are here.
"""

import re
from collections.abc import Callable

from penstock_bench.profiling.stacks import Frame, Stack

SourceLine = Callable[[str, int], str]
"""A file's line; empty if there is none."""

EVENT_LOOP, OTHER = "event loop", "other"

PATHS: tuple[tuple[str, str], ...] = (
    # The longer of two that fit stands first.
    ("penstock_server/transports/", "transport"),
    ("penstock_server/http2/", "http2"),
    ("penstock_server/grpc_wire/", "grpc framing"),
    ("penstock_server/service/respond.py", "response"),
    ("penstock_server/service/classification.py", "response"),
    ("penstock_server/engine/assembly.py", "response"),
    ("penstock_server/service/", "service"),
    ("penstock_server/engine/", "engine"),
    ("penstock_scheduler/", "scheduler"),
    ("penstock_server/backends/", "backend"),
    ("penstock_server/metrics/", "metrics"),
    ("site-packages/grpc/", "transport"),
    ("site-packages/google/", "protobuf"),
    ("penstock_proto/", "protobuf"),
    ("site-packages/onnxruntime/", "model"),
    ("/model.py", "model"),
)
"""By part of a file's path."""

LINES: tuple[tuple[str, str, str], ...] = (
    ("", r"\.(ParseFromString|FromString|MergeFromString|SerializeToString|SerializePartialToString)\(", "protobuf"),
    ("transport", r"\.(write|writelines|send|sendmsg|sendall|recv|recv_into)\(", "socket"),
)
"""A layer (empty: each), a pattern of a line of its source, and what the time in that line is instead."""

WAITS = frozenset(
    {
        *("epoll_wait", "epoll_pwait", "poll", "ppoll", "select", "pthread_cond_wait", "pthread_cond_timedwait"),
        *("pthread_cond_clockwait", "sem_wait", "sem_timedwait", "sem_clockwait", "PyThread_acquire_lock_timed"),
        *("take_gil", "nanosleep", "clock_nanosleep", "futex_wait", "__futex_abstimed_wait_common"),
    }
)
"""Functions of C in which a thread waits."""
_WAIT_DEPTH = 4
"""Frames further in than these functions, such as the system call."""

LOOP_PATHS = ("/asyncio/", "/uvloop/", "/selectors.py")

THREADS: tuple[tuple[str, str], ...] = (
    (r".*_poll_wrapper.*", "transport"),
    (r"event_engine|grpc.*|lifeguard|resolver-.*|default-exec.*|timer_manager|work_stealing.*", "transport"),
    (r"penstock model.*", "backend"),
)
"""By a thread's name, for threads that no frame tells of."""

ORDER = (
    *("transport", "socket", "http2", "grpc framing", "protobuf", "service", "engine", "scheduler", "backend"),
    *("model", "response", EVENT_LOOP, "metrics", OTHER),
)
"""As a request meets them."""


def layer_of(stack: Stack, source: SourceLine) -> str:
    """The layer, one of `ORDER`."""
    for frame in reversed(stack.frames):
        layer = _layer_of_path(frame)
        if layer:
            # Only the line that runs: what a function further in calls, that function's own line tells.
            return _by_line(layer, frame, source) if frame is stack.frames[-1] else layer
    found = layer_of_thread(stack.thread_name)
    if found != OTHER:
        return found
    return EVENT_LOOP if any(_is_loop(frame) for frame in stack.frames) else OTHER


def layer_of_thread(name: str) -> str:
    """The layer of a thread of which nothing else is known."""
    return next((layer for pattern, layer in THREADS if re.fullmatch(pattern, name)), OTHER)


def waits(stack: Stack) -> bool:
    """Whether the thread does nothing; only C's frames can tell."""
    return any(frame.function in WAITS for frame in stack.frames[-_WAIT_DEPTH:])


def _layer_of_path(frame: Frame) -> str:
    return next((layer for part, layer in PATHS if part in frame.file), "")


def _by_line(layer: str, frame: Frame, source: SourceLine) -> str:
    text = source(frame.file, frame.line)
    for own, pattern, instead in LINES:
        if own in ("", layer) and re.search(pattern, text):
            return instead
    return layer


def _is_loop(frame: Frame) -> bool:
    return any(part in frame.file for part in LOOP_PATHS)
