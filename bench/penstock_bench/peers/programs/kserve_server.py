"""KServe's Python server, gRPC alone. It has no dynamic batching; a request is a batch."""

import asyncio

from kserve import InferOutput, InferResponse, Model, ModelServer
from kserve.protocol.grpc import server as grpc_server
from served import DATATYPES, HOST, NAME, PORT, OnnxModel


class Served(Model):
    def load(self):
        self._model = OnnxModel()
        self._outputs = [(output.name, DATATYPES[output.type][0]) for output in self._model.outputs]
        self.ready = True

    async def get_input_types(self):
        return self._model.metadata([self._model.input])

    async def get_output_types(self):
        return self._model.metadata(self._model.outputs)

    async def predict(self, payload, headers=None, response_headers=None):
        outputs = []
        results = self._model.run(payload.inputs[0].as_numpy())
        for (name, datatype), values in zip(self._outputs, results, strict=True):
            output = InferOutput(name, list(values.shape), datatype)
            output.set_data_from_numpy(values, binary_data=True)
            outputs.append(output)
        return InferResponse(payload.id, self.name, outputs)


def on_loopback(make):
    """KServe listens on every address, and has no option for that: here it does not."""

    def server(*arguments, **options):
        made = make(*arguments, **options)
        add = made.add_insecure_port
        made.add_insecure_port = lambda address: add(address.replace("[::]", HOST))
        return made

    return server


async def main():
    model = Served(NAME)
    model.load()
    server = ModelServer(enable_latency_logging=False)
    server.register_model(model)
    grpc_server.aio.server = on_loopback(grpc_server.aio.server)
    limits = {"grpc_max_send_message_length": -1, "grpc_max_receive_message_length": -1}
    await grpc_server.GRPCServer(PORT, server.dataplane, server.model_repository_extension, limits).start(4)


if __name__ == "__main__":
    asyncio.run(main())
