"""What is sent: whole and varied requests, made to fit the model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock_bench.load.answers import BodyJudge, ModelJudge
from penstock_bench.load.messages import Signature, TensorSpec, affordable, http_variants, supply, variants
from penstock_bench.load.plan import ClosedLoop, HttpTarget, LoadError, LoadPlan, MixItem
from penstock_client.codec import infer_request
from penstock_proto.datatypes import DATATYPES
from penstock_proto.open_inference_pb2 import ModelInferRequest, ModelInferResponse

ID = b"0000000042"
IRIS = Signature(inputs=[TensorSpec("X", "FP32", [-1, 4])], outputs=[TensorSpec("label", "INT64", [-1])], batched=True)


def made(item: MixItem, signature: Signature = IRIS, count: int = 3, seed: int = 0) -> list[ModelInferRequest]:
    found = variants(item, 0, signature, seed=seed, count=count)
    whole = [one.lead + ID + one.body for one in found]
    for one, message in zip(found, whole, strict=True):
        assert one.size == len(message)
        assert message[:5] == b"\0" + (len(message) - 5).to_bytes(4, "big")
    return [ModelInferRequest.FromString(message[5:]) for message in whole]


def test_a_message_is_the_clients() -> None:
    """The parts around the id are what the reference client makes of the same request."""
    item = MixItem(model="iris", version="2", rows=2, outputs=["label"], parameters={"priority": 1})
    request = variants(item, 0, IRIS, seed=0, count=1)[0]
    message = request.lead[5:] + ID + request.body
    raw = ModelInferRequest.FromString(message).raw_input_contents[0]
    x = np.frombuffer(raw, "<f4").reshape(2, 4)
    known = infer_request(
        "iris", {"X": x}, None, version="2", outputs=["label"], parameters={"priority": 1}, request_id=ID.decode()
    )
    assert ModelInferRequest.FromString(message) == ModelInferRequest.FromString(known)
    assert message == known


def test_requests_differ_and_repeat_with_their_seed() -> None:
    """Each variant has values of its own; every process makes the same ones."""
    one, again, other = (made(MixItem(model="iris"), seed=seed, count=20) for seed in (1, 1, 2))
    assert one == again
    assert len({request.raw_input_contents[0] for request in one + other}) == 40


@pytest.mark.parametrize("datatype", list(DATATYPES))
def test_every_datatype_can_be_random(datatype: str) -> None:
    """With as many bytes as its shape has elements."""
    signature = Signature(inputs=[TensorSpec("x", datatype, [-1, -1, 3])], outputs=[], batched=True)
    request = made(MixItem(model="m", rows=2), signature, 1)[0]
    assert list(request.inputs[0].shape) == [2, 16, 3]
    size = DATATYPES[datatype].itemsize
    assert len(request.raw_input_contents[0]) == (2 * 16 * 3 * size if size else len(request.raw_input_contents[0]))


def test_shapes_can_be_given() -> None:
    """For axes that the model leaves open."""
    signature = Signature(inputs=[TensorSpec("x", "FP32", [-1, -1])], outputs=[], batched=True)
    request = made(MixItem(model="m", shapes={"x": [2, 100]}), signature, 1)[0]
    assert list(request.inputs[0].shape) == [2, 100]


def saved(folder: Path, array: "np.ndarray[Any, Any]") -> str:
    file = folder / "x.npy"
    np.save(file, array)
    return str(file)


def test_a_files_rows_are_used_in_turn(tmp_path: Path) -> None:
    """So many rows a request, and again from the beginning; what is left over is not sent."""
    rows = np.arange(20, dtype=np.float32).reshape(5, 4)
    requests = made(MixItem(model="iris", rows=2, inputs={"X": saved(tmp_path, rows)}))
    assert [request.raw_input_contents[0] for request in requests] == [
        rows[0:2].tobytes(),
        rows[2:4].tobytes(),
        rows[0:2].tobytes(),
    ]


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros((5, 3), np.float32), r"shape \[-1, 4\], and .* has \[5, 3\]"),
        (np.zeros((5, 4, 1), np.float32), "has shape"),
        (np.array(["a"]), "FP32 is expected"),
        (np.zeros((1, 4), np.float32), "has 1 rows, and a request takes 2"),
    ],
)
def test_a_file_must_fit(tmp_path: Path, array: "np.ndarray[Any, Any]", complaint: str) -> None:
    """Wrong shapes, types and lengths are a sentence."""
    with pytest.raises(LoadError, match=complaint):
        made(MixItem(model="iris", rows=2, inputs={"X": saved(tmp_path, array)}))


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        (MixItem(model="iris", inputs={"Y": "none.npy"}), "no input 'Y'; it takes X FP32"),
        (MixItem(model="iris", inputs={"X": "none.npy"}), "cannot read none.npy"),
        (MixItem(model="iris", inputs={"X": __file__}), "is no .npy file"),
        (MixItem(model="iris", shapes={"X": [1, 5]}), r"which \[1, 5\] is not"),
        (MixItem(model="iris", outputs=["y"]), "no output 'y'"),
    ],
)
def test_what_does_not_fit_is_a_sentence(item: MixItem, complaint: str) -> None:
    """It names the model and what it takes."""
    with pytest.raises(LoadError, match=complaint):
        made(item)


def test_large_requests_have_fewer_variants() -> None:
    """Memory is bounded."""
    plan = LoadPlan(host="h", port=1, mix=[MixItem(model="m")], load=ClosedLoop(concurrency=4))
    image = Signature(inputs=[TensorSpec("x", "FP32", [-1, 3, 224, 224])], outputs=[], batched=True)
    assert affordable(plan, plan.mix[0], IRIS) == 2048
    assert 100 < affordable(plan, plan.mix[0], image) < 300


def test_the_mix_keeps_its_weights() -> None:
    """And one answer in so many is to be checked, of the first variants."""
    pools = [variants(MixItem(model=name), n, IRIS, seed=0, count=50) for n, name in enumerate("ab")]
    endless = supply(pools, [3.0, 1.0], check_every=10, seed=0)
    drawn = [next(endless) for _ in range(8000)]
    assert sum(one.item == 0 for one, _ in drawn) / 8000 == pytest.approx(0.75, abs=0.03)
    checked = [one for one, check in drawn if check]
    assert len(checked) == 800
    known = pools[0][:32] + pools[1][:32]
    assert all(any(one is each for each in known) for one in checked)


def answer(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "model_name": "m",
        "id": "7",
        "outputs": [ModelInferResponse.InferOutputTensor(name="y", datatype="FP32", shape=[1, 2])],
        "raw_output_contents": [np.array([1, 2], "<f4").tobytes()],
    }
    return ModelInferResponse(**(fields | changes)).SerializeToString()


TENSOR = ModelInferResponse.InferOutputTensor


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        (answer(), ""),
        (answer(raw_output_contents=[np.array([1.0001, 2], "<f4").tobytes()]), ""),
        (answer(raw_output_contents=[np.array([1, 2.1], "<f4").tobytes()]), "other values"),
        (answer(id="8"), "has the id '8'"),
        (answer(model_name="n"), "'n' answered"),
        (answer(outputs=[TENSOR(name="z", datatype="FP32", shape=[1, 2])]), "outputs z"),
        (answer(outputs=[TENSOR(name="y", datatype="INT32", shape=[1, 2])]), "is INT32"),
        (answer(outputs=[TENSOR(name="y", datatype="FP32", shape=[2, 1])]), "shape"),
        (answer(raw_output_contents=[b"1"]), "malformed"),
        (b"\xff", "malformed"),
    ],
)
def test_wrong_answers_are_found(message: bytes, wrong: str) -> None:
    """Whatever is wrong with them."""
    verdict = ModelJudge("m", {"y": ("FP32", [1, -1])}, answer(id="1")).verdict(message, "7")
    assert wrong in verdict
    assert bool(verdict) == bool(wrong)


@pytest.mark.parametrize(
    ("expected", "tolerance", "body", "good"),
    [
        (None, None, b"anything", True),
        (b"a", None, b"a", True),
        (b"a", None, b"b", False),
        (b'{"y": [1.0, 2], "l": "a"}', 1e-3, b'{"y": [1.0001, 2], "l": "a", "id": 7}', True),
        (b'{"y": [1.0, 2]}', 1e-3, b'{"y": [1.1, 2]}', False),
        (b'{"y": [1.0, 2]}', 1e-3, b'{"y": [1.0]}', False),
        (b"[true]", 1e-3, b"[1]", True),
        (b"[1]", 1e-3, b"nothing", False),
    ],
)
def test_bodies_are_compared(expected: bytes | None, tolerance: float | None, body: bytes, good: bool) -> None:
    """By bytes, or as JSON whose numbers may differ a little."""
    assert (BodyJudge(expected, tolerance).verdict(body, "") == "") == good


def test_bodies_become_requests() -> None:
    """With host and length."""
    target = HttpTarget(path="/infer", bodies=[b"one", b"three"], headers={"Content-Type": "text/plain"})
    assert http_variants(target, "h:1")[1].body == (
        b"POST /infer HTTP/1.1\r\nhost: h:1\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nthree"
    )
