"""LitServe: JSON with base64 of float32, which is the cheapest that it takes; its own batching."""

import litserve
from served import HOST, MAX_BATCH, PORT, OnnxModel


class Api(litserve.LitAPI):
    def setup(self, device):
        self._model = OnnxModel()

    def decode_request(self, request):
        return request["data"]

    def batch(self, inputs):
        return inputs

    def predict(self, texts):
        return self._model.text_answers(texts)

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return {"data": output}


if __name__ == "__main__":
    api = Api(max_batch_size=MAX_BATCH, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, timeout=60)
    server.run(host=HOST, port=PORT, num_api_servers=1, generate_client_file=False, log_level="warning")
