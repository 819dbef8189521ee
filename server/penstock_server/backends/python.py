"""Models written in Python: a `model.py` with one class.

    from penstock_server.backends.python import ModelContext, PythonModel

    class Doubler(PythonModel):
        def infer(self, inputs, batch):
            return {"Y": inputs["X"] * 2}

`infer` is called in a thread of the instance, one batch at a time. It works on whole batches: with
`max_batch_size` > 0 in the config each array has the rows of all requests, stacked along axis 0.

A decoupled model's `infer` is a generator, plain or async, that yields a response's outputs at a time:

    class Counter(PythonModel):
        async def infer(self, inputs, batch):
            for number in range(int(inputs["N"][0])):
                yield {"I": np.array([number])}

It is called for each request by itself, and several of its generators run beside each other in the instance's thread:
where one waits it should await, or the others wait too.
"""

import importlib.util
import logging
import sys
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from inspect import isasyncgen, isasyncgenfunction, isgeneratorfunction
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, cast

from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.backends.base import ModelBatch, ModelFiles, RequestInfo, Tensors
from penstock_server.backends.runner import close
from penstock_server.errors import LoadError, ModelError
from penstock_server.models.signature import Signature
from penstock_server.status import Status

__all__ = [
    "ModelBatch",
    "ModelContext",
    "ModelError",
    "PythonBackend",
    "PythonModel",
    "RequestInfo",
    "Status",
    "Tensors",
]

_log = logging.getLogger(__name__)
_module_numbers = count()


@dataclass(frozen=True, slots=True)
class ModelContext:
    """What a model is told when it is loaded."""

    name: str
    version: int
    directory: Path
    """The version's directory: weights and other files of the model lie here."""
    parameters: Mapping[str, str]
    """The `parameters` of its config.pbtxt."""
    instance: int
    """Which of the model's instances this is, from 0."""


class PythonModel:
    """Base of a model in Python. `model.py` holds exactly one subclass of it."""

    def load(self, context: ModelContext) -> None:
        """Prepare to run; called once for each instance. Whatever it raises fails the load."""

    def infer(self, inputs: Tensors, batch: ModelBatch) -> Any:
        """Compute the outputs of a batch.

        `inputs` holds an array for each input, by name: numpy's type of the config's datatype, BYTES
        as object arrays of `bytes`, BF16 as `uint16` bit patterns (`penstock_server.tensors.codec`
        converts). The arrays may be read-only; an optional input that was left out is not there.
        `batch` says more about the requests, and `batch.fail(index, status, message)` answers one of
        them with an error.

        Returns an array for each output, by name, with the same rows along axis 0 (`Tensors`); a decoupled model
        yields such a dict for each response. Raises
        `ModelError(status, message)` to tell the clients of the whole batch what is wrong; the text of
        any other exception is logged and not shown to them.
        """
        raise NotImplementedError(f"{type(self).__name__} has no infer()")

    def close(self) -> None:
        """Free what `load` took. Called once, after the last `infer`."""


class PythonBackend:
    """Opens `model.py` files."""

    name: ClassVar[str] = "python"

    def open(self, files: ModelFiles, config: ModelConfig) -> "PythonFile":
        return PythonFile(files, _model_class(files.model, files.path))


class PythonFile:
    """The class in a `model.py`."""

    def __init__(self, files: ModelFiles, model_class: type[PythonModel]) -> None:
        self._files = files
        self._class = model_class

    @property
    def signature(self) -> Signature | None:
        """None: code does not say what it takes, the config must."""
        return None

    def instances(self, config: ModelConfig, count: int) -> Sequence["PythonInstance | PythonGenerators"]:
        made: list[PythonInstance | PythonGenerators] = []
        try:
            for index in range(count):
                made.append(self._instance(config, index))  # noqa: PERF401 - those made before a failure are closed
        except BaseException as error:
            for instance in made:
                close(instance, f"an instance of model '{self._files.model}'")
            reason = f"load() of {self._class.__name__} raised {type(error).__name__}: {error}"
            raise LoadError(reason, model=self._files.model, file=str(self._files.path)) from error
        return made

    def _instance(self, config: ModelConfig, index: int) -> "PythonInstance | PythonGenerators":
        model = self._class()
        model.load(
            ModelContext(
                name=self._files.model,
                version=self._files.version,
                directory=self._files.path.parent,
                parameters={key: value.string_value for key, value in config.parameters.items()},
                instance=index,
            )
        )
        is_generator = isgeneratorfunction(model.infer) or isasyncgenfunction(model.infer)
        return PythonGenerators(model) if is_generator else PythonInstance(model)


class PythonInstance:
    """One object of the model's class."""

    def __init__(self, model: PythonModel) -> None:
        self._model = model

    def run(self, batch: ModelBatch) -> Tensors:
        return cast("Tensors", self._model.infer(batch.inputs, batch))  # the engine looks at what it is

    def close(self) -> None:
        self._model.close()


class PythonGenerators:
    """One object of a decoupled model's class."""

    def __init__(self, model: PythonModel) -> None:
        self._model = model

    async def stream(self, batch: ModelBatch) -> AsyncGenerator[Tensors, None]:
        responses = self._model.infer(batch.inputs, batch)
        if isasyncgen(responses):
            async with aclosing(cast("AsyncGenerator[Tensors, None]", responses)) as awaited:
                async for tensors in awaited:
                    yield tensors
            return
        with closing(cast("Generator[Tensors, None, None]", responses)) as stepped:
            for tensors in stepped:
                yield tensors

    def close(self) -> None:
        self._model.close()


def _model_class(model: str, path: Path) -> type[PythonModel]:
    """Run the file and find its class."""
    # Two models, or two versions, may both be called model.py.
    name = f"penstock_model_{next(_module_numbers)}"
    # A loader that does not ask for the suffix: the config may call the file whatever it likes.
    spec = importlib.util.spec_from_file_location(name, path, loader=SourceFileLoader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        spec.loader.exec_module(module)
    except (
        BaseException
    ) as error:  # models are loaded off the main thread, so even KeyboardInterrupt is the model's own
        del sys.modules[name]
        raise LoadError(f"it raised {type(error).__name__}: {error}", model=model, file=str(path)) from error
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, PythonModel) and value.__module__ == name
    ]
    if len(classes) != 1:
        found = ", ".join(sorted(c.__name__ for c in classes)) or "none"
        raise LoadError(
            f"it must hold exactly one subclass of PythonModel, found: {found}", model=model, file=str(path)
        )
    return classes[0]
