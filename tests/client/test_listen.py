"""The example `listen.py`, run as its reader would, against a server with the models that come with Penstock."""

import re
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from penstock_server.app.run import ServerThread
from penstock_server.app.settings import ServerSettings
from penstock_server.examples import speech_example, write_repository_with_listener
from penstock_server.transports.base import TransportSettings

PROGRAM = Path(__file__).parents[2] / "clients" / "python" / "examples" / "listen.py"
SPEECH = speech_example()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    source = write_repository_with_listener(tmp_path_factory.mktemp("models"))
    settings = ServerSettings(source=source, transport=TransportSettings(port=0), metrics_port=None)
    with ServerThread(settings) as server:
        yield f"127.0.0.1:{server.port}"


def listen(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, encoding="utf-8")


def write_wav(path: Path, seconds: float, rate: int = 16_000) -> Path:
    """The beginning of the recording."""
    with wave.open(str(SPEECH.recording)) as file:
        samples = file.readframes(round(seconds * 16_000))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples)
    return path


def test_it_hears_what_the_published_model_hears(target: str) -> None:
    """Frame by frame, and from when to when somebody speaks."""
    done = listen("--url", target)
    assert (done.returncode, done.stderr) == (0, "")
    *frames, last = done.stdout.splitlines()
    heard = [float(probability) for line in frames for probability in re.findall(r" s  (\d\.\d+)", line)]
    np.testing.assert_allclose(heard, SPEECH.probabilities, atol=0.0006)  # three digits are printed
    assert last == SPEECH.describe(SPEECH.probabilities)


def test_it_keeps_the_pace_of_a_microphone(target: str, tmp_path: Path) -> None:
    """Half a second of sound takes half a second; the last frame may be half full."""
    began = time.monotonic()
    done = listen(write_wav(tmp_path / "half.wav", 0.5), "--url", target, "--real-time", "--spans")
    assert time.monotonic() - began > 0.5
    assert (done.returncode, done.stdout) == (0, "speech at 0.42-0.51 s\n")


def test_what_it_cannot_do_it_says_in_a_line(target: str, tmp_path: Path) -> None:
    """A recording of another kind, no recording, no such model."""
    done = listen(write_wav(tmp_path / "slow.wav", 0.1, rate=8000))
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == f"listen.py: {tmp_path / 'slow.wav'} has 8000 Hz, 16 bit, 1 channels: convert it, --help shows how\n"
    )
    (tmp_path / "text.wav").write_text("no sound")
    assert "is not a WAV file" in listen(tmp_path / "text.wav").stderr
    done = listen("--url", target, "--model", "nobody")
    assert done.returncode == 1
    assert done.stderr == "listen.py: NOT_FOUND: Request for unknown model: 'nobody' is not found\n"


def test_its_help_tells_how_to_serve_the_model() -> None:
    """All that is needed to use it is there."""
    shown = listen("--help").stdout
    for words in ("python -m penstock_server.examples models", "penstock serve models", "--real-time", "sox"):
        assert words in shown


def test_whoever_leaves_a_stream_unfinished_ends(target: str) -> None:
    """Also if nothing was closed: a lock of gRPC's threads, which are gone first, must not keep the interpreter."""
    program = (
        "import sys; from penstock_client import Client, StreamRequest; "
        "answers = Client(sys.argv[1]).stream([StreamRequest('nobody', {'x': [1.0]})] * 3); "
        "print(next(answers, None))"
    )
    done = subprocess.run([sys.executable, "-c", program, target], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "NOT_FOUND" in done.stderr + done.stdout) == (1, True)
