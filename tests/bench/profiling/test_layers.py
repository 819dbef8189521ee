"""Whose a stack is."""

import re
from pathlib import Path

import pytest

from penstock_bench.profiling.layers import LINES, ORDER, PATHS, THREADS, layer_of
from penstock_bench.profiling.stacks import Frame, Stack

REPOSITORY = Path(__file__).parents[3]
MAIN = Frame("run_until_signal", "/x/penstock_server/app/run.py", 36)
LOOP = Frame("Runner.run", "/usr/lib/python3.11/asyncio/runners.py", 118)
CALL = Frame("handle", "/x/penstock_server/transports/grpcio/calls.py", 104)
DECODE = Frame("decode", "/x/penstock_server/service/decode.py", 84)
NUMPY = Frame("frombuffer", "/x/site-packages/numpy/core.py", 1)
CODEC = Frame("view", "/x/penstock_server/tensors/codec.py", 29)
START = Frame("start", "/x/penstock_server/backends/runner.py", 73)
ORT = Frame("Session.run", "/x/site-packages/onnxruntime/capi/collection.py", 406)


def layer(*frames: Frame, line: str = "", name: str = "MainThread") -> str:
    """Of these frames, when the innermost one's line of source is this."""

    def source(file: str, number: int) -> str:
        return line if (file, number) == (frames[-1].file, frames[-1].line) else ""

    return layer_of(Stack(1, name, frames, 1), source)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([MAIN, LOOP], "event loop"),
        ([MAIN, LOOP, CALL], "transport"),
        ([MAIN, LOOP, CALL, DECODE], "service"),
        ([MAIN, LOOP, CALL, DECODE, CODEC, NUMPY], "service"),
        ([MAIN, LOOP, CALL, Frame("f", "/usr/lib/python3.11/asyncio/tasks.py", 5)], "transport"),
        ([MAIN, LOOP, Frame("f", "/x/penstock_server/http2/frames.py", 5)], "http2"),
        ([MAIN, LOOP, Frame("f", "/x/penstock_server/grpc_wire/messages.py", 5)], "grpc framing"),
        ([MAIN, LOOP, Frame("f", "/x/penstock_server/engine/turns.py", 5)], "engine"),
        ([MAIN, LOOP, Frame("f", "/x/penstock_server/engine/assembly.py", 5)], "response"),
        ([MAIN, LOOP, Frame("f", "/x/penstock_server/service/respond.py", 5)], "response"),
        ([MAIN, LOOP, Frame("f", "/x/penstock_scheduler/lanes.py", 5)], "scheduler"),
        ([MAIN, LOOP, START], "backend"),
        ([START, ORT], "model"),
        ([START, Frame("infer", "/models/mine/1/model.py", 9), NUMPY], "model"),
        ([MAIN, LOOP, Frame("copy", "/x/site-packages/google/protobuf/message.py", 5)], "protobuf"),
        ([MAIN], "other"),
        ([Frame("collect")], "other"),
    ],
)
def test_the_innermost_frame_of_a_layer_decides(frames: list[Frame], expected: str) -> None:
    """What many layers use counts for its caller; a layer comes before the loop that runs it."""
    assert layer(*frames) == expected


def test_calls_into_c_are_told_by_their_line() -> None:
    """Protobuf's parser and a socket have no frames of their own. Only the innermost line says what is running."""
    parse = "return scanned, ModelInferRequest.FromString(scanned.head)"
    assert layer(MAIN, LOOP, CALL, DECODE, line=parse) == "protobuf"
    assert layer(MAIN, LOOP, CALL, DECODE, CODEC, line=parse) == "service"
    assert layer(MAIN, LOOP, CALL, line="self._transport.write(data)") == "socket"
    assert layer(MAIN, LOOP, DECODE, line="self._sink.write(data)") == "service"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("event_engine", "transport"),
        ("Thread-1 (_poll_wrapper)", "transport"),
        ("penstock model 'iris' version 1", "backend"),
        ("python", "other"),
    ],
)
def test_a_thread_without_frames_of_a_layer_is_told_by_its_name(name: str, expected: str) -> None:
    """As gRPC's threads are; the frames come first where they tell something."""
    run = Frame("Thread.run", "/usr/lib/python3.11/threading.py", 982)
    assert layer(run, name=name) == expected
    assert layer(run, ORT, name=name) == "model"


def test_the_tables_name_layers_and_folders_that_are_there() -> None:
    """A layer that is not in the order would not be shown; a folder that was renamed would be nobody's."""
    named = {layer for _, layer in PATHS} | {layer for _, _, layer in LINES} | {layer for _, layer in THREADS}
    assert named <= set(ORDER)
    later = ("penstock_server/http2/", "penstock_server/grpc_wire/")  # come with other transports
    for part, _ in PATHS:
        package = part.partition("/")[0]
        root = {"penstock_server": "server", "penstock_scheduler": "scheduler", "penstock_proto": "proto"}.get(package)
        if root is not None and part not in later:
            assert (REPOSITORY / root / part).exists(), part
    for _, pattern, _ in LINES:
        re.compile(pattern)


def test_every_folder_of_the_server_has_a_layer_or_counts_for_its_caller() -> None:
    """Whoever adds one decides which."""
    of_the_caller = {"app", "cli", "examples", "models", "tensors"}
    there = {each.name for each in (REPOSITORY / "server/penstock_server").iterdir() if (each / "__init__.py").exists()}
    assert {each for each in there if not any(f"penstock_server/{each}/" in part for part, _ in PATHS)} <= of_the_caller
