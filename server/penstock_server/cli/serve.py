"""`penstock serve`: options to settings, and a server until a signal.

Every option is also an environment variable, `--grpc-port` is `PENSTOCK_GRPC_PORT`; what is typed wins.
`SETTINGS` makes it so by rule.
"""

import logging
import os
import resource
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.internal import api_implementation

from penstock_server.app.announce import announce, served_by
from penstock_server.app.logs import LogFormat, LogLevel, configure_logging
from penstock_server.app.run import NothingServed, run_until_signal
from penstock_server.app.settings import Compat, ServerSettings, TransportName
from penstock_server.app.trace import DEFAULT_LIMIT
from penstock_server.app.workers.launch import become_supervisor
from penstock_server.cli.addresses import is_loopback
from penstock_server.cli.output import fail
from penstock_server.cli.pems import check_authority, check_pair
from penstock_server.errors import BindError, LoadError
from penstock_server.transports.base import (
    DEFAULT_MAX_CONNECTIONS,
    DEFAULT_MAX_HELD_BYTES,
    DEFAULT_MAX_MESSAGE_BYTES,
    LARGEST_MESSAGE_BYTES,
    TlsSettings,
    TransportSettings,
)

SETTINGS = {"auto_envvar_prefix": "PENSTOCK"}
"""The command's context settings."""

_log = logging.getLogger(__name__)

_LARGEST_PORT = 65535
_LONGEST_DRAIN = 24 * 3600.0
_MOST_WORKERS = 1024

# The panels of --help.
_WHERE, _TLS, _MODELS, _BOUNDS = "Where to listen", "TLS", "Models and protocol", "Bounds"
_LOGS = "Logs and traces"


def _option(
    text: str,
    panel: str,
    *,
    metavar: str | None = None,
    min: float | None = None,
    max: float | None = None,
    show_default: bool | str = True,
) -> object:
    return typer.Option(
        help=text,
        rich_help_panel=panel,
        metavar=metavar,
        min=min,
        max=max,
        show_default=show_default,
        show_envvar=False,
    )


def _switch(name: str, text: str, panel: str) -> object:
    """A flag that has no opposite to type."""
    return typer.Option(name, help=text, rich_help_panel=panel, show_envvar=False)


def _port(text: str) -> object:
    return _option(text, _WHERE, metavar="PORT", min=0, max=_LARGEST_PORT)


def _workers(value: str | int) -> int:
    """How many are meant, by what was typed or by the default; `auto` is one for each core that we may use."""
    text = str(value)
    if text == "auto":
        return len(os.sched_getaffinity(0))
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_WORKERS:
        raise typer.BadParameter(f"'{text}' is neither a number from 1 to {_MOST_WORKERS} nor 'auto'")
    return int(text)


def _pem(text: str) -> object:
    return typer.Option(
        help=text, rich_help_panel=_TLS, metavar="PEM", exists=True, dir_okay=False, readable=True, show_envvar=False
    )


def serve(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_OR_REPOSITORY",
            help="A single `.onnx` file, or a folder of models in Triton's layout.",
            envvar="PENSTOCK_SOURCE",
            show_envvar=False,
        ),
    ],
    host: Annotated[
        str, _option("The address; beyond this machine only with TLS.", _WHERE, metavar="ADDRESS")
    ] = "127.0.0.1",
    grpc_port: Annotated[int, _port("The port of gRPC; 0: a free one.")] = 8001,
    metrics_port: Annotated[int, _port("The HTTP port of metrics and health; 0: a free one.")] = 8002,
    metrics: Annotated[bool, _option("Whether there is a metrics port.", _WHERE)] = True,
    transport: Annotated[
        TransportName, _option("What speaks gRPC: Penstock itself, or grpcio.", _WHERE)
    ] = TransportName.WIRE,
    workers: Annotated[
        int,
        typer.Option(
            help="Processes that share the port; auto: one a core.",
            rich_help_panel=_WHERE,
            metavar="N",
            parser=_workers,
            show_envvar=False,
        ),
    ] = 1,
    tls_cert: Annotated[Path | None, _pem("The server's certificate chain.")] = None,
    tls_key: Annotated[Path | None, _pem("Its private key.")] = None,
    tls_client_ca: Annotated[
        Path | None, _pem("Take only clients with a certificate of this authority (mTLS).")
    ] = None,
    insecure_ok: Annotated[bool, _switch("--insecure-ok", "Listen beyond this machine without TLS.", _TLS)] = False,
    max_batch_size: Annotated[
        int | None,
        _option(
            "The largest batch of models that do not say.",
            _MODELS,
            metavar="ROWS",
            min=0,
            show_default="64 for a single file, 4 in a repository",
        ),
    ] = None,
    compat: Annotated[Compat, _option("Be like Triton in names, texts and statuses.", _MODELS)] = Compat.NONE,
    reflection: Annotated[bool, _switch("--reflection", "Tell clients which services there are.", _MODELS)] = False,
    max_queue_rows: Annotated[
        int, _option("Rows that may wait for each model.", _BOUNDS, metavar="ROWS", min=1)
    ] = 4096,
    max_queue_bytes: Annotated[
        int,
        _option("Bytes that may wait for each model.", _BOUNDS, metavar="BYTES", min=1024, show_default="1 GiB"),
    ] = 1 << 30,
    max_total_queue_rows: Annotated[
        int, _option("Rows that may wait for all models.", _BOUNDS, metavar="ROWS", min=1, show_default="1048576")
    ] = 1 << 20,
    max_running: Annotated[
        int | None,
        _option(
            "Batches that run at once over all models, which then take turns.",
            _BOUNDS,
            metavar="BATCHES",
            min=1,
            show_default="each model by itself",
        ),
    ] = None,
    inline_microseconds: Annotated[
        int,
        _option(
            "Run batches that take less on the event loop; 0: never.",
            _MODELS,
            metavar="MICROSECONDS",
            min=0,
            max=10_000,
        ),
    ] = 200,
    awake_microseconds: Annotated[
        int,
        _option(
            "Look so long for what comes after answers before the core may sleep; 0: not at all.",
            _MODELS,
            metavar="MICROSECONDS",
            min=0,
            max=10_000,
        ),
    ] = 50,
    tenant_key: Annotated[
        str, _option("The metadata key that names a request's tenant.", _MODELS, metavar="KEY", show_default="none")
    ] = "",
    max_message_bytes: Annotated[
        int | None,
        _option(
            "The largest request or response.",
            _BOUNDS,
            metavar="BYTES",
            min=1024,
            max=LARGEST_MESSAGE_BYTES,
            show_default="64 MiB; 2 GiB with --compat triton",
        ),
    ] = None,
    max_inflight_bytes: Annotated[
        int,
        _option("All requests that are held at once.", _BOUNDS, metavar="BYTES", min=1024, show_default="1 GiB"),
    ] = 1 << 30,
    max_connections: Annotated[
        int, _option("Connections at once, with `--transport wire`.", _BOUNDS, metavar="N", min=1)
    ] = DEFAULT_MAX_CONNECTIONS,
    max_held_bytes: Annotated[
        int | None,
        _option(
            "What all connections hold that is no request yet or no more, with `--transport wire`.",
            _BOUNDS,
            metavar="BYTES",
            min=1 << 20,
            show_default="1 GiB, and twice the largest message",
        ),
    ] = None,
    drain_seconds: Annotated[
        float,
        _option(
            "How long requests may take to end after SIGTERM.",
            _BOUNDS,
            metavar="SECONDS",
            min=0,
            max=_LONGEST_DRAIN,
        ),
    ] = 30.0,
    log_level: Annotated[LogLevel, _option("How much to log.", _LOGS)] = LogLevel.INFO,
    log_format: Annotated[LogFormat, _option("Text for people, JSON for collectors.", _LOGS)] = LogFormat.TEXT,
    record_trace: Annotated[
        Path | None,
        _option("Write when requests come in, for `penstock simulate`.", _LOGS, metavar="FILE"),
    ] = None,
    record_limit: Annotated[
        int, _option("Requests after which the trace ends.", _LOGS, metavar="N", min=1)
    ] = DEFAULT_LIMIT,
) -> int:
    """Serve models over gRPC.

    `penstock serve model.onnx` serves one file without any configuration, `penstock serve models/` a whole
    repository. What is served where is told in the log.

    A model that cannot be loaded does not keep the others from being served; readiness tells. SIGTERM and
    Ctrl-C drain: what was accepted is answered. Then it exits with 0, or with 1 if something had to be cut off.

    Every option is also an environment variable: `--grpc-port` is `PENSTOCK_GRPC_PORT`. What is served is
    `PENSTOCK_SOURCE`.
    """
    configure_logging(log_level, log_format)
    if api_implementation.Type() != "upb":
        # The pure Python parser is a hundred times slower and has had flaws of its own (CVE-2025-4565).
        fail("protobuf runs without its C library: unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", 2)
    if max_message_bytes is None:
        max_message_bytes = LARGEST_MESSAGE_BYTES if compat is Compat.TRITON else DEFAULT_MAX_MESSAGE_BYTES
    if max_held_bytes is None:
        max_held_bytes = max(DEFAULT_MAX_HELD_BYTES, 2 * max_message_bytes)
    _allow_open_files()
    tls = _tls(tls_cert, tls_key, tls_client_ca)
    if tls is None and not insecure_ok and not is_loopback(host):
        fail(f"will not listen on {host} without TLS: give --tls-cert and --tls-key, or --insecure-ok", 2)
    if metrics and grpc_port and grpc_port == metrics_port:
        fail(f"--grpc-port and --metrics-port are both {grpc_port}: give them different ports", 2)
    settings = ServerSettings(
        source=source,
        workers=workers,
        transport=TransportSettings(
            host=host,
            port=grpc_port,
            tls=tls,
            max_message_bytes=max_message_bytes,
            max_connections=max_connections,
            max_held_bytes=max_held_bytes,
            busy_poll=awake_microseconds / 1e6,
        ),
        transport_name=transport,
        metrics_port=metrics_port if metrics else None,
        compat=compat,
        reflection=reflection,
        max_batch_size=max_batch_size,
        max_queued_rows=max_queue_rows,
        max_queued_bytes=max_queue_bytes,
        max_total_queued_rows=max_total_queue_rows,
        max_running=max_running,
        inline_below=inline_microseconds / 1e6,
        tenant_key=tenant_key.lower(),
        max_inflight_bytes=max_inflight_bytes,
        drain_seconds=drain_seconds,
        record_trace=record_trace,
        record_limit=record_limit,
    )
    if settings.workers > 1:
        if record_trace is not None:
            fail("--record-trace writes what one process sees: use it with --workers 1", 2)
        become_supervisor(settings, log_level, log_format)
    try:
        drained = run_until_signal(settings, lambda server: announce(served_by(server)))
    except NothingServed as error:
        fail(str(error), 1)
    except (LoadError, BindError) as error:
        fail(str(error), 2)
    return 0 if drained else 1


def _allow_open_files() -> None:
    """Have as many files open as this process may: each connection is one, and shells start with few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (ValueError, OSError) as error:  # a sandbox: there are as many as there are
        _log.debug("the limit on open files stays as it is: %s", error)


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsSettings | None:
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        fail("TLS needs both --tls-cert and --tls-key", 2)
    check_pair(certificate, key)
    if client_ca is not None:
        check_authority(client_ca, "--tls-client-ca")
    return TlsSettings(certificate, key, client_ca)
