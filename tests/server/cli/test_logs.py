"""The two formats of the log, and that a client's text is never more than text in either."""

import io
import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock_server.app.logs import JsonFormatter, LogFormat, LogLevel, TextFormatter, configure_logging, escape

FORGED = "harmless\n2026-01-31T12:00:00.000Z INFO    app.run: all is well\x1b[2J\r\u2028\u202e\x85end"
"""What a client may send who wants to write a line of the log, or on the terminal of who reads it."""
FORGED_ESCAPED = r"harmless\n2026-01-31T12:00:00.000Z INFO    app.run: all is well\x1b[2J\r\u2028\u202e\x85end"


def record(message: str, *args: object, level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    """A record of the server's, made at a fixed time."""
    made = logging.getLogger("penstock_server.engine.loading").makeRecord(
        "penstock_server.engine.loading", level, __file__, 1, message, args, None, extra=extra
    )
    made.created = 1769860800.25
    return made


def failed_record(text: str) -> logging.LogRecord:
    """The record of an exception with this text, whose cause has it too."""
    made = record("it failed", level=logging.ERROR, error_id="c0ffee00")
    try:
        try:
            raise KeyError(text)
        except KeyError as cause:
            raise ValueError(text) from cause
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def as_json(made: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = json.loads(JsonFormatter().format(made))
    return fields


# ── text ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_line_of_text_has_time_level_place_and_message() -> None:
    """Time in UTC with milliseconds, and the logger without the part that they all share."""
    line = TextFormatter().format(record("model '%s' is ready", "iris"))
    assert line == "2026-01-31T12:00:00.250Z INFO    engine.loading: model 'iris' is ready"


def test_an_error_id_ends_the_line() -> None:
    """It is what the client was told; the operator searches for it."""
    assert TextFormatter().format(record("it failed", error_id="c0ffee00")).endswith(" it failed [error id c0ffee00]")


def test_what_a_client_sends_cannot_make_a_line_of_text() -> None:
    """Whatever ends a line or moves a cursor is written out."""
    line = TextFormatter().format(record("refused '%s'", FORGED))
    assert line == f"2026-01-31T12:00:00.250Z INFO    engine.loading: refused '{FORGED_ESCAPED}'"


def test_a_traceback_is_indented_and_escaped() -> None:
    """The text of an exception may be a client's too: none of its lines can be taken for one of the log."""
    first, *trace = TextFormatter().format(failed_record(FORGED)).splitlines()
    assert first.endswith("it failed [error id c0ffee00]")
    assert trace[0] == "    Traceback (most recent call last):"
    assert any(line.startswith("    ValueError: harmless") for line in trace)
    assert all(line.startswith("    ") and line.isprintable() for line in trace)


@given(st.text(st.characters()))
@example("half a pair \udcff")
def test_escaped_text_is_one_line_of_printable_text(text: str) -> None:
    """For all of Unicode: no line break is left, no control character, no half of a pair; the rest stays."""
    escaped = escape(text)
    assert len(escaped.splitlines()) <= 1
    assert all(ord(character) >= 0x20 and not 0x7F <= ord(character) <= 0x9F for character in escaped)
    escaped.encode()
    if text.isprintable():
        assert escaped == text


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_json_record_has_time_level_logger_and_message() -> None:
    """The names are what collectors expect; nothing is there that is empty."""
    assert as_json(record("model '%s' is ready", "iris")) == {
        "time": "2026-01-31T12:00:00.250Z",
        "level": "info",
        "logger": "penstock_server.engine.loading",
        "message": "model 'iris' is ready",
    }


def test_a_json_record_of_a_failure_has_error_id_and_exception() -> None:
    """The whole traceback is one field, with what it holds intact."""
    made = as_json(failed_record(FORGED))
    assert made["error_id"] == "c0ffee00"
    assert made["level"] == "error"
    assert made["exception"].startswith("Traceback (most recent call last):\n")
    assert made["exception"].endswith(f"ValueError: {FORGED}")


def test_a_record_carries_fields_for_machines() -> None:
    """They stand beside the record's own, which they cannot replace."""
    fields = {"grpc_port": 8001, "level": "fake"}
    made = as_json(record("gRPC on port %d", 8001, fields=fields))
    assert made["grpc_port"] == 8001
    assert made["level"] == "info"
    assert TextFormatter().format(record("gRPC on port %d", 8001, fields=fields)).endswith(": gRPC on port 8001")


@given(st.text(st.characters()))
@example("half a pair \udcff")
def test_a_json_record_is_one_line_of_ascii(text: str) -> None:
    """For all of Unicode, half pairs too: one line whatever a collector splits at, and the message comes back."""
    line = JsonFormatter().format(record("%s", text))
    assert line.isascii()
    assert line.isprintable()
    message = json.loads(line)["message"]
    assert message == text.encode(errors="backslashreplace").decode()


def test_a_worker_is_named_on_each_of_its_lines() -> None:
    """Several processes write one log: a field for machines, a mark before the place for people."""
    made = record("model '%s' is ready", "iris")
    line = TextFormatter(2).format(made)
    assert line == "2026-01-31T12:00:00.250Z INFO    [worker 2] engine.loading: model 'iris' is ready"
    assert json.loads(JsonFormatter(2).format(made))["worker"] == 2
    assert "worker" not in as_json(made)


# ── the process ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("form", "start"), [(LogFormat.TEXT, "20"), (LogFormat.JSON, "{")])
def test_all_loggers_write_to_standard_error(form: LogFormat, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the level on that was chosen, libraries' warnings too, each record once."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging(LogLevel.INFO, LogFormat.TEXT)  # a second call replaces what the first has set up
    configure_logging(LogLevel.WARNING, form)
    logging.getLogger("penstock_server.app").info("too little")
    logging.getLogger("penstock_server.app").warning("ours")
    logging.getLogger("some.library").error("theirs")
    ours, theirs = stream.getvalue().splitlines()
    assert ours.startswith(start)
    assert "ours" in ours
    assert "theirs" in theirs
