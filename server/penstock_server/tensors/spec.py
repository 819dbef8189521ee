"""What a model says of one of its tensors."""

from dataclasses import dataclass

from penstock_proto.datatypes import DataType


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, datatype and shape of an input or output of a model."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    """Without the batch axis; -1 is an axis of any length."""
    optional: bool = False
    labels: tuple[str, ...] = ()
    """Names of the classes, for classification outputs."""


def show_shape(shape: tuple[int, ...] | list[int]) -> str:
    """A shape as Triton's messages write it: `[-1,4]`."""
    return f"[{','.join(map(str, shape))}]"
