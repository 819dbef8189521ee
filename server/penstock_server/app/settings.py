"""What an operator can choose, in one place."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from penstock_server.app.trace import DEFAULT_LIMIT
from penstock_server.backends.inline import INLINE_SECONDS
from penstock_server.service.dialect import PENSTOCK, TRITON, Dialect
from penstock_server.transports.base import TransportSettings


class Compat(Enum):
    """Whom to be like where the protocol leaves a choice."""

    NONE = "none"
    TRITON = "triton"

    @property
    def dialect(self) -> Dialect:
        return TRITON if self is Compat.TRITON else PENSTOCK


class TransportName(Enum):
    """The transports there are."""

    GRPCIO = "grpcio"
    WIRE = "wire"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The settings of a server."""

    source: Path
    """A model repository, or a single `.onnx` file."""
    workers: int = 1
    """Processes that serve the port; each is a server of its own, for which the bounds below hold."""
    transport: TransportSettings = field(default_factory=TransportSettings)
    transport_name: TransportName = TransportName.WIRE
    metrics_port: int | None = 8002
    """0: any free one. None: no metrics port."""
    compat: Compat = Compat.NONE
    reflection: bool = False
    max_batch_size: int | None = None
    """For models that do not say; None: 64 for a single file, 4 in a repository, as Triton."""
    max_queued_rows: int = 4096
    max_queued_bytes: int = 1 << 30
    """The bounds of each model's queue."""
    max_total_queued_rows: int = 1 << 20
    """The bound of all queues together."""
    max_running: int | None = None
    """Batches that run at once over all models, which then take turns. None: each model by itself."""
    inline_below: float = INLINE_SECONDS
    """Seconds: shorter batches of models on the CPU run on the event loop; 0: none does."""
    tenant_key: str = ""
    """The metadata key that names a request's tenant; empty: there are no tenants."""
    max_inflight_bytes: int = 1 << 30
    """Of requests that are held at once, over all models."""
    drain_seconds: float = 30.0
    """How long a drain may take before calls are cut off."""
    record_trace: Path | None = None
    """Where to write a trace of the requests that come in; None: nowhere."""
    record_limit: int = DEFAULT_LIMIT
    """Requests after which the trace ends."""
