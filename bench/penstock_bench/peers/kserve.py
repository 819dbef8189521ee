"""KServe's Python server, over gRPC. Its Python side does not batch: that is another container's job."""

from collections.abc import Sequence
from pathlib import Path

from penstock_bench.peers.installed import InstalledPeer
from penstock_bench.peers.models import ModelSet


class KServe(InstalledPeer):
    """Only the gRPC server of it runs."""

    name = "kserve"
    title = "KServe 0.21.0 (Python server)"
    protocol = "gRPC"
    remark = "no dynamic batching in its Python server"
    default = True
    requirements = ("kserve==0.21.0", "grpcio==1.85.1", "protobuf==6.33.6")
    megabytes = 700

    def command(self, python: Path, models: ModelSet, scratch: Path, port: int) -> Sequence[str]:
        return [str(python), "kserve_server.py"]
