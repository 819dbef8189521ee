"""`penstock infer`: one request from the shell."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from penstock_proto.open_inference_pb2 import ModelMetadataResponse
from penstock_server.cli.output import fail, out
from penstock_server.cli.values import BadValue, parse_input, split_pair

if TYPE_CHECKING:
    from penstock_client import InferResult, OutputRequest, Tensor, Tls

_URL = "127.0.0.1:8001"


def infer(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="An input: `x=1,2,3`, JSON `x=[[1,2],[3,4]]`, or a file `x=@file.npy`, `x=@file.json`. Repeat it.",
        ),
    ] = None,
    outputs: Annotated[
        list[str] | None, typer.Option("--output", "-o", metavar="NAME", help="Only this output. Repeat it.")
    ] = None,
    classes: Annotated[int, typer.Option(help="The best N classes of each output instead of its values.", min=0)] = 0,
    parameters: Annotated[
        list[str] | None, typer.Option("--parameter", metavar="KEY=VALUE", help="A request parameter. Repeat it.")
    ] = None,
    model_version: Annotated[str, typer.Option(help="The model's version; empty: the server's choice.")] = "",
    url: Annotated[str, typer.Option(help="The server, HOST:PORT.", envvar="PENSTOCK_URL")] = _URL,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.", min=0.001)] = 10.0,
    tls_ca: Annotated[
        Path | None, typer.Option(help="Use TLS and trust this authority (PEM).", envvar="PENSTOCK_TLS_CA")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> int:
    """Ask a model once and print the answer.

    For example: `penstock infer iris --input X=5.1,3.5,1.4,0.2`
    """
    from penstock_client import Client, InferenceError, InputError

    try:
        with Client(url, timeout=timeout, tls=_tls(tls_ca)) as client:
            metadata = client.model_metadata(model, model_version)
            values = _inputs(inputs or [], metadata)
            wanted = _outputs(outputs or [], classes, metadata)
            known = dict(split_pair(text, "--parameter") for text in parameters or [])
            result = client.infer(
                model,
                values,
                version=model_version,
                outputs=wanted,
                parameters={key: _parameter(value) for key, value in known.items()},
            )
    except (BadValue, InputError) as error:
        fail(str(error), 2)
    except InferenceError as error:
        fail(f"{url} answers {error.status.name}: {error.message}", 1)
    _print_json(result) if as_json else _print(result)
    return 0


def _tls(ca: Path | None) -> "Tls | None":
    from penstock_client import Tls

    return None if ca is None else Tls(ca=ca)


def _inputs(texts: Sequence[str], metadata: ModelMetadataResponse) -> "dict[str, Tensor]":
    """What was typed, as the tensors that the model takes."""
    from penstock_client import Tensor

    known = {tensor.name: tensor for tensor in metadata.inputs}
    values: dict[str, Tensor] = {}
    for text in texts:
        name, value = split_pair(text, "--input")
        if name not in known:
            raise BadValue(f"model '{metadata.name}' has no input '{name}'; it takes {_describe(metadata)}")
        tensor = known[name]
        try:
            values[name] = Tensor(parse_input(value, tensor.datatype, tensor.shape), tensor.datatype)
        except BadValue as error:
            raise BadValue(f"input '{name}': {error}") from None
    if not values and known:
        raise BadValue(f"give the model's inputs with --input: {_describe(metadata)}")
    return values


def _describe(metadata: ModelMetadataResponse) -> str:
    return ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in metadata.inputs)


def _outputs(
    names: Sequence[str], classes: int, metadata: ModelMetadataResponse
) -> "Sequence[str | OutputRequest] | None":
    from penstock_client import OutputRequest

    if not classes:
        return names or None
    return [OutputRequest(name, classes) for name in names or [tensor.name for tensor in metadata.outputs]]


def _parameter(text: str) -> bool | int | float | str:
    """A parameter's value by its looks: `true`, `7`, `0.5`, anything else is text."""
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _print(result: "InferResult") -> None:
    out.print(f"{result.model_name} version {result.model_version}", markup=False, highlight=False)
    for name, array in result.items():
        head = f"{name}  {result.datatypes[name]} {list(array.shape)}"
        body = np.array2string(_readable(array), separator=", ", threshold=100)
        out.print(f"{head}\n{body}", markup=False, highlight=False, soft_wrap=True)


def _print_json(result: "InferResult") -> None:
    outputs = [
        {
            "name": name,
            "datatype": result.datatypes[name],
            "shape": list(array.shape),
            "data": _readable(array).ravel().tolist(),
        }
        for name, array in result.items()
    ]
    answer = {"model_name": result.model_name, "model_version": result.model_version, "outputs": outputs}
    print(json.dumps(answer, ensure_ascii=False))


def _readable(array: NDArray[Any]) -> NDArray[Any]:
    """Bytes as text, where they are text."""
    if array.dtype.kind != "O":
        return array
    texts = [element.decode("utf-8", "backslashreplace") for element in array.flat]
    return np.array(texts, np.str_).reshape(array.shape)
