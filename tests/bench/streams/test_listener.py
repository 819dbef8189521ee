"""The model of the comparison of streams, held against the example that users see."""

from pathlib import Path

import numpy as np
import pytest

from penstock_bench.load.sequences import first_step
from penstock_bench.streams import listener
from penstock_server.examples import LISTENER, speech_example, write_repository_with_listener
from penstock_server.models.config import parse_config


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> listener.Listener:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listener, "_KNOWN_STEPS", 64)
        return listener.Listener(tmp_path_factory.mktemp("listener"))


def test_frames_are_the_windows_of_the_example(known: listener.Listener) -> None:
    """Two ways to cut one recording."""
    assert np.array_equal(known.frames, speech_example().windows[:, 0])


def test_what_is_expected_is_what_the_published_model_says(known: listener.Listener) -> None:
    """The first stream begins with the recording; the others in the midst of it, with a silent past of their own."""
    speech = speech_example()
    heard = known.expected(2, len(speech.windows))
    assert np.allclose(heard[0], speech.probabilities, atol=speech.tolerance)
    assert first_step(0, len(known.frames)) == 0
    assert not np.allclose(heard[1], heard[0], atol=0.1)
    assert np.load(known.expected_file).shape == (4, 64)
    assert np.allclose(np.load(known.expected_file)[0], heard[0, :64], atol=1e-5)


def test_the_configuration_is_the_demos(tmp_path: Path) -> None:
    """But for how many sequences there may be, and the warm-up."""
    text = listener.config("onnxruntime", 64, 1024, f"{listener.STATE}}}")
    demo = (write_repository_with_listener(tmp_path / "demo") / LISTENER / "config.pbtxt").read_text()
    ours, theirs = parse_config(text, file="ours"), parse_config(demo, file="demo")
    theirs.ClearField("model_warmup")
    assert ours == theirs
