"""From the command to the supervisor.

The command becomes the supervisor by `exec`: the process stays the same for whoever has started it, and what the
command had loaded (gRPC among it) is gone. The settings travel in a file in memory, which the supervisor hands on to
its workers unread.
"""

import os
import pickle
import signal
import sys
from typing import NoReturn

from penstock_server.app.logs import LogFormat, LogLevel
from penstock_server.app.settings import ServerSettings
from penstock_server.app.workers.plans import STOP_SIGNALS, Plan, command


def become_supervisor(settings: ServerSettings, log_level: LogLevel, log_format: LogFormat) -> NoReturn:
    """Replace this process by the supervisor of `settings.workers` workers. Its status is that of the whole."""
    plan = Plan(
        workers=settings.workers,
        host=settings.transport.host,
        port=settings.transport.port,
        metrics_port=settings.metrics_port,
        drain_seconds=settings.drain_seconds,
        log_level=log_level,
        log_format=log_format,
        settings_file=write_settings(settings),
    )
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    sys.stdout.flush()
    sys.stderr.flush()
    line = command("penstock_server.app.workers", plan)
    os.execv(line[0], line)


def write_settings(settings: ServerSettings) -> int:
    """A file in memory with the settings: its descriptor, which children inherit."""
    file = os.memfd_create("penstock settings", 0)
    os.write(file, pickle.dumps(settings))
    return file


def read_settings(file: int) -> ServerSettings:
    """The settings, as often as one likes. Only for files that this module has written."""
    settings = pickle.loads(os.pread(file, os.fstat(file).st_size, 0))
    assert isinstance(settings, ServerSettings)
    return settings
