"""BentoML: Starlette in front, and an adaptive batcher in the same process."""

from collections.abc import Sequence
from pathlib import Path

from penstock_bench.peers.bodies import text
from penstock_bench.peers.installed import InstalledPeer
from penstock_bench.peers.models import ModelSet
from penstock_bench.peers.process import HOST


class BentoML(InstalledPeer):
    """One worker."""

    name = "bentoml"
    title = "BentoML 1.4.40"
    remark = "JSON with base64, since its batched interfaces take no raw bodies"
    requirements = ("bentoml==1.4.40",)
    megabytes = 400
    bodies = text("/infer", lists=True)

    def command(self, python: Path, models: ModelSet, scratch: Path, port: int) -> Sequence[str]:
        where = ["--host", HOST, "--port", str(port), "--working-dir", str(scratch)]
        return [str(python), "-m", "bentoml", "serve", "bentoml_service:Served", *where]
