"""`penstock serve` in a process of its own, asked from this one: as operators start it and clients find it."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
import tritonclient.grpc as triton

from penstock_client import Client, Health, InferenceError
from penstock_server.cli import main
from penstock_server.examples import REPOSITORY, all_examples
from tests.server.backends.python_models import write
from tests.server.cli.conftest import Ear, copy_of
from tests.server.cli.processes import Server, penstock, serving

FLOWER = "X=5.1,3.5,1.4,0.2"


def get(url: str) -> tuple[int, str]:
    """Status and body of an HTTP answer."""
    try:
        with urlopen(url, timeout=60.0) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


# ── what is served where ──────────────────────────────────────────────────────────────────────────


def test_the_log_says_what_is_served_where(examples: Server) -> None:
    """Each model with what it takes and gives, both ports, and that the server is ready; for machines as fields."""
    models = {record["model"]: record for record in examples.records if "serving" in record["message"]}
    assert set(models) == {"digits", "iris", "language", "silero_vad"}
    assert models["iris"]["version"] == 1
    assert models["iris"]["message"] == (
        "serving model 'iris' version 1: X FP32 [-1,4] → label INT64 [-1,1], probabilities FP32 [-1,3]"
    )
    port, http = examples.until("grpc_port"), examples.until("metrics_port")
    assert port["message"] == f"gRPC on 127.0.0.1:{port['grpc_port']}"
    assert http["message"] == f"metrics and health on http://127.0.0.1:{http['metrics_port']}/metrics"
    assert examples.until("ready")["ready"] is True
    assert {record["level"] for record in examples.records} == {"info"}


def test_penstocks_client_is_answered(examples: Server) -> None:
    """The examples' known answers come back from another process."""
    with Client(examples.target, timeout=60.0) as client:
        assert client.is_ready()
        assert client.health() is Health.SERVING
        for example in all_examples():
            assert example.differences(client.infer(example.model, example.inputs)) == []


def test_tritons_client_is_answered(examples: Server) -> None:
    """A user of Triton changes the address and nothing else."""
    with triton.InferenceServerClient(examples.target) as client:
        assert client.is_server_ready()
        tensor = triton.InferInput("X", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.array([[5.1, 3.5, 1.4, 0.2]], np.float32))
        result = client.infer("iris", [tensor])
        assert result is not None
        label = result.as_numpy("label")
        assert label is not None
        assert label.tolist() == [[0]]


def test_health_and_metrics_are_served_over_http(examples: Server) -> None:
    """For probes and for Prometheus; other paths are told what there is."""
    assert get(f"{examples.http}/v2/health/live") == (200, "")
    assert get(f"{examples.http}/v2/health/ready") == (200, "")
    status, text = get(f"{examples.http}/metrics")
    assert status == 200
    assert 'nv_inference_request_success{model="iris",version="1"}' in text
    status, text = get(f"{examples.http}/")
    assert status == 404
    assert "/metrics" in text


@pytest.mark.parametrize("option", ["--grpc-port", "--metrics-port"])
def test_a_port_in_use_is_told_in_one_line(examples: Server, option: str) -> None:
    """By another Penstock too, before any model is loaded; the status is 2."""
    port = examples.until(option[2:].replace("-", "_"))[option[2:].replace("-", "_")]
    ports = {"--grpc-port": 0, "--metrics-port": 0, option: port}
    done = penstock("serve", REPOSITORY, *(word for pair in ports.items() for word in pair))
    assert done.returncode == 2
    assert done.stderr == f"penstock: cannot listen on 127.0.0.1:{port}: Address already in use\n"


# ── penstock infer ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def infer(examples: Server, said: Ear) -> Callable[..., tuple[int, str, str]]:
    """Runs `penstock infer` against the examples. Status, output and complaint."""

    def infer(*arguments: object) -> tuple[int, str, str]:
        status = main.run(["infer", *map(str, arguments), "--url", examples.target])
        heard = said()
        return status, heard.out, heard.err

    return infer


def test_infer_prints_an_answer_for_people(infer: Callable[..., tuple[int, str, str]]) -> None:
    """Model and version, and each output with its datatype, shape and values."""
    status, text, trouble = infer("iris", "--input", FLOWER)
    assert (status, trouble) == (0, "")
    first, label, values, probabilities, row = text.splitlines()
    assert (first, label, values) == ("iris version 1", "label  INT64 [1, 1]", "[[0]]")
    assert probabilities == "probabilities  FP32 [1, 3]"
    assert np.array(json.loads(row)).argmax() == 0


def test_infer_prints_an_answer_for_machines(infer: Callable[..., tuple[int, str, str]]) -> None:
    """One line of JSON in the form of the protocol's HTTP variant."""
    status, text, trouble = infer("language", "--input", 'text=["Où est la gare, Madame ?"]', "-o", "label", "--json")
    assert (status, trouble) == (0, "")
    label = {"name": "label", "datatype": "BYTES", "shape": [1, 1], "data": ["French"]}
    assert text.count("\n") == 1
    assert json.loads(text) == {"model_name": "language", "model_version": "1", "outputs": [label]}


def test_infer_shows_the_best_classes(infer: Callable[..., tuple[int, str, str]]) -> None:
    """With their scores and labels, as the protocol's classification writes them."""
    status, text, _ = infer("iris", "-i", FLOWER, "-o", "probabilities", "--classes", 1)
    assert status == 0
    assert text.splitlines()[-1].endswith(":0:setosa']]")


def test_infer_takes_files_versions_and_parameters(infer: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """Eight numbers in a file are two flowers."""
    np.save(tmp_path / "x.npy", np.array([5.1, 3.5, 1.4, 0.2, 6.7, 3.0, 5.2, 2.3]))
    words = ("--parameter", "mine=1", "--parameter", "note=hello", "--model-version", 1)
    status, text, _ = infer("iris", "-i", f"X=@{tmp_path / 'x.npy'}", *words, "--json")
    assert status == 0
    assert json.loads(text)["outputs"][0]["data"] == [0, 2]


def test_infer_asks_the_version_that_is_named(iris: Path, said: Ear) -> None:
    """Otherwise the server chooses, which is the newest."""
    shutil.copytree(iris / "iris/1", iris / "iris/2")
    config = iris / "iris/config.pbtxt"
    config.write_text(f"version_policy {{ all {{}} }}\n{config.read_text()}")
    with serving(iris) as server:
        for options, version in ((["--model-version", "1"], 1), ([], 2)):
            assert main.run(["infer", "iris", "-i", FLOWER, "--url", server.target, *options]) == 0
            assert said().out.startswith(f"iris version {version}\n")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["iris"], 2, "model 'iris' takes X FP32 [-1, 4]; give it with --input NAME=VALUE"),
        (["iris", "-i", "Y=1"], 2, "model 'iris' has no input 'Y'; it takes X FP32 [-1, 4]"),
        (["iris", "-i", "X"], 2, "--input must look like NAME=VALUE, not 'X'"),
        (["iris", "-i", "X=1", "-i", "X=2"], 2, "--input X=… is given twice; once is enough"),
        (["iris", "-i", "X=a,b"], 2, "input 'X' of model 'iris': 'a' is no FP32; write numbers, such as 1.5,2"),
        (
            ["iris", "-i", "X=1,2"],
            2,
            "input 'X' of model 'iris': 2 values do not fill [-1,4]; give whole rows, or nest them as JSON, [[…],[…]]",
        ),
        (["iris", "-i", "X=[[1,2],[3]]"], 2, "input 'X' of model 'iris': "),
        (["iris", "-i", FLOWER, "--parameter", "x"], 2, "--parameter must look like NAME=VALUE, not 'x'"),
        (
            ["iris", "-i", FLOWER, "--metadata", "a b=x"],
            2,
            "a key of --metadata has letters, digits and _ . - and no grpc- before them, not 'a b'",
        ),
        (["iris", "--metadata", "a=ä"], 2, "a value of --metadata has printable ASCII only, not 'ä'"),
        (["\udcff"], 2, r"an argument is no UTF-8 text: '\udcff'"),
        (["iris", "-i", FLOWER, "--parameter", "x=\udcff"], 2, r"an argument is no UTF-8 text: '\udcff'"),
        (
            ["iris", "-i", FLOWER, "--parameter", f"x={2**70}"],
            2,
            "parameter 'x' is no bool, float, str or int of 64 bits: ",
        ),
        (["nope"], 1, "{url} answers NOT_FOUND: "),
        (["iris", "--model-version", "9"], 1, "{url} answers NOT_FOUND: "),
        (["iris", "-i", FLOWER, "-o", "colour"], 1, "{url} answers INVALID_ARGUMENT: "),
    ],
)
def test_infer_says_in_one_line_what_is_wrong(
    infer: Callable[..., tuple[int, str, str]], examples: Server, arguments: list[str], status: int, message: str
) -> None:
    """Status 2 for what was typed, with the input's name and the remedy; 1 for what the server answers."""
    ended, text, trouble = infer(*arguments)
    assert (ended, text) == (status, "")
    (line,) = trouble.splitlines()
    assert line.startswith(f"penstock: {message.format(url=examples.target)}")
    if not message.endswith(": "):
        assert line == f"penstock: {message}"


def test_infer_wants_an_address_without_a_scheme(said: Ear) -> None:
    """People copy URLs."""
    assert main.run(["infer", "iris", "--url", "http://127.0.0.1:8001"]) == 2
    message = "--url is HOST:PORT without a scheme (TLS is switched on with --tls or --tls-ca)"
    assert said().err == f"penstock: {message}, not 'http://127.0.0.1:8001'\n"


def test_infer_says_that_nobody_is_there(said: Ear) -> None:
    """A port that is bound and not listened on is refused by the system."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        assert main.run(["infer", "iris", "-i", FLOWER, "--url", url, "--timeout", "5"]) == 1
    (line,) = said().err.splitlines()
    assert line.startswith(f"penstock: nobody answers at {url}: ")


def test_infer_sends_metadata(iris: Path, said: Ear) -> None:
    """So that a tenant can be tried from the shell. A model that knows its tenants answers no other."""
    config = iris / "iris/config.pbtxt"
    parameters = {"known_tenants_only": "true", "tenant_weights": "gold=3"}
    texts = [f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()]
    config.write_text("\n".join([config.read_text(), *texts]))
    with serving(iris, "--tenant-key", "penstock-tenant") as server:
        ask = ["infer", "iris", "-i", FLOWER, "--url", server.target]
        assert main.run([*ask, "--metadata", "PENSTOCK-tenant=gold", "--metadata", "any-bin=x"]) == 0
        said()
        assert main.run([*ask, "--metadata", "penstock-tenant=lead"]) == 1
        assert "answers PERMISSION_DENIED: " in said().err


def test_infer_is_a_program_that_proxies_and_variables_guide(examples: Server) -> None:
    """As in a shell of its own: the address from the environment, and no proxy for what is on this machine."""
    variables = {
        "PENSTOCK_URL": examples.target,
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = penstock("infer", "iris", "--input", FLOWER, variables=variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("iris version 1\n")


# ── models that cannot be served ──────────────────────────────────────────────────────────────────


@pytest.fixture
def spoiled(iris: Path) -> Path:
    """A repository of a good model and three that are broken in different ways."""
    copy_of("digits", iris)
    config = iris / "digits/config.pbtxt"
    config.write_text(config.read_text().replace("dims: [ 64 ]", "dims: [ 63 ]"))
    for name, file, text in (
        ("code", "1/model.py", "def f(:\n"),
        ("typo", "config.pbtxt", 'inputs { name: "X" }\nmax_batch_size: -1\n'),
    ):
        (iris / name / file).parent.mkdir(parents=True)
        (iris / name / file).write_text(text)
    return iris


REASONS = {
    "code": "code/1/model.py: it raised SyntaxError",
    "digits": "digits/config.pbtxt, field 'input[0].dims': input 'image': the model has shape [-1,64], got [-1,63]",
    "typo": "typo/config.pbtxt, field 'inputs': line 1: ModelConfig has no field 'inputs', did you mean 'input'?",
}
"""By model: file, field and reason, wherever it is told."""


def test_a_good_model_is_served_beside_broken_ones(spoiled: Path) -> None:
    """Requests to it are answered; the server says that it is not ready, and the log why."""
    with serving(spoiled) as server:
        assert server.until("ready") == {**server.records[-1], "ready": False, "level": "warning"}
        for model, reason in REASONS.items():
            record = server.until("message", f"model '{model}'")
            assert record["level"] == "error"
            assert reason in record["message"]
        assert get(f"{server.http}/v2/health/ready")[0] == 503
        assert get(f"{server.http}/v2/health/live")[0] == 200
        with Client(server.target, timeout=60.0) as client:
            assert not client.is_ready()
            assert client.infer("iris", {"X": [[5.1, 3.5, 1.4, 0.2]]})["label"] == [[0]]
            with pytest.raises(InferenceError, match="NOT_FOUND"):
                client.infer("typo", {"X": [[1]]})


def test_check_tells_everything_at_once(spoiled: Path, said: Ear) -> None:
    """Good and bad, each with its reasons, and a count; the status is 1."""
    assert main.run(["check", str(spoiled)]) == 1
    heard = said()
    lines = heard.out.splitlines()
    assert lines[-1] == "1 good, 3 bad"
    assert "ok  iris version 1  X FP32 [-1,4] → label INT64 [-1,1], probabilities FP32 [-1,3]" in lines
    for model, reason in REASONS.items():
        place = next(index for index, line in enumerate(lines) if line.startswith(f"BAD {model}"))
        assert lines[place + 1].startswith("    error: ")
        assert reason in lines[place + 1]
    assert heard.err == ""


def test_check_is_content_with_good_models(said: Ear) -> None:
    """All are loaded and warmed up; no port is opened."""
    assert main.run(["check", str(REPOSITORY)]) == 0
    assert said().out.splitlines()[-1] == "4 good, 0 bad"


def test_check_tells_all_problems_of_one_model(iris: Path, said: Ear) -> None:
    """Two mistakes are told in one go, below each other."""
    config = iris / "iris/config.pbtxt"
    config.write_text(config.read_text().replace("dims: [ 4 ]", "dims: [ 5 ]").replace("dims: [ 3 ]", "dims: [ 2 ]"))
    assert main.run(["check", str(iris)]) == 1
    text = said().out
    assert "field 'input[0].dims'" in text
    assert "field 'output[1].dims'" in text
    assert all(line.startswith(("BAD", "    ")) for line in text.splitlines()[:-1])


def test_check_tells_that_a_model_fails_to_close(tmp_path: Path, said: Ear) -> None:
    """What a model's own code does at its end belongs to its check."""
    (tmp_path / "sloppy/1").mkdir(parents=True)
    (tmp_path / "sloppy/config.pbtxt").write_text(
        'input { name: "X" data_type: TYPE_FP32 dims: [ 1 ] } output { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] }'
    )
    (tmp_path / "sloppy/1/model.py").write_text(
        "from penstock_server.backends.python import PythonModel\n"
        "class Sloppy(PythonModel):\n"
        "    def infer(self, inputs, batch):\n"
        "        return {'Y': inputs['X']}\n"
        "    def close(self):\n"
        "        raise RuntimeError('left open\\nok  sloppy')\n"
    )
    assert main.run(["check", str(tmp_path)]) == 1
    first, error, continued, count = said().out.splitlines()
    assert (first, count) == ("BAD sloppy version 1", "0 good, 1 bad")
    assert error == "    error: closing it raised RuntimeError: left open"
    assert continued == "      ok  sloppy"


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "asyncio.CancelledError"])
def test_a_model_cannot_interrupt_anybody(iris: Path, said: Ear, error: str) -> None:
    """It is checked and told like any other bad model, and so are those that follow it."""
    (iris / "bad/1").mkdir(parents=True)
    (iris / "bad/1/model.py").write_text(f"import asyncio\nraise {error}\n")
    assert main.run(["check", str(iris)]) == 1
    lines = said().out.splitlines()
    assert lines[0] == "BAD bad version 1"
    assert f"bad/1/model.py: it raised {error.removeprefix('asyncio.')}" in lines[1]
    assert lines[-1] == "1 good, 1 bad"


def test_an_operator_can_interrupt_a_check(tmp_path: Path) -> None:
    """Ctrl-C ends it with 130, even while a model loads that would never end."""
    (tmp_path / "m/1").mkdir(parents=True)
    (tmp_path / "m/1/model.py").write_text(
        "import os, signal, threading\nos.kill(os.getpid(), signal.SIGINT)\nthreading.Event().wait()\n"
    )
    ended = penstock("check", tmp_path)
    assert (ended.returncode, ended.stderr) == (130, "")


def test_check_asks_models_without_samples_for_zeros(tmp_path: Path, said: Ear) -> None:
    """That this fails is no error, for zeros may be no valid input. Who has samples is not asked."""
    config = (
        'input { name: "X" data_type: TYPE_FP32 dims: [ 1 ] } output { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] }'
    )
    sample = (
        'model_warmup { batch_size: 1 inputs { key: "X" value { data_type: TYPE_FP32 dims: 1 random_data: true } } }'
    )
    for name, text in (("asked", config), ("warm", config + sample)):
        write(tmp_path / name / "1/model.py", "if not inputs['X']: raise ValueError('zero')\nreturn {'Y': inputs['X']}")
        (tmp_path / name / "config.pbtxt").write_text(text)
    assert main.run(["check", str(tmp_path)]) == 0
    assert said().out.splitlines() == [
        "ok  asked version 1  X FP32 [1] → Y FP32 [1]",
        "    warning: a request of zeros fails: ValueError: zero",
        "ok  warm version 1  X FP32 [1] → Y FP32 [1]",
        "2 good, 0 bad",
    ]


def test_a_server_that_can_serve_nothing_ends(iris: Path) -> None:
    """Status 1: it began, and something is wrong with every model. The log has the reasons, the last line says so."""
    (iris / "iris/1/model.onnx").write_bytes(b"no model")
    with serving(iris) as server:
        assert server.ends() == 1
        assert any("iris/1/model.onnx: ONNX Runtime cannot load it" in message for message in server.messages)
        assert server.rest == ["penstock: none of the models can be served: the log above says why"]
