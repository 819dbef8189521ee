"""A server is believed after it has been asked what is known."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from penstock_bench.peers.asking import check, wait_until_ready
from penstock_bench.peers.base import PeerFailed, RunningPeer
from penstock_bench.peers.bodies import raw, text
from penstock_bench.peers.loads import Effort, Load, plan_of
from penstock_bench.peers.models import Array, BenchModel, Rows, make, make_set
from penstock_bench.peers.process import free_port
from tests.bench.peers.fakes import Answer, HttpServer, iris, right, wrong


@contextmanager
def served(model: BenchModel, answer: Answer) -> Iterator[RunningPeer]:
    server = HttpServer(model, answer)
    try:
        yield RunningPeer("127.0.0.1", server.port, (), "", raw("/"))
    finally:
        server.close()


def test_right_answers_are_believed(tmp_path: Path) -> None:
    """Those of ONNX Runtime alone are the measure."""
    model = iris(tmp_path)
    with served(model, right) as peer:
        check(peer, model)


def test_wrong_values_are_not(tmp_path: Path) -> None:
    """And the output that is wrong is named."""
    model = iris(tmp_path)
    with served(model, wrong) as peer, pytest.raises(PeerFailed, match="answers wrongly: 'label' has other values"):
        check(peer, model)


def test_answers_to_somebody_else_are_found(tmp_path: Path) -> None:
    """A server that answers every caller with the first one's answer is right for one request."""
    model = iris(tmp_path)
    first: list[list[Array]] = []

    def same_for_all(model: BenchModel, row: Rows) -> list[Array]:
        first.append(model.expected(row))
        return first[0]

    with served(model, same_for_all) as peer, pytest.raises(PeerFailed, match="answers wrongly"):
        check(peer, model)


def test_answers_of_another_length_are_no_answers(tmp_path: Path) -> None:
    """They are not taken apart anyhow."""
    model = iris(tmp_path)
    with (
        served(model, lambda model, row: model.expected(row)[:1]) as peer,
        pytest.raises(PeerFailed, match="8 bytes came back, and 20 are due"),
    ):
        check(peer, model)


@pytest.mark.parametrize("bodies", [raw("/"), None], ids=["HTTP", "gRPC"])
def test_a_server_that_never_comes(tmp_path: Path, bodies: object) -> None:
    """Is waited for so long and no longer."""
    peer = RunningPeer("127.0.0.1", free_port(), (), "", raw("/") if bodies else None)
    with pytest.raises(PeerFailed, match="was not ready after 0 s"):
        wait_until_ready(peer, iris(tmp_path), 0.0, lambda: None)


def test_bodies_of_text_have_the_bytes() -> None:
    """JSON with base64, alone or in lists; an answer of another form is none."""
    alone, listed = text("/"), text("/", lists=True)
    assert alone.answer(alone.request(b"\x00\x01")) == b"\x00\x01"
    assert listed.request(b"a") == b'{"data": ["YQ=="]}'
    assert listed.answer(b'["YQ=="]') == b"a"
    for nonsense in (b"[]", b"{}", b"3", b"{"):
        with pytest.raises(ValueError):  # noqa: PT011 - json's own error is one, too
            listed.answer(nonsense)


@pytest.mark.parametrize(
    ("name", "shape", "outputs"),
    [
        ("iris", (4,), {"label": ("INT64", (1,)), "probabilities": ("FP32", (3,))}),
        ("mlp", (1024,), {"output": ("FP32", (10,))}),
        ("image", (3, 224, 224), {"output": ("FP32", (3,))}),
    ],
)
def test_the_models_take_batches(
    tmp_path: Path, name: str, shape: tuple[int, ...], outputs: dict[str, tuple[str, tuple[int, ...]]]
) -> None:
    """Every model has a free batch axis, and answers a row in a batch as it does alone."""
    model = make(name, tmp_path)
    assert model.shape == shape
    assert {output.name: (output.datatype, output.shape) for output in model.outputs} == outputs
    rows = model.draw(3, seed=1)
    for together, alone in zip(model.expected(rows), model.expected(rows[1:2]), strict=True):
        assert np.allclose(together[1:2].astype(float), alone.astype(float), 1e-4, 1e-5)
    assert model.parse(b"".join(values[:1].tobytes() for values in model.expected(rows)))[0].shape[0] == 1


def test_the_mix_is_of_models_that_differ(tmp_path: Path) -> None:
    """Sixteen, each asked in four shapes; two of equal inputs have other answers, so that a mix-up is seen."""
    found = make_set("mix", tmp_path)
    assert (len(found.models), len(found.rows), found.forms) == (16, 4, 64)
    assert len({model.name for model in found.models}) == 16
    same = [model for model in found.models if model.shape == (4,)]
    rows = same[0].draw(1, seed=1)
    answers = [model.expected(rows)[0].tobytes() for model in same]
    assert len(set(answers)) == len(same) == 4


def test_a_load_on_the_mix_is_of_all_forms(tmp_path: Path) -> None:
    """With a timeout on each call, in equal parts, and no more requests prepared than one process can hold."""
    found = make_set("mix", tmp_path)
    peer = RunningPeer("127.0.0.1", 1, ())
    plan = plan_of(Load(4, 64), Effort(), peer, found, round=3)
    assert {(item.model, item.rows) for item in plan.mix} == {
        (model.name, rows) for model in found.models for rows in (1, 2, 4, 8)
    }
    assert {item.weight for item in plan.mix} == {1.0}
    assert plan.timeouts is not None
    assert plan.timeouts.indexed
    assert plan.variants * len(plan.mix) <= 8192
    alone = plan_of(Load(4, 64), Effort(), peer, make_set("iris", tmp_path), round=3)
    assert ([item.model for item in alone.mix], alone.variants, alone.timeouts) == (["iris"], 2048, None)


def test_a_model_is_the_same_every_time(tmp_path: Path) -> None:
    """Weights are drawn with a fixed seed, so that runs on two days compare the same."""
    first = make("mlp", tmp_path / "a").path.read_bytes()
    assert make("mlp", tmp_path / "b").path.read_bytes() == first
