"""`penstock demo`: right answers are a success, and nothing else is."""

import subprocess
import sys

from tests.server.cli.processes import END_SECONDS, environment, penstock

SABOTAGE = """
import dataclasses, sys
from penstock_server.cli import demo, main

def mistaken(example):
    return dataclasses.replace(example, expected={**example.expected, "label": example.expected["label"][::-1]})

examples, writing = demo.all_examples(), demo.writing_example()
demo.all_examples = lambda: [mistaken(example) for example in examples]
demo.writing_example = lambda: dataclasses.replace(writing, texts=writing.texts[::-1])
sys.exit(main.run(["demo"]))
"""
"""The demo, with expectations that the models do not meet."""

BROKEN = """
import sys
from pathlib import Path
from penstock_server.cli import demo, main

demo.write_all = lambda folder: Path(sys.argv[1])
sys.exit(main.run(["demo"]))
"""
"""The demo of another repository."""


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=END_SECONDS, encoding="utf-8"
    )


def test_the_demo_shows_every_model_and_ends_with_0() -> None:
    """Behind a proxy that has no way to this machine, too: the demo needs no network."""
    proxy = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY")}
    done = penstock("demo", variables=proxy)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for words in ("digits", "setosa", "Dutch", "speech at", "one drop falls alone", "Every answer was right."):
        assert words in done.stdout
    assert "WRONG" not in done.stdout


def test_a_wrong_answer_ends_the_demo_with_1() -> None:
    """Each model whose answer is wrong is named, and what differs."""
    done = run(SABOTAGE)
    assert done.returncode == 1
    assert "Every answer was right." not in done.stdout
    assert done.stdout.count("WRONG") == 4
    complaints = done.stderr.splitlines()
    assert all(line.endswith("values differ") for line in complaints[:3])
    wrong = [line.partition(": label: ")[0] for line in complaints[:3]]
    assert wrong == ["penstock: digits", "penstock: iris", "penstock: language"]
    assert complaints[3].startswith("penstock: writer: 'When': ")


def test_a_demo_without_models_says_why() -> None:
    """Its server is no success by itself: what keeps it from answering is told in a line."""
    done = run(BROKEN, "no/such/folder")
    assert done.returncode == 1
    line = "penstock: no/such/folder: cannot read the model repository: No such file or directory"
    assert done.stderr.splitlines() == [line]
