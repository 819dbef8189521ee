"""The supervisor with processes that are no servers: what is done when they go wrong."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import msgspec
import pytest

from penstock_server.app.logs import LogFormat, LogLevel
from penstock_server.app.workers import supervisor as supervisor_module
from penstock_server.app.workers.plans import Plan
from penstock_server.app.workers.port import hold_port, port_of
from penstock_server.app.workers.supervision import Finish, Patience
from penstock_server.app.workers.supervisor import Supervisor
from penstock_server.errors import BindError
from tests.server.metrics.test_metrics import Answer, fetch

HURRY = Patience(first_wait=0.001, longest_wait=0.002, most_failures=3)


@pytest.fixture
def plan() -> Iterator[Plan]:
    """Two workers on a free port, and no metrics port."""
    settings = os.memfd_create("settings", 0)
    yield Plan(
        workers=2,
        host="127.0.0.1",
        port=0,
        metrics_port=None,
        drain_seconds=60.0,
        log_level=LogLevel.INFO,
        log_format=LogFormat.TEXT,
        settings_file=settings,
    )
    os.close(settings)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes a module of a text, for workers to run."""

    def module(text: str) -> str:
        (tmp_path / "impostor.py").write_text(dedent(text))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "impostor"

    return module


async def test_workers_that_end_at_once_are_given_up(plan: Plan, module: Callable[[str], str]) -> None:
    """With a sentence that says which, how often and how."""
    finish = await Supervisor(plan, module("raise SystemExit(3)"), HURRY).run()
    assert finish.status == 1
    assert finish.reason in {
        f"worker {number} has failed 3 times in a row, the last time it ended with status 3" for number in (1, 2)
    }


async def test_workers_that_cannot_be_understood_are_given_up(
    plan: Plan, module: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """Their process ends when the link does; what they have sent is told to nobody."""
    text = """
        import json, os, sys
        link = json.loads(sys.argv[1])["link"]
        os.write(link, b"\\x00\\x00\\x00\\x03abc")
        os.read(link, 1)  # until the supervisor closes it
    """
    finish = await Supervisor(plan, module(text), HURRY).run()
    assert finish.status == 1
    assert "the other process cannot be understood" in caplog.text


async def test_last_words_count(plan: Plan, module: Callable[[str], str]) -> None:
    """A worker says why it cannot start and is gone at once: its words are read before its end is acted upon."""
    text = """
        import json, os, sys
        import msgspec
        body = msgspec.msgpack.encode({"type": "Refused", "status": 2, "message": "no such model"})
        os.write(json.loads(sys.argv[1])["link"], len(body).to_bytes(4, "big") + body)
        os._exit(2)
    """
    assert await Supervisor(plan, module(text), HURRY).run() == Finish(2, "no such model")


async def test_a_worker_that_does_not_respond_is_not_live(
    plan: Plan, module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a single server whose loop hangs: whoever asks is told in time, and numbers of the others still come."""
    text = """
        import json, os, sys
        import msgspec
        post = json.loads(sys.argv[1])
        def send(message):
            body = msgspec.msgpack.encode(message)
            os.write(post["link"], len(body).to_bytes(4, "big") + body)
        served = dict(host="", grpc_port=1, metrics_port=0, tls=False, versions=[], unready=[], ready=True)
        send({"type": "Started", "served": served})
        while (heard := os.read(post["link"], 1000)) and b"Stop" not in heard:
            if b"Ask" in heard and post["worker"] == 1:
                send({"type": "Report", "ready": True, "families": [["x", "X", "gauge", [["x", {}, 5.0]]]]})
    """
    monkeypatch.setattr(supervisor_module, "_ANSWER_SECONDS", 0.05)
    supervisor = Supervisor(msgspec.structs.replace(plan, metrics_port=0), module(text), HURRY)
    running = asyncio.create_task(supervisor.run())

    async def told(path: str) -> Answer:
        return await asyncio.to_thread(fetch, supervisor.metrics_port, path)

    await asyncio.sleep(0)
    body = ""  # worker 1 may once or twice be slow itself
    while not ("penstock_workers 2.0" in body and "\nx 5.0\n" in body):
        body = (await told("/metrics")).body
    assert (await told("/v2/health/live")).status == 503
    assert (await told("/v2/health/ready")).status == 503
    signal.raise_signal(signal.SIGTERM)
    assert await running == Finish(0, "")


async def test_a_port_that_somebody_has_starts_nobody(plan: Plan, module: Callable[[str], str]) -> None:
    """It is refused before any worker is."""
    with hold_port("127.0.0.1", 0) as other, pytest.raises(BindError, match="in use"):
        await Supervisor(msgspec.structs.replace(plan, port=port_of(other)), module("raise AssertionError")).run()
