"""Ray Serve: an HTTP proxy and a replica, each a process of a small Ray cluster on loopback."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from penstock_bench.peers.bodies import raw
from penstock_bench.peers.installed import InstalledPeer
from penstock_bench.peers.models import ModelSet


class RayServe(InstalledPeer):
    """One replica."""

    name = "ray-serve"
    title = "Ray Serve 2.60.0"
    remark = "raw float32 bodies; CPU includes all processes of its cluster"
    requirements = ("ray[serve]==2.60.0",)
    megabytes = 900
    ready_seconds = 150.0
    bodies = raw("/")

    def command(self, python: Path, models: ModelSet, scratch: Path, port: int) -> Sequence[str]:
        return [str(python), "ray_server.py"]

    def variables(self, scratch: Path, port: int) -> Mapping[str, str]:
        return {"RAY_TMPDIR": str(scratch), "PYTHONPATH": str(scratch), "RAY_DISABLE_IMPORT_WARNING": "1"}
