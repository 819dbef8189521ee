"""What each process of a server with workers is told on its command line.

No module that a supervisor needs may import this server's settings: with them come numpy and the models.

SIGTERM and SIGINT are blocked from before a supervisor or a worker is started until it is ready to obey them: none is
lost, and none meets a process that does not know yet what to do with it.
"""

import signal
import sys

import msgspec

from penstock_server.app.logs import LogFormat, LogLevel

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor is told."""

    workers: int
    host: str
    port: int
    metrics_port: int | None
    drain_seconds: float
    log_level: LogLevel
    log_format: LogFormat
    settings_file: int
    """The descriptor of the file with the settings, for the workers."""


class Post(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told besides its settings."""

    worker: int
    """Its number, from 1 on."""
    port: int
    log_level: LogLevel
    log_format: LogFormat
    settings_file: int
    link: int
    """The descriptor of its end of the link."""


def command(module: str, told: Plan | Post) -> list[str]:
    """The command line of a process that runs this module. -P: what lies in the current folder is not ours."""
    return [sys.executable, "-P", "-m", module, msgspec.json.encode(told).decode()]
