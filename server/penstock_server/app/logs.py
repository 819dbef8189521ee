"""Logs for people or for machines, on standard error.

Whatever a client sent may end up in a message, so control characters are escaped: nobody writes lines
into the log that the server did not.
"""

import logging
import re
import sys
from datetime import UTC, datetime
from enum import Enum

import msgspec

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


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


def configure_logging(level: LogLevel, form: LogFormat) -> None:
    """Send the logs of the whole process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else TextFormatter())
    logging.basicConfig(level=level.name, handlers=[handler], force=True)
    # asyncio's own debug lines are about the loop, not about us.
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def escape(text: str) -> str:
    """The text with its control characters written out."""
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def _when(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO  engine.loading: model 'iris' version 1 is ready`."""

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.removeprefix("penstock_server.")
        error_id = getattr(record, "error_id", None)
        mark = f" [error id {error_id}]" if error_id else ""
        line = f"{_when(record)} {record.levelname:<7} {name}: {escape(record.getMessage())}{mark}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and error_id and exception where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, str] = {
            "time": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        error_id = getattr(record, "error_id", None)
        if error_id:
            fields["error_id"] = str(error_id)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()
