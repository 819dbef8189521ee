"""What a model says of itself, as opposed to what its configuration says of it.

A backend reads it from the model. Shapes have *all* axes here, the batch axis among them: a model
does not know which of its axes is the batch.
"""

from dataclasses import dataclass

from penstock_proto.datatypes import DataType


@dataclass(frozen=True, slots=True)
class SignatureTensor:
    """One input or output of a model."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    """All axes; -1 is an axis of any length."""
    optional: bool = False
    """An input that has a default in the model. It is offered to clients only if the configuration declares it."""


@dataclass(frozen=True, slots=True)
class Signature:
    """All inputs and outputs of a model, in the model's order."""

    inputs: tuple[SignatureTensor, ...]
    outputs: tuple[SignatureTensor, ...]

    @property
    def batchable(self) -> bool:
        """Whether the first axis of every input and output is of any length, so that rows can be stacked along it."""
        tensors = (*self.inputs, *self.outputs)
        return bool(self.inputs) and all(tensor.shape[:1] == (-1,) for tensor in tensors)
