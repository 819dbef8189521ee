"""`penstock demo`: the whole way, once, with real models and real data.

A server starts on free ports with the example models; each model is asked over gRPC what it is known
to answer. It ends with 0 only if every answer was right.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.request import ProxyHandler, build_opener

import numpy as np
from rich.table import Table

from penstock_server import __version__
from penstock_server.app.logs import LogFormat, LogLevel, configure_logging
from penstock_server.app.run import ServerThread
from penstock_server.app.settings import ServerSettings
from penstock_server.cli.addresses import channel_options
from penstock_server.cli.output import complain, fail, out
from penstock_server.errors import BindError, LoadError
from penstock_server.examples import (
    LISTENER,
    Example,
    SpeechExample,
    Tensors,
    WritingExample,
    all_examples,
    speech_example,
    write_all,
    writing_example,
)
from penstock_server.transports.base import TransportSettings

if TYPE_CHECKING:
    from penstock_client import Client


_STREAMS = 8


@dataclass(slots=True)
class _Seen:
    """What one example showed."""

    model: str
    question: str
    example: str
    """One of the questions with its answer, in words."""
    seconds: list[float]
    """How long each response took."""
    wrong: list[str] = field(default_factory=list[str])
    batches: int = 0
    """In how many executions of the model they ran."""


def demo() -> int:
    """Start a server with the example models, ask each of them over gRPC, and check the answers.

    For example: `penstock demo`. It needs no network and no free port in particular, and takes seconds.

    Ends with 0 only if every answer was right.
    """
    configure_logging(LogLevel.ERROR, LogFormat.TEXT)  # there is a warning that decoupled models need streams
    try:
        seen, wrong = _serve_and_ask()
    except (LoadError, BindError) as error:
        fail(str(error), 1)
    for one in seen:
        out.print(f"[bold]{one.model}[/]  {one.question}\n  {one.example}", highlight=False)
    if seen:
        out.print(_table(seen))
    for one in seen:
        wrong += [f"{one.model}: {problem}" for problem in one.wrong]
    for problem in wrong:
        complain(problem)
    if wrong:
        return 1
    out.print("Every answer was right. Now serve a model of your own: [bold]penstock serve model.onnx[/]")
    return 0


def _serve_and_ask() -> tuple[list[_Seen], list[str]]:
    """What each example showed, and what is wrong besides."""
    with TemporaryDirectory(prefix="penstock-demo-") as folder:
        source = write_all(Path(folder))
        settings = ServerSettings(source=source, transport=TransportSettings(port=0), metrics_port=0, reflection=True)
        with ServerThread(settings) as server:
            out.print(f"Penstock {__version__}: gRPC on 127.0.0.1:{server.port}, metrics on port {server.metrics_port}")
            seen, wrong = _drive(server.port)
            return seen, wrong + _check_http(server.metrics_port)


def _drive(port: int) -> tuple[list[_Seen], list[str]]:
    from penstock_client import Client, InferenceError

    target = f"127.0.0.1:{port}"
    with Client(target, timeout=30.0, options=channel_options(target)) as client:
        if not client.is_ready():
            return [], ["the server is not ready"]
        # That call has connected already; its time would say nothing about the server.
        try:
            seen = [_ask(client, example) for example in all_examples()]
            seen.append(_listen(client, speech_example()))
            seen.append(_listen_to_streams(client, speech_example()))
            seen.append(_write_on(client, writing_example()))
            executions = {model.name: model.execution_count for model in client.statistics()}
        except InferenceError as error:
            return [], [f"a request failed: {error}"]
    for one in seen:
        one.batches = executions[one.model]
    return seen, []


def _ask(client: "Client", example: Example) -> _Seen:
    """Send each row as a request of its own, all at once: the server makes batches of them."""
    seconds: list[float] = []

    def one(row: int) -> Tensors:
        began = time.perf_counter()
        result = client.infer(example.model, {k: v[row : row + 1] for k, v in example.inputs.items()})
        seconds.append(time.perf_counter() - began)
        return result

    rows = len(example.rows)
    with ThreadPoolExecutor(rows) as pool:
        answers = list(pool.map(one, range(rows)))
    outputs = {name: np.concatenate([answer[name] for answer in answers]) for name in example.expected}
    words = f"{example.rows[0]} → {example.describe(outputs)[0]}"
    return _Seen(example.model, example.title.partition(": ")[2], words, seconds, example.differences(outputs))


def _listen(client: "Client", speech: SpeechExample) -> _Seen:
    """Walk through a recording; the client carries the model's state from frame to frame."""
    heard: list[float] = []
    seconds: list[float] = []
    state = speech.initial_state
    for window in speech.windows:
        began = time.perf_counter()
        answer = client.infer(speech.model, {"input": window, "state": state})
        seconds.append(time.perf_counter() - began)
        heard.append(float(answer["output"][0, 0]))
        state = answer["stateN"]
    differences = speech.differences(heard)
    words = f"'{speech.text}' → {speech.describe(heard)}"
    return _Seen(speech.model, speech.title.partition(": ")[2], words, seconds, differences)


def _listen_to_streams(client: "Client", speech: SpeechExample) -> _Seen:
    """Send the recording on many streams at once: the server keeps each one's state, and batches across them."""
    from penstock_client import StreamRequest

    seconds: list[float] = []

    def one(_: int) -> list[float]:
        began = time.perf_counter()
        requests = (StreamRequest(LISTENER, {"input": window}) for window in speech.windows)
        heard = [float(answer.result()["output"][0, 0]) for answer in client.stream(requests)]
        seconds.extend([(time.perf_counter() - began) / len(heard)] * len(heard))
        return heard

    with ThreadPoolExecutor(_STREAMS) as pool:
        every = list(pool.map(one, range(_STREAMS)))
    differences = [problem for heard in every for problem in speech.differences(heard)]
    words = f"{_STREAMS} times the same at once, each on a stream → {speech.describe(every[0])}"
    return _Seen(LISTENER, "the same model, whose memory the server keeps", words, seconds, differences)


def _write_on(client: "Client", writing: WritingExample) -> _Seen:
    """Begin several sentences on one stream: each step of the model writes a character of all that are not done."""
    from penstock_client import StreamRequest

    written = dict.fromkeys(writing.prompts, "")
    requests = (
        StreamRequest(writing.model, {"PROMPT": [[prompt]], "LENGTH": [[writing.length]]}, request_id=prompt)
        for prompt in writing.prompts
    )
    began = time.perf_counter()
    count = 0
    for answer in client.stream(requests):
        written[answer.id] += answer.result().text("TEXT").item()
        count += 1
    seconds = [(time.perf_counter() - began) / max(count, 1)] * count
    first, *_ = writing.prompts
    words = f"{first}... → ...{written[first].strip()}"
    question = f"{writing.title.partition(': ')[2]}, a character a response"
    return _Seen(writing.model, question, words, seconds, writing.differences(list(written.values())))


def _check_http(port: int) -> list[str]:
    """Whether the operators' port answers."""
    browser = build_opener(ProxyHandler({}))  # whatever the environment says: a proxy has no way to this port
    wrong: list[str] = []
    for path, expected in (("/v2/health/ready", ""), ("/metrics", "nv_inference_count")):
        try:
            with browser.open(f"http://127.0.0.1:{port}{path}", timeout=5.0) as response:
                if expected not in response.read().decode():
                    wrong.append(f"{path} lacks {expected}")
        except OSError as error:  # a status that is no success is one, too
            wrong.append(f"{path}: {error}")
    return wrong


def _table(seen: list[_Seen]) -> Table:
    table = Table()
    table.add_column("model")
    for name in ("responses", "batches", "median ms", "slowest ms"):
        table.add_column(name, justify="right")
    table.add_column("answers")
    for one in seen:
        times = (f"{median(one.seconds) * 1e3:.2f}", f"{max(one.seconds) * 1e3:.2f}")
        mark = "[red]WRONG[/]" if one.wrong else "[green]right[/]"
        table.add_row(one.model, str(len(one.seconds)), str(one.batches), *times, mark)
    return table
