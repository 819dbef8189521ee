"""Logs for people or for machines, on standard error.

Whatever a client sent may end up in a message or in the text of an exception, so control characters are
escaped and tracebacks are indented: nobody writes lines into the log that the server did not, and nobody
moves a terminal's cursor. JSON is ASCII, one object a line, whatever a collector takes for a line's end.

A record may carry values of its own for machines, `extra={"fields": {"grpc_port": 8001}}`: the JSON format
shows them under their names, the text format leaves them to the message.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from enum import Enum

# Besides control characters proper: what ends a line, turns the reading direction, or is half a character.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class LogFormat(Enum):
    """Text for terminals, JSON for collectors."""

    TEXT = "text"
    JSON = "json"


class LogLevel(Enum):
    """From everything to trouble only."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def configure_logging(level: LogLevel, form: LogFormat, worker: int | None = None) -> None:
    """Send the logs of the whole process to standard error. If it is one of several workers, each line says which."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(worker) if form is LogFormat.JSON else TextFormatter(worker))
    logging.basicConfig(level=level.name, handlers=[handler], force=True)
    # asyncio's own debug lines are about the loop, not about us.
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def escape(text: str) -> str:
    """The text with its control characters written out, so that it is one line."""
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def one_line(message: str) -> str:
    """A message of any number of lines as one, for a shell."""
    lines = (line.strip() for line in message.splitlines())
    return "; ".join(escape(line) for line in lines if line)


def _when(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO    engine.loading: model 'iris' version 1 is ready`.

    Below it the traceback, if there is one, indented. A worker stands before the place: `[worker 2] engine.loading`.
    """

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker = "" if worker is None else f"[worker {worker}] "

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.removeprefix("penstock_server.")
        error_id = getattr(record, "error_id", None)
        mark = f" [error id {error_id}]" if error_id else ""
        line = f"{_when(record)} {record.levelname:<7} {self._worker}{name}: {escape(record.getMessage())}{mark}"
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        return "\n".join([line, *(f"    {escape(each)}" for each in trace.splitlines())])


class JsonFormatter(logging.Formatter):
    """An object a line: the record's own fields; time, level, logger, message; if any: worker, error_id, exception."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._worker: dict[str, object] = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            **getattr(record, "fields", {}),
            **self._worker,
            "time": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _encodable(record.getMessage()),
        }
        error_id = getattr(record, "error_id", None)
        if error_id:
            fields["error_id"] = str(error_id)
        if record.exc_info:
            fields["exception"] = _encodable(self.formatException(record.exc_info))
        return json.dumps(fields)


def _encodable(text: str) -> str:
    """The text with lone surrogates written out: names of files may hold them, and not every parser takes them."""
    return text.encode(errors="backslashreplace").decode()
