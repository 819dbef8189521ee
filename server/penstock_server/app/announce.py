"""What a server says of itself once it serves, in the log: for people, and in fields for whoever started it."""

import logging
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from penstock_server.app.server import PenstockServer

_log = logging.getLogger(__name__)


class ServedModelVersion(msgspec.Struct, frozen=True):
    """A version that is served, and in one line what it takes and gives."""

    model: str
    version: int
    summary: str


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What is served where."""

    host: str
    grpc_port: int
    metrics_port: int
    """0: none."""
    tls: bool
    versions: tuple[ServedModelVersion, ...]
    unready: tuple[str, ...]
    """Models that are not served, or not as they should be."""
    ready: bool
    workers: int = 1


def served_by(server: "PenstockServer") -> Served:
    """What this server, which has started, serves."""
    return Served(
        host=server.settings.transport.host,
        grpc_port=server.port,
        metrics_port=server.metrics_port,
        tls=server.settings.transport.tls is not None,
        versions=tuple(
            ServedModelVersion(version.spec.name, version.version, version.spec.describe())
            for version in server.models.versions()
        ),
        unready=tuple(model.name for model in server.models if not model.ready),
        ready=server.state.ready,
        workers=server.settings.workers,
    )


def announce(served: Served) -> None:
    """Say it."""
    for each in served.versions:
        fields: dict[str, object] = {"model": each.model, "version": each.version}
        _log.info("serving model '%s' version %d: %s", each.model, each.version, each.summary, extra={"fields": fields})
    for model in served.unready:
        _log.error("NOT serving all of model '%s': see above", model, extra={"fields": {"model": model}})
    host = f"[{served.host}]" if ":" in served.host else served.host
    secure = " with TLS" if served.tls else ""
    fields = {"grpc_port": served.grpc_port}
    if served.workers > 1:
        fields["workers"] = served.workers
        secure += f" by {served.workers} workers"
    _log.info("gRPC%s on %s:%d", secure, host, served.grpc_port, extra={"fields": fields})
    if served.metrics_port:
        fields = {"metrics_port": served.metrics_port}
        _log.info("metrics and health on http://%s:%d/metrics", host, served.metrics_port, extra={"fields": fields})
    if served.ready:
        _log.info("the server is ready", extra={"fields": {"ready": True}})
    else:
        _log.warning("the server is NOT ready: not every model could be loaded", extra={"fields": {"ready": False}})
