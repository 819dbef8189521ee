"""What py-spy writes, read: the threads, the frames, and what to think of lines that are no stacks."""

import pytest

from penstock_bench.profiling.stacks import Frame, Stack, parse, short


def test_a_stack_has_a_thread_frames_and_samples() -> None:
    """The innermost frame is the last one; places are told apart from names."""
    text = "thread (7): MainThread;<module> (<string>:1);Loop.run (/a b/loop (old).py:12);f (x.so) 42\n"
    assert parse(text) == [
        Stack(
            7,
            "MainThread",
            [Frame("<module>", "<string>", 1), Frame("Loop.run (/a b/loop (old).py:12)"), Frame("f", "x.so")],
            42,
        )
    ]


def test_a_thread_may_have_no_name_and_no_frames() -> None:
    """Nothing is made up for it."""
    assert parse("thread (7) 3\nthread (8): x 4") == [Stack(7, "", [], 3), Stack(8, "x", [], 4)]


def test_a_command_line_is_no_stack() -> None:
    """However many lines and semicolons it has: a stack begins at its thread, of the innermost process."""
    text = 'process 1:"python -c \nimport a; f()\n 5";process 2:"x";thread (9): T;f (a.py:1) 6\n'
    assert parse(text) == [Stack(9, "T", [Frame("f", "a.py", 1)], 6)]


def test_torn_names_become_harmless() -> None:
    """Memory that was read while it changed may hold anything."""
    (stack,) = parse("thread (9): T;\x00 (\x00:753) 1")
    assert stack.frames == [Frame("\\x00", "\\x00", 753)]


def test_nothing_is_nothing_and_something_else_is_refused() -> None:
    """A server that did nothing has no stacks; another program's output is an error."""
    assert parse("\n") == []
    with pytest.raises(ValueError, match="no stacks of py-spy's: hello"):
        parse("hello\nworld")


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        ("/x/lib/python3.11/site-packages/onnxruntime/capi/a.py", "onnxruntime/capi/a.py"),
        ("/x/lib/python3.11/asyncio/runners.py", "asyncio/runners.py"),
        ("/home/me/server/penstock_server/service/decode.py", "penstock_server/service/decode.py"),
        ("/models/mine/1/model.py", "model.py"),
        ("<string>", "<string>"),
    ],
)
def test_paths_are_shown_from_their_package_on(file: str, shown: str) -> None:
    """Where something is installed says nothing."""
    assert short(file) == shown
