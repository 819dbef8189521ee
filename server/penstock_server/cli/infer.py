"""`penstock infer`: one request from the shell."""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from penstock_proto.open_inference_pb2 import ModelMetadataResponse
from penstock_server.app.logs import escape
from penstock_server.cli.addresses import channel_options
from penstock_server.cli.output import fail, out
from penstock_server.cli.tls import TlsAuthority, TlsCertificate, TlsKey, TlsWanted, tls_credentials
from penstock_server.cli.values import BadValue, parse_input, split_pairs

if TYPE_CHECKING:
    from penstock_client import InferResult, OutputRequest, Tensor

_URL = "127.0.0.1:8001"
_UNREACHED = ("failed to connect to all addresses", "DNS resolution failed")
"""How the library begins what it says in a server's stead, where there is none."""
_MODEL, _SERVER = "The request", "The server"


def infer(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="An input; one for each. See above.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option("--output", "-o", metavar="NAME", help="Only this output; one for each.", rich_help_panel=_MODEL),
    ] = None,
    classes: Annotated[
        int,
        typer.Option(
            metavar="N", help="Instead of values the N best classes of each output.", min=0, rich_help_panel=_MODEL
        ),
    ] = 0,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            metavar="KEY=VALUE",
            help="A parameter of the request, such as `priority=1`; one for each.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="gRPC metadata, such as a tenant or an authorization; one for each.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    model_version: Annotated[
        str,
        typer.Option(
            metavar="VERSION",
            help="The model's version.",
            show_default="the server's choice",
            rich_help_panel=_MODEL,
        ),
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the answer as one line of JSON.", rich_help_panel=_MODEL)
    ] = False,
    url: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where it is.", envvar="PENSTOCK_URL", rich_help_panel=_SERVER)
    ] = _URL,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="How long to wait for the answer.", min=0.001, rich_help_panel=_SERVER),
    ] = 10.0,
    tls: TlsWanted = False,
    tls_ca: TlsAuthority = None,
    tls_cert: TlsCertificate = None,
    tls_key: TlsKey = None,
) -> int:
    """Ask a model once and print the answer.

    For example: `penstock infer iris --input X=5.1,3.5,1.4,0.2`

    An input is `NAME=VALUE`, and its value numbers or text with commas in between (`x=1,2,3`), JSON
    (`x=[[1,2],[3,4]]`, and where text has commas: `text=["a, b"]`), or a file (`x=@file.npy`, `x=@file.json`).
    A list without brackets in it is put into the model's shape.

    Ends with 0 if there is an answer, with 1 if the server has none.
    """
    from penstock_client import Client, Deadline, InferenceError, InputError

    credentials = tls_credentials(tls, tls_ca, tls_cert, tls_key)
    try:
        client = Client(url, tls=credentials, metadata=_metadata(metadata or []), options=channel_options(url))
    except BadValue as error:
        fail(str(error), 2)
    except ValueError:
        fail(f"--url is HOST:PORT without a scheme (TLS is switched on with --tls or --tls-ca), not '{url}'", 2)
    deadline = Deadline.after(timeout)
    try:
        with client:
            known = client.model_metadata(model, model_version, timeout=deadline)
            result = client.infer(
                model,
                _inputs(inputs or [], known),
                version=model_version,
                outputs=_outputs(outputs or [], classes, known),
                parameters=_parameters(parameters or []),
                timeout=deadline,
            )
    except (BadValue, InputError) as error:
        fail(str(error), 2)
    except UnicodeEncodeError as error:
        fail(f"an argument is no UTF-8 text: {error.object!r}", 2)
    except InferenceError as error:
        if error.message.startswith(_UNREACHED):
            fail(f"nobody answers at {url}: {error.message}", 1)
        fail(f"{url} answers {error.status.name}: {error.message}", 1)
    _print_json(result) if as_json else _print(result)
    return 0


def _inputs(texts: Sequence[str], metadata: ModelMetadataResponse) -> "dict[str, Tensor]":
    """What was typed, as the tensors that the model takes."""
    from penstock_client import Tensor

    known = {tensor.name: tensor for tensor in metadata.inputs}
    values: dict[str, Tensor] = {}
    for name, value in split_pairs(texts, "--input").items():
        if name not in known:
            raise BadValue(f"model '{metadata.name}' has no input '{name}'; it takes {_describe(metadata)}")
        tensor = known[name]
        try:
            values[name] = Tensor(parse_input(value, tensor.datatype, tensor.shape), tensor.datatype)
        except BadValue as error:
            raise BadValue(f"input '{name}' of model '{metadata.name}': {error}") from None
    if not values and known:
        raise BadValue(f"model '{metadata.name}' takes {_describe(metadata)}; give it with --input NAME=VALUE")
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


def _metadata(texts: Sequence[str]) -> dict[str, str | bytes]:
    """What was typed, as gRPC takes it. It would say no more than that something is invalid."""
    pairs: dict[str, str | bytes] = {}
    for key, value in split_pairs(texts, "--metadata").items():
        if not re.fullmatch("[0-9A-Za-z_.-]+", key) or key.lower().startswith("grpc-"):
            raise BadValue(f"a key of --metadata has letters, digits and _ . - and no grpc- before them, not '{key}'")
        if not re.fullmatch("[ -~]*", value):
            raise BadValue(f"a value of --metadata has printable ASCII only, not {value!r}")
        pairs[key.lower()] = value.encode() if key.lower().endswith("-bin") else value
    return pairs


def _parameters(texts: Sequence[str]) -> dict[str, bool | int | float | str]:
    return {key: _parameter(value) for key, value in split_pairs(texts, "--parameter").items()}


def _parameter(text: str) -> bool | int | float | str:
    """A parameter's value by its looks: `true`, `7`, `0.5`, anything else is text."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float) else text


def _print(result: "InferResult") -> None:
    out.print(escape(f"{result.model_name} version {result.model_version}"), markup=False, highlight=False)
    for name, array in result.items():
        head = f"{escape(name)}  {result.datatypes[name]} {list(array.shape)}"
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
