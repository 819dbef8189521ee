"""mosec: a front end in Rust, workers in Python. It speaks HTTP alone."""

from collections.abc import Sequence
from pathlib import Path

from penstock_bench.peers.bodies import raw
from penstock_bench.peers.installed import InstalledPeer
from penstock_bench.peers.models import ModelSet
from penstock_bench.peers.process import HOST


class Mosec(InstalledPeer):
    """One worker process, bodies of raw float32."""

    name = "mosec"
    title = "mosec 0.9.8"
    remark = "raw float32 bodies; waits 1 ms for a batch, its shortest wait; CPU includes its worker process"
    default = True
    requirements = ("mosec==0.9.8",)
    megabytes = 300
    bodies = raw("/inference")

    def command(self, python: Path, models: ModelSet, scratch: Path, port: int) -> Sequence[str]:
        address = ["--address", HOST, "--port", str(port), "--timeout", "60000", "--capacity", "4096"]
        return [str(python), "mosec_server.py", *address, "--log-level", "warning"]
