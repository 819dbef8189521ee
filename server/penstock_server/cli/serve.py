"""`penstock serve`: options to settings, and a server until a signal."""

import ipaddress
import logging
from pathlib import Path
from typing import Annotated

import typer

from penstock_server.app.logs import LogFormat, LogLevel, configure_logging
from penstock_server.app.run import run_until_signal
from penstock_server.app.server import PenstockServer
from penstock_server.app.settings import Compat, ServerSettings, TransportName
from penstock_server.cli.output import fail
from penstock_server.errors import BindError, LoadError
from penstock_server.transports.base import (
    DEFAULT_MAX_MESSAGE_BYTES,
    LARGEST_MESSAGE_BYTES,
    TlsSettings,
    TransportSettings,
)

_log = logging.getLogger(__name__)

_LARGEST_PORT = 65535


def serve(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_OR_REPOSITORY",
            help="A folder of models in Triton's layout, or a single `.onnx` file.",
            envvar="PENSTOCK_SOURCE",
        ),
    ],
    host: Annotated[str, typer.Option(help="The address to listen on.", envvar="PENSTOCK_HOST")] = "127.0.0.1",
    grpc_port: Annotated[
        int,
        typer.Option(help="The gRPC port; 0: a free one.", envvar="PENSTOCK_GRPC_PORT", min=0, max=_LARGEST_PORT),
    ] = 8001,
    metrics_port: Annotated[
        int,
        typer.Option(
            help="The HTTP port of /metrics and health; 0: a free one.",
            envvar="PENSTOCK_METRICS_PORT",
            min=0,
            max=_LARGEST_PORT,
        ),
    ] = 8002,
    metrics: Annotated[bool, typer.Option(help="Whether there is a metrics port.", envvar="PENSTOCK_METRICS")] = True,
    transport: Annotated[
        TransportName, typer.Option(help="What speaks gRPC.", envvar="PENSTOCK_TRANSPORT")
    ] = TransportName.GRPCIO,
    tls_cert: Annotated[
        Path | None, typer.Option(help="The server's certificate chain (PEM).", envvar="PENSTOCK_TLS_CERT")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).", envvar="PENSTOCK_TLS_KEY")] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            help="Require clients to present a certificate of this authority (PEM).", envvar="PENSTOCK_TLS_CLIENT_CA"
        ),
    ] = None,
    insecure_ok: Annotated[
        bool,
        typer.Option("--insecure-ok", help="Listen beyond this machine without TLS.", envvar="PENSTOCK_INSECURE_OK"),
    ] = False,
    max_batch_size: Annotated[
        int | None,
        typer.Option(
            help="Rows of a batch, for models that do not say. Default: 64 for a single file, 4 in a repository.",
            envvar="PENSTOCK_MAX_BATCH_SIZE",
            min=0,
        ),
    ] = None,
    max_queue_rows: Annotated[
        int, typer.Option(help="Rows that may wait for each model.", envvar="PENSTOCK_MAX_QUEUE_ROWS", min=1)
    ] = 4096,
    max_message_bytes: Annotated[
        int | None,
        typer.Option(
            help="The largest request and response. Default: 64 MiB, with `--compat triton` 2 GiB.",
            envvar="PENSTOCK_MAX_MESSAGE_BYTES",
            min=1024,
            max=LARGEST_MESSAGE_BYTES,
        ),
    ] = None,
    max_inflight_bytes: Annotated[
        int,
        typer.Option(
            help="Bytes of requests held at once, over all models.", envvar="PENSTOCK_MAX_INFLIGHT_BYTES", min=1024
        ),
    ] = 1 << 30,
    compat: Annotated[
        Compat, typer.Option(help="Be like Triton in names, texts and statuses.", envvar="PENSTOCK_COMPAT")
    ] = Compat.NONE,
    reflection: Annotated[
        bool, typer.Option("--reflection", help="Tell clients the services.", envvar="PENSTOCK_REFLECTION")
    ] = False,
    drain_seconds: Annotated[
        float,
        typer.Option(help="How long requests may take to end after SIGTERM.", envvar="PENSTOCK_DRAIN_SECONDS", min=0),
    ] = 30.0,
    log_level: Annotated[LogLevel, typer.Option(help="How much to log.", envvar="PENSTOCK_LOG_LEVEL")] = LogLevel.INFO,
    log_format: Annotated[
        LogFormat, typer.Option(help="Text for people, JSON for collectors.", envvar="PENSTOCK_LOG_FORMAT")
    ] = LogFormat.TEXT,
) -> int:
    """Serve models over gRPC.

    `penstock serve model.onnx` serves one file without any configuration; `penstock serve models/` a whole
    repository. SIGTERM or Ctrl-C drains: running requests are answered, then it exits with 0.
    """
    configure_logging(log_level, log_format)
    if max_message_bytes is None:
        max_message_bytes = LARGEST_MESSAGE_BYTES if compat is Compat.TRITON else DEFAULT_MAX_MESSAGE_BYTES
    tls = _tls(tls_cert, tls_key, tls_client_ca)
    if tls is None and not insecure_ok and not _is_loopback(host):
        fail(f"will not listen on {host} without TLS: give --tls-cert and --tls-key, or --insecure-ok", 2)
    settings = ServerSettings(
        source=source,
        transport=TransportSettings(host=host, port=grpc_port, tls=tls, max_message_bytes=max_message_bytes),
        transport_name=transport,
        metrics_port=metrics_port if metrics else None,
        compat=compat,
        reflection=reflection,
        max_batch_size=max_batch_size,
        max_queued_rows=max_queue_rows,
        max_inflight_bytes=max_inflight_bytes,
        drain_seconds=drain_seconds,
    )
    try:
        drained = run_until_signal(settings, _announce)
    except (LoadError, BindError) as error:
        fail(str(error), 2)
    return 0 if drained else 1


def _tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> TlsSettings | None:
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        fail("TLS needs both --tls-cert and --tls-key", 2)
    return TlsSettings(certificate, key, client_ca)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _announce(server: PenstockServer) -> None:
    """Say what is served where."""
    for version in server.models.versions():
        _log.info("serving model '%s' version %d: %s", version.spec.name, version.version, version.spec.describe())
    for model in server.models:
        if not model.ready:
            _log.error("NOT serving all of model '%s': see above", model.name)
    host = server.settings.transport.host
    secure = " with TLS" if server.settings.transport.tls else ""
    _log.info("gRPC%s on %s:%d", secure, host, server.port)
    if server.metrics_port:
        _log.info("metrics and health on http://%s:%d/metrics", host, server.metrics_port)
    _log.info("the server is %s", "ready" if server.state.ready else "NOT ready: not every model could be loaded")
