"""MLServer (Seldon), over gRPC."""

import json
from collections.abc import Sequence
from pathlib import Path

from penstock_bench.peers.installed import InstalledPeer
from penstock_bench.peers.models import MAX_BATCH, ModelSet
from penstock_bench.peers.process import HOST, free_port


class MLServer(InstalledPeer):
    """Its inference runs in its own process, which is faster here than its pool of workers."""

    name = "mlserver"
    title = "MLServer 1.7.1"
    protocol = "gRPC"
    remark = "inference in the server's process (parallel_workers 0); adaptive batching, 1 ms"
    requirements = ("mlserver==1.7.1", "grpcio==1.85.1", "protobuf==6.33.6")
    megabytes = 550

    def command(self, python: Path, models: ModelSet, scratch: Path, port: int) -> Sequence[str]:
        model = models.only
        settings = {
            "host": HOST,
            "grpc_port": port,
            "http_port": free_port(),
            "metrics_port": free_port(),
            "metrics_dir": str(scratch),
            "grpc_max_message_length": 64 << 20,
            "parallel_workers": 0,
            "debug": False,
        }
        given = {"name": model.input, "datatype": "FP32", "shape": [-1, *model.shape]}
        outputs = [{"name": each.name, "datatype": each.datatype, "shape": [-1, *each.shape]} for each in model.outputs]
        served = {
            "name": model.name,
            "implementation": "mlserver_model.Served",
            "inputs": [given],
            "outputs": outputs,
            "max_batch_size": MAX_BATCH,
            "max_batch_time": 0.001,
        }
        (scratch / "settings.json").write_text(json.dumps(settings))
        (scratch / "model-settings.json").write_text(json.dumps(served))
        return [str(python.parent / "mlserver"), "start", str(scratch)]
