"""Ray Serve: raw float32 bodies; `serve.batch`."""

import signal
import threading

import ray
from ray import serve
from served import HOST, MAX_BATCH, PORT, OnnxModel
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=1, max_ongoing_requests=4096, ray_actor_options={"num_cpus": 0})
class Served:
    def __init__(self):
        self._model = OnnxModel()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.001)
    async def infer(self, rows):
        return self._model.answers(rows)

    async def __call__(self, request: Request):
        row = self._model.row(await request.body())
        return Response(await self.infer(row), media_type="application/octet-stream")


if __name__ == "__main__":
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    ray.init(num_cpus=2, include_dashboard=False, _node_ip_address=HOST, object_store_memory=200 << 20)
    serve.start(http_options={"host": HOST, "port": PORT})
    serve.run(Served.bind(), route_prefix="/")
    end.wait()
    serve.shutdown()
    ray.shutdown()
