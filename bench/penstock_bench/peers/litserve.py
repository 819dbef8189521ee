"""LitServe: FastAPI in front, worker processes behind a queue."""

from collections.abc import Sequence
from pathlib import Path

from penstock_bench.peers.bodies import text
from penstock_bench.peers.installed import InstalledPeer
from penstock_bench.peers.models import ModelSet


class LitServe(InstalledPeer):
    """One worker, one API process."""

    name = "litserve"
    title = "LitServe 0.2.19"
    remark = "JSON with base64, since it takes no raw bodies; batches within 1 ms; CPU includes its worker process"
    requirements = ("litserve==0.2.19",)
    megabytes = 350
    bodies = text("/predict")

    def command(self, python: Path, models: ModelSet, scratch: Path, port: int) -> Sequence[str]:
        return [str(python), "litserve_server.py"]
