"""Collapsed stacks, as `py-spy record --format raw --threads --subprocesses --full-filenames` writes them.

    process 12:"python serve";thread (123): MainThread;run (/x/runners.py:118);Inference.call (/x/inference.py:56) 42

The outermost frame comes first, then the number of samples. A process's frame holds its command line as it is, with
line ends and semicolons if it has any; so a stack begins at its thread, and what has no thread is no stack.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from penstock_bench.output import escape

_FRAME = re.compile(r"(?P<function>.*?) \((?P<file>[^()]+?)(?::(?P<line>\d+))?\)")
_STACK = re.compile(
    r"(?:^|;)thread \((?P<thread>\d+)\)(?:: (?P<name>[^;]*?))?(?P<frames>(?:;[^;]*)*) (?P<samples>\d+)$"
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One function that was running."""

    function: str
    file: str = ""
    """Empty: not known."""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.function} ({short(self.file)}:{self.line})" if self.file else self.function


@dataclass(frozen=True, slots=True)
class Stack:
    """Where a thread was, so many times."""

    thread: int
    """As the kernel numbers threads."""
    thread_name: str
    frames: Sequence[Frame]
    """The innermost one is the last."""
    samples: int


def parse(text: str) -> list[Stack]:
    """The stacks of a recording. Raises ValueError if something is written there and nothing of it is a stack."""
    found = [stack for line in text.split("\n") if (stack := _stack(line)) is not None]
    if not found and text.strip():
        raise ValueError(f"these are no stacks of py-spy's: {text.strip()[:80]}")
    return found


def _stack(line: str) -> Stack | None:
    match = _STACK.search(line)
    if match is None:
        return None
    # What was read while it changed may be anything, control characters among it.
    frames = [_frame(escape(text)) for text in match["frames"].split(";") if text]
    return Stack(int(match["thread"]), match["name"] or "", frames, int(match["samples"]))


def _frame(text: str) -> Frame:
    match = _FRAME.fullmatch(text)
    return Frame(text) if match is None else Frame(match["function"], match["file"], int(match["line"] or 0))


def short(file: str) -> str:
    """A path from its package on."""
    for folder in ("site-packages/", "/lib/python3"):
        if folder in file:
            rest = file.rpartition(folder)[2]
            return rest if folder == "site-packages/" else rest.partition("/")[2]
    for package in ("penstock_server", "penstock_scheduler", "penstock_proto"):
        if f"/{package}/" in file:
            return package + file.rpartition(f"/{package}")[2]
    return file.rpartition("/")[2]
