"""mosec: bodies are raw float32, the batcher is mosec's own, one worker process runs the model."""

from mosec import Server, Worker
from served import MAX_BATCH, OnnxModel


class Inference(Worker):
    def __init__(self):
        super().__init__()
        self._model = OnnxModel()

    def deserialize(self, data):
        return self._model.row(data)

    def serialize(self, data):
        return data

    def forward(self, data):
        return self._model.answers(data)


if __name__ == "__main__":
    server = Server()
    # 1 ms is the shortest wait that can be asked for.
    server.append_worker(Inference, num=1, max_batch_size=MAX_BATCH, max_wait_time=1)
    server.run()
