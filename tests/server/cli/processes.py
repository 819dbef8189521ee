"""`penstock` in a process of its own, as an operator starts it.

Servers log JSON, and the tests wait for records instead of sleeping: what the log promises is part of what is tested.
The environment is the caller's without what could lead elsewhere: Penstock's own variables, proxies, colours.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

MAIN = "from penstock_server.cli.main import main; main()"
# A shell's background jobs ignore Ctrl-C, and so would their children.
CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
PENSTOCK = (sys.executable, "-c", CTRL_C + MAIN)
END_SECONDS = 100.0

Record = Mapping[str, Any]
"""A line of the log."""


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child: a neutral one, and these variables."""
    own = ("PENSTOCK_", "FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "NO_COLOR", "COLUMNS")
    neutral = {k: v for k, v in os.environ.items() if not k.startswith(own) and not k.lower().endswith("_proxy")}
    return {**neutral, **(variables or {})}


def penstock(*arguments: object, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [*PENSTOCK, *map(str, arguments)]
    return subprocess.run(
        command, env=environment(variables), capture_output=True, text=True, timeout=END_SECONDS, encoding="utf-8"
    )


class Server:
    """A running `penstock serve` and its log, as far as it was read."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.records: list[Record] = []
        self.rest: list[str] = []
        """Lines that are no records: what is said to a shell."""

    @property
    def messages(self) -> list[str]:
        return [record["message"] for record in self.records]

    @property
    def target(self) -> str:
        """Where gRPC is, once it is served."""
        return f"127.0.0.1:{self.until('grpc_port')['grpc_port']}"

    @property
    def http(self) -> str:
        """Where metrics and health are, once they are served."""
        return f"http://127.0.0.1:{self.until('metrics_port')['metrics_port']}"

    def until(self, field: str, text: str = "") -> Record:
        """The first record that has this field, with this text in it. Reads on as far as it must."""
        for record in self.records:
            if field in record and text in str(record[field]):
                return record
        for record in self._read():
            if field in record and text in str(record[field]):
                return record
        raise AssertionError(f"it ended without a record of {field} {text!r}: {self.messages} {self.rest}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ends(self) -> int:
        """Read the log to its end, and wait. The exit status."""
        for _ in self._read():
            pass
        return self.process.wait(END_SECONDS)

    def _read(self) -> Iterator[Record]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{"):
                self.records.append(json.loads(line))
                yield self.records[-1]
            else:
                self.rest.append(line.rstrip("\n"))


@contextmanager
def serving(*arguments: object, patience: Mapping[str, float] | None = None) -> Iterator[Server]:
    """`penstock serve` with these arguments, on free ports unless they say otherwise. Killed at the end if need be.

    `patience` are times of modules, by their full names, that a test must not run into on a slow machine.
    """
    options: Sequence[object] = ("--log-format", "json", "--grpc-port", 0, "--metrics-port", 0, *arguments)
    times = "".join(f"import {name.rpartition('.')[0]}; {name} = {value}; " for name, value in (patience or {}).items())
    command = [sys.executable, "-c", times + MAIN, "serve", *map(str, options)]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Server(process)
        finally:
            process.kill()
