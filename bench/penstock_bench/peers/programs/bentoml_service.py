"""BentoML: JSON with base64 of float32; its adaptive batching."""

import bentoml
from served import MAX_BATCH, OnnxModel


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 4096}, logging={"access": {"enabled": False}})
class Served:
    def __init__(self):
        self._model = OnnxModel()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=10000)
    def infer(self, data: list[str]) -> list[str]:
        return self._model.text_answers(data)
