"""What is sent: requests of the V2 protocol, made before the run in many variants.

A generator that repeats the same bytes measures caches. Each variant has values of its own; which of them is next is
drawn at random, by the weights of the mix. The same seed makes the same variants in every process, so that the right
answers to the first ones, which the reference client has asked for, are good for all.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from penstock_bench.load import frames
from penstock_bench.load.answers import BodyJudge, ModelJudge
from penstock_bench.load.channel import ID_DIGITS, Variant
from penstock_bench.load.http1 import request
from penstock_bench.load.plan import HttpTarget, LoadError, LoadPlan, MixItem, SequencePlan
from penstock_bench.load.sequences import Script
from penstock_client import InputError
from penstock_client.codec import parameter
from penstock_client.tensors import converted, raw_of
from penstock_proto.datatypes import DATATYPES, DataType
from penstock_proto.open_inference_pb2 import ModelInferRequest

KNOWN_ANSWERS = 32
"""Variants of each item whose answers the reference client is asked for."""

_FREE_AXIS = 16
_POOL_BYTES = 128 << 20
_ORDER = 8192
_RAW_TAG = bytes((ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | 2,))
_ID_TAG = bytes((ModelInferRequest.ID_FIELD_NUMBER << 3 | 2, ID_DIGITS))
_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)

Values: TypeAlias = NDArray[Any]  # of the datatype's dtype, which is known when the model is
Inputs: TypeAlias = Mapping[str, tuple[Values, DataType]]


class TensorSpec(msgspec.Struct, frozen=True):
    """What a model says of a tensor. Shapes have the batch axis; -1 is any length."""

    name: str
    datatype: str
    shape: Sequence[int]


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What the generator must know of a model."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    batched: bool
    """Whether the first axis is the batch."""
    version: str = ""


def variants(
    item: MixItem,
    number: int,
    signature: Signature,
    *,
    seed: int,
    count: int,
    answers: Sequence[bytes] = (),
    stream: bool = False,
) -> list[Variant]:
    """Requests for an item of the mix, the first of which have these right answers (ModelInferResponses).

    LoadError if what the item gives does not fit the model.
    """
    drawn = inputs_of(item, number, signature, seed)
    expected = {
        output.name: (output.datatype, [item.rows, *output.shape[1:]] if signature.batched else output.shape)
        for output in signature.outputs
        if not item.outputs or output.name in item.outputs
    }
    made: list[Variant] = []
    for _ in range(count):
        lead, body = message(item, next(drawn))
        size = len(lead) + ID_DIGITS + len(body)
        answer = answers[len(made)] if len(made) < len(answers) else None
        judge = ModelJudge(item.model, expected, answer)
        flags = 0 if stream else frames.END_STREAM
        made.append(Variant(number, lead, body, judge, size, frames.head(size % 2**24, frames.DATA, flags)))
    return made


def http_variants(target: HttpTarget, host: str) -> list[Variant]:
    """Requests of HTTP/1.1 out of the bodies that the target gives."""
    made: list[Variant] = []
    for number, body in enumerate(target.bodies):
        judge = BodyJudge(target.expected[number] if target.expected else None, target.tolerance)
        whole = request("POST", target.path, host, target.headers, body)
        made.append(Variant(0, b"", whole, judge, len(whole)))
    return made


def affordable(plan: LoadPlan, item: MixItem, signature: Signature) -> int:
    """How many variants of an item may be made: as planned, or as memory allows; at least two."""
    each = sum(
        prod(shape_of(item, spec, signature)) * (DATATYPES[spec.datatype].itemsize or 16) for spec in signature.inputs
    )
    return max(2, min(plan.variants, _POOL_BYTES // len(plan.mix) // max(1, each)))


def supply(
    pools: Sequence[Sequence[Variant]], weights: Sequence[float], check_every: int, seed: int
) -> Iterator[tuple[Variant, bool]]:
    """Requests without end: one at random, by the weights of the pools; and whether its answer is to be checked.

    Those to be checked are drawn from the first of each pool, whose right answers are known.
    """
    random = np.random.default_rng(seed)
    length = max(_ORDER, check_every)
    length -= length % check_every if check_every else 0
    shares = np.array(weights, np.float64) / sum(weights)
    chosen: list[int] = random.choice(len(pools), length, p=shares).tolist()
    draws: list[float] = random.random(length).tolist()
    order: list[tuple[Variant, bool]] = []
    for number, (which, draw) in enumerate(zip(chosen, draws, strict=True)):
        checked = check_every > 0 and number % check_every == 0
        among = min(len(pools[which]), KNOWN_ANSWERS) if checked else len(pools[which])
        order.append((pools[which][int(draw * among)], checked))
    return cycle(order)


def script(item: MixItem, signature: Signature, plan: LoadPlan, sequences: SequencePlan) -> Script:
    """The steps of sequences. Raises LoadError if what the item gives does not fit the model, OSError and ValueError
    if what is expected cannot be read."""
    drawn = inputs_of(item, 0, signature, plan.seed)
    expected: Values = np.empty((0, 0), np.float32)
    if sequences.expected is not None:
        expected = np.load(sequences.expected, allow_pickle=False)
    return Script(
        lead=_before_id(item),
        bodies=[_after_id(item, next(drawn)) for _ in range(affordable(plan, item, signature))],
        named=sequences.named,
        expected=expected.tolist(),
    )


def message(item: MixItem, inputs: Inputs) -> tuple[bytes, bytes]:
    """A gRPC message in two parts: up to the request's id, and after it.

    Protobuf writes fields in the order of their numbers, so a message is the fields before the id, the id, and the
    fields after it, each part made by itself.
    """
    before = _before_id(item)
    after = _after_id(item, inputs)
    size = len(before) + ID_DIGITS + len(after)
    return b"\0" + size.to_bytes(4, "big") + before, after


def _before_id(item: MixItem) -> bytes:
    return ModelInferRequest(model_name=item.model, model_version=item.version).SerializeToString() + _ID_TAG


def _after_id(item: MixItem, inputs: Inputs) -> bytes:
    head = ModelInferRequest(
        parameters={name: parameter(name, value) for name, value in item.parameters.items()},
        inputs=[
            ModelInferRequest.InferInputTensor(name=name, datatype=datatype.name, shape=values.shape)
            for name, (values, datatype) in inputs.items()
        ],
        outputs=[ModelInferRequest.InferRequestedOutputTensor(name=name) for name in item.outputs],
    ).SerializeToString()
    contents = [raw_of(values, datatype) for values, datatype in inputs.values()]
    return b"".join([head, *(part for raw in contents for part in (_RAW_TAG, _varint(len(raw)), raw))])


# ── values ────────────────────────────────────────────────────────────────────────────────────────


def inputs_of(item: MixItem, number: int, signature: Signature, seed: int) -> Iterator[Inputs]:
    """The inputs of one variant after the other, without end. Raises LoadError for what does not fit the model."""
    sources = _sources(item, signature, np.random.default_rng((seed, number)))
    return iter(lambda: {name: (next(source), datatype) for name, (datatype, source) in sources.items()}, None)


def _sources(
    item: MixItem, signature: Signature, random: np.random.Generator
) -> dict[str, tuple[DataType, Iterator[Values]]]:
    """For each input its datatype, and its values: from a file, or random."""
    known = {spec.name: spec for spec in signature.inputs}
    described = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in signature.inputs)
    for name in (*item.inputs, *item.shapes):
        if name not in known:
            raise LoadError(f"model '{item.model}' has no input '{name}'; it takes {described}")
    for name in item.outputs:
        if name not in {spec.name for spec in signature.outputs}:
            raise LoadError(f"model '{item.model}' has no output '{name}'")
    found: dict[str, tuple[DataType, Iterator[Values]]] = {}
    for name, spec in known.items():
        datatype = DATATYPES[spec.datatype]
        shape = shape_of(item, spec, signature)
        if name in item.inputs:
            found[name] = datatype, _from_file(Path(item.inputs[name]), datatype, spec, item, signature.batched)
        else:
            found[name] = datatype, _random(shape, datatype, random)
    return found


def shape_of(item: MixItem, spec: TensorSpec, signature: Signature) -> list[int]:
    """The shape of a random tensor: the model's, with the item's rows and lengths. Raises LoadError."""
    given = item.shapes.get(spec.name)
    if given is not None:
        if len(given) != len(spec.shape) or any(
            want not in (-1, have) or have < 0 for want, have in zip(spec.shape, given, strict=True)
        ):
            raise LoadError(
                f"input '{spec.name}' of model '{item.model}' has shape {list(spec.shape)}, which {list(given)} is not"
            )
        return list(given)
    lengths = [_FREE_AXIS if length < 0 else length for length in spec.shape]
    return [item.rows, *lengths[1:]] if signature.batched and lengths else lengths


def _random(shape: Sequence[int], datatype: DataType, random: np.random.Generator) -> Iterator[Values]:
    while True:
        yield _draw(shape, datatype, random)


def _draw(shape: Sequence[int], datatype: DataType, random: np.random.Generator) -> Values:
    """Values that most models take: floats about 0, integers from 0 to 9, words of lower-case letters."""
    if datatype.name == "BYTES":
        words = np.empty(prod(shape), object)
        words[:] = [_LETTERS[random.integers(0, 26, random.integers(4, 20))].tobytes() for _ in range(prod(shape))]
        return words.reshape(shape)
    if datatype.name.startswith(("FP", "BF")):
        return converted(random.standard_normal(shape, np.float32).astype(_float_of(datatype)), datatype)
    if datatype.name == "BOOL":
        return random.random(shape) < 0.5
    return random.integers(0, 10, shape).astype(datatype.numpy)


def _float_of(datatype: DataType) -> str:
    return "<f4" if datatype.name == "BF16" else datatype.numpy


def _from_file(path: Path, datatype: DataType, spec: TensorSpec, item: MixItem, batched: bool) -> Iterator[Values]:
    """The rows of a file, in requests of the item's rows, over and over. Raises LoadError."""
    what = f"input '{spec.name}' of model '{item.model}'"
    try:
        with path.open("rb") as file:
            loaded: Values = npy.read_array(file, allow_pickle=False)
        array = converted(loaded, datatype)
    except OSError as error:
        raise LoadError(f"cannot read {path}: {error.strerror or error}") from None
    except (InputError, ArithmeticError) as error:
        raise LoadError(f"{what}: {error}") from None
    except (ValueError, TypeError, MemoryError):  # its header may say anything
        raise LoadError(f"{path} is no .npy file") from None
    if not batched and array.ndim == len(spec.shape):
        array = array[None]  # one request
    rest = array.shape[1:]
    want = spec.shape[1:] if batched else spec.shape
    if len(rest) != len(want) or any(one not in (-1, have) for one, have in zip(want, rest, strict=True)):
        raise LoadError(f"{what} has shape {list(spec.shape)}, and {path} has {list(loaded.shape)}")
    rows = item.rows if batched else 1
    if len(array) < rows:
        raise LoadError(f"{path} has {len(array)} rows, and a request takes {rows}")
    pieces = [array[at : at + rows] for at in range(0, len(array) - rows + 1, rows)]
    return cycle(pieces if batched else [piece[0] for piece in pieces])


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
