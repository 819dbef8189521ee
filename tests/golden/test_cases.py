"""The comparison itself: what it takes for equal, and that it tells apart what looks alike."""

import numpy as np
import pytest

from penstock_proto import byte_tensors
from penstock_proto import open_inference_pb2 as pb
from tests.golden.cases import SERVICE, Json, Observation, Reply, Step, show

INFER = f"/{SERVICE}/ModelInfer"


def _shown(datatype: str, raw: bytes, *shape: int) -> Json:
    """The golden form of a tensor."""
    output = pb.ModelInferResponse.InferOutputTensor(name="OUT", datatype=datatype, shape=shape)
    response = pb.ModelInferResponse(outputs=[output], raw_output_contents=[raw])
    answer = show(INFER, response.SerializeToString())
    assert isinstance(answer, dict)
    assert isinstance(answer["outputs"], list)
    tensor = answer["outputs"][0]
    assert isinstance(tensor, dict)
    return tensor["raw"]


@pytest.mark.parametrize(
    ("datatype", "raw", "elements"),
    [
        ("BOOL", b"\x01\x00", [True, False]),
        ("FP32", np.array([0.1, np.nan, -np.inf], "<f4").tobytes(), [0.10000000149011612, "nan", "-inf"]),
        ("BF16", b"\x80\x3f", [16256]),
        ("BYTES", byte_tensors.pack([b"\x00\xff", b""]), ["\x00ÿ", ""]),
        ("UINT8", b"", []),
    ],
)
def test_shows_elements_as_the_golden_file_does(datatype: str, raw: bytes, elements: list[Json]) -> None:
    """Numbers as JSON has them, what is no finite number as text, bytes as latin-1, BF16 as its bits."""
    assert _shown(datatype, raw, len(elements)) == elements


def test_shows_a_long_tensor_as_a_hash() -> None:
    """64 elements are shown, 65 are hashed."""
    assert _shown("UINT8", bytes(64), 64) == [0] * 64
    assert _shown("UINT8", bytes(65), 65) == "65 elements, sha256 98ce42deef51d402"


def test_leaves_times_out_of_statistics() -> None:
    """Durations and the time of the last inference are no facts about a server."""
    duration = pb.StatisticDuration(count=2, ns=12345)
    model = pb.ModelStatistics(name="m", last_inference=1, inference_stats=pb.InferStatistics(success=duration))
    answer = show(f"/{SERVICE}/ModelStatistics", pb.ModelStatisticsResponse(model_stats=[model]).SerializeToString())
    assert answer == {"model_stats": [{"name": "m", "inference_stats": {"success": {"count": "2"}}}]}


def _alike(expected: str, details: str) -> bool:
    """Whether a golden text fits a given one."""
    observation = Observation("INTERNAL", expected, None)
    return Step("ModelInfer", (), (), observation).observe(Reply("INTERNAL", details, ())).text() == observation.text()


@pytest.mark.parametrize(
    ("expected", "details", "alike"),
    [
        ("input '<one>' is bad.", "input 'B' is bad.", True),
        ("input '<one>' is bad.", "input 'B' is bad!", False),
        ("at <stack>", "at line 1\nline 2", True),
        ("[request id: <id_unknown>] no", "[request id: 7] no", False),
        ("got ['A','B'] only", "got ['B','A'] only", True),
        ("got ['A','B'] only", "got ['B','C'] only", False),
        ("shape [2,1]", "shape [1,2]", False),
    ],
)
def test_compares_texts(expected: str, details: str, alike: bool) -> None:
    """Placeholders stand for some text, lists of names have no order, and everything else is to the letter."""
    assert _alike(expected, details) is alike


@pytest.mark.parametrize(("one", "other"), [(0.0, -0.0), (1, True), (1, 1.0), ([1], 1), ("1", 1)])
def test_tells_apart_what_python_calls_equal(one: Json, other: Json) -> None:
    """Bits and types count."""
    assert Observation("OK", "", one).text() != Observation("OK", "", other).text()


def test_an_answer_that_should_not_be_there_is_seen() -> None:
    """A second response to a unary call, or one beside a failure, is a difference."""
    live = pb.ServerLiveResponse(live=True).SerializeToString()
    step = Step("ServerLive", (b"",), (), Observation("OK", "", {"live": True}))
    assert step.observe(Reply("OK", "", (live,))) == step.expected
    assert step.observe(Reply("OK", "", (live, live))) != step.expected
    assert step.observe(Reply("OK", "", ())) != step.expected
