"""Models without anything that runs them, and a transport's side of a stream."""

from collections.abc import Sequence
from typing import Any, cast

from penstock_proto.datatypes import DATATYPES
from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.engine.driver import Driver
from penstock_server.engine.versions import Models, ServedModel, ServedVersion, VersionState
from penstock_server.errors import Failure
from penstock_server.models.spec import ModelSpec
from penstock_server.service.seam import Parts
from penstock_server.tensors.spec import TensorSpec


def tensor(name: str, datatype: str, *shape: int, optional: bool = False, labels: Sequence[str] = ()) -> TensorSpec:
    return TensorSpec(name, DATATYPES[datatype], shape, optional, tuple(labels))


def spec(
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    max_batch_size: int = 0,
    **more: Any,
) -> ModelSpec:
    required = sum(not each.optional for each in inputs)
    return ModelSpec(name, max_batch_size, tuple(inputs), tuple(outputs), required, **more)


def models_of(*specs: ModelSpec) -> Models:
    """These models, each as a version 1 that is ready. They have no driver: nothing can be submitted to them."""
    models = Models()
    for each in specs:
        model = ServedModel(each.name, states={1: (VersionState.READY, "")})
        model.serve(ServedVersion(1, each, ModelConfig(name=each.name), cast(Driver, None)))
        models.add(model)
    return models


class FakeSink:
    """A transport's side of a stream, with as much room as the test gives it."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.sent: list[bytes] = []
        self.given_back = 0
        self.ends: list[Failure | None] = []

    def send(self, parts: Parts) -> bool:
        assert not self.ends, "nothing is sent after the end"
        assert self.room > 0, "it was told to wait"
        self.room -= 1
        self.sent.append(b"".join(parts))
        return self.room > 0

    def consumed(self, messages: int = 1) -> None:
        self.given_back += messages

    def finish(self, failure: Failure | None = None) -> None:
        self.ends.append(failure)
        assert len(self.ends) == 1, "a stream ends once"
