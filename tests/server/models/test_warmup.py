"""The samples of model_warmup."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_proto import byte_tensors
from penstock_proto.datatypes import DATATYPES
from penstock_server.errors import LoadError
from penstock_server.models.completion import complete_config
from penstock_server.models.config import parse_config
from penstock_server.models.warmup import WarmupSample, warmup_samples
from penstock_server.tensors.codec import raw_of


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "m"
    (folder / "warmup").mkdir(parents=True)
    return folder


def samples(model_dir: Path, inputs: str, warmup: str, max_batch_size: int = 8) -> list[WarmupSample]:
    text = f'name: "m" backend: "python" max_batch_size: {max_batch_size} {inputs} {warmup}'
    text += 'output { name: "Y" data_type: TYPE_FP32 dims: 1 }'
    return warmup_samples(complete_config(parse_config(text, file="config.pbtxt"), None), model_dir)


def refusal(model_dir: Path, inputs: str, warmup: str, max_batch_size: int = 8) -> LoadError:
    with pytest.raises(LoadError) as caught:
        samples(model_dir, inputs, warmup, max_batch_size)
    return caught.value


def declared(datatype: str, dims: str = "[2, -1]") -> str:
    return f'input {{ name: "X" data_type: {DATATYPES[datatype].config_name} dims: {dims} }}'


def sample(datatype: str, data: str, dims: str = "[2, 3]", batch_size: int = 2) -> str:
    config_name = DATATYPES[datatype].config_name
    given = f'inputs {{ key: "X" value {{ data_type: {config_name} dims: {dims} {data} }} }}'
    return f'model_warmup {{ name: "w" batch_size: {batch_size} {given} }}'


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("data", ["zero_data: true", "random_data: true"])
def test_made_data_has_the_type_and_the_batch_axis(model_dir: Path, datatype: str, data: str) -> None:
    """All rows are the same row; the zero of BYTES is the empty string, random or not."""
    (found,) = samples(model_dir, declared(datatype), sample(datatype, data))
    array = found.inputs["X"]
    assert (found.name, found.rows, found.count) == ("w", 2, 1)
    assert array.shape == (2, 2, 3)
    assert array.dtype == np.dtype(DATATYPES[datatype].numpy)
    assert np.array_equal(array[0], array[1])
    if datatype == "BYTES":
        assert array.tolist() == [[[b""] * 3] * 2] * 2
    elif data == "zero_data: true":
        assert not array.any()


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "BYTES"])
def test_random_data_is_tame_and_the_same_each_time(model_dir: Path, datatype: str) -> None:
    """Floats in [0, 1), integers 0 or 1: as indices or lengths they harm no model. And not all the same."""
    first, second = (
        samples(model_dir, declared(datatype, "[64]"), sample(datatype, "random_data: true", "[64]"))[0].inputs["X"]
        for _ in range(2)
    )
    assert np.array_equal(first, second)
    values = first.astype(np.uint32) << 16 if datatype == "BF16" else first
    numbers = values.view(np.float32) if datatype == "BF16" else values.astype(np.float64)
    assert numbers.min() >= 0
    assert numbers.max() <= 1
    assert len(np.unique(numbers)) > 1
    if not DATATYPES[datatype].numpy.startswith("<f") and datatype != "BF16":
        assert set(np.unique(numbers)) == {0, 1}


def test_a_model_without_a_batch_axis_gets_none(model_dir: Path) -> None:
    """Its samples are one row each, in the dims as given."""
    (found,) = samples(model_dir, declared("INT32"), sample("INT32", "zero_data: true", batch_size=1), 0)
    assert (found.rows, found.inputs["X"].shape) == (1, (2, 3))


def test_samples_come_in_order_with_their_counts(model_dir: Path) -> None:
    """No count is one run; a batch size of 0 is no sample at all."""
    value = 'inputs { key: "X" value { data_type: TYPE_FP32 dims: [2, 1] zero_data: true } }'
    found = samples(
        model_dir,
        declared("FP32"),
        f'model_warmup [ {{ name: "a" batch_size: 8 count: 5 {value} }}, {{ name: "b" batch_size: 1 {value} }}, '
        f'{{ name: "none" {value} }} ]',
    )
    assert [(each.name, each.rows, each.count) for each in found] == [("a", 8, 5), ("b", 1, 1)]


@given(st.lists(st.binary(max_size=9), min_size=6, max_size=6))
def test_strings_from_a_file(tmp_path_factory: pytest.TempPathFactory, elements: list[bytes]) -> None:
    """As they travel: a length before each."""
    model_dir = tmp_path_factory.mktemp("strings") / "m"
    (model_dir / "warmup").mkdir(parents=True)
    (model_dir / "warmup" / "text").write_bytes(byte_tensors.pack(elements))
    (found,) = samples(model_dir, declared("BYTES"), sample("BYTES", 'input_data_file: "text"'))
    assert found.inputs["X"].reshape(2, -1).tolist() == [elements, elements]


def test_numbers_from_a_file(model_dir: Path) -> None:
    """Raw and little-endian; the file is one row, and what comes after it is left alone."""
    row = np.arange(6, dtype=np.int16).reshape(2, 3)
    (model_dir / "warmup" / "x").write_bytes(bytes(raw_of(row, DATATYPES["INT16"])) + b"more")
    (found,) = samples(model_dir, declared("INT16"), sample("INT16", 'input_data_file: "x"', batch_size=3))
    assert np.array_equal(found.inputs["X"], np.stack([row] * 3))


def test_optional_inputs_may_be_left_out_and_controls_are_passed_over(model_dir: Path) -> None:
    """The controls of the sequence batcher are not inputs of a request."""
    inputs = declared("FP32") + 'input { name: "O" data_type: TYPE_FP32 dims: 1 optional: true }'
    inputs += 'sequence_batching { control_input { name: "START" control { } } }'
    control = 'inputs { key: "START" value { data_type: TYPE_INT32 dims: 1 zero_data: true } }'
    value = 'inputs { key: "X" value { data_type: TYPE_FP32 dims: [2, 1] zero_data: true } }'
    (found,) = samples(model_dir, inputs, f'model_warmup {{ name: "w" batch_size: 1 {value} {control} }}')
    assert list(found.inputs) == ["X"]


WHERE = "m/config.pbtxt, field 'model_warmup[0].inputs['X']': "


@pytest.mark.parametrize(
    ("data", "dims", "reason"),
    [
        ("", "[2, 3]", "needs one of zero_data, random_data and input_data_file"),
        ("zero_data: true", "[2, -1]", "every axis needs a length, got dims [2,-1]"),
        ("zero_data: true", "[3, 3]", "the model has dims [2,-1], got [3,3]"),
        ("zero_data: true", "[2]", "the model has dims [2,-1], got [2]"),
        ("zero_data: true", "[2, 999999999]", "3999999996 elements are more than 268435456"),
        ('input_data_file: "short"', "[2, 3]", "'short' has 5 bytes, dims [2,3] of FP32 are 24"),
        ('input_data_file: "gone"', "[2, 3]", "cannot read 'gone': No such file or directory"),
        ('input_data_file: "../config.pbtxt"', "[2, 3]", "'../config.pbtxt' leads out of the folder 'warmup'"),
        ('input_data_file: "/etc/hostname"', "[2, 3]", "'/etc/hostname' leads out of the folder 'warmup'"),
        ('input_data_file: "link"', "[2, 3]", "'link' leads out of the folder 'warmup'"),
    ],
)
def test_errors_of_an_input_name_it_and_the_reason(model_dir: Path, data: str, dims: str, reason: str) -> None:
    """The operator reads which input of which sample."""
    (model_dir / "config.pbtxt").touch()
    (model_dir / "warmup" / "short").write_bytes(b"short")
    (model_dir / "warmup" / "link").symlink_to(model_dir / "config.pbtxt")
    error = refusal(model_dir, declared("FP32"), sample("FP32", data, dims))
    assert str(error) == WHERE + reason
    assert error.model == "m"


def test_a_warmup_folder_that_leads_out_of_the_model(model_dir: Path) -> None:
    """Then nothing in it is read."""
    (model_dir / "warmup").rmdir()
    (model_dir / "warmup").symlink_to(model_dir.parent)
    (model_dir.parent / "secret").write_bytes(bytes(24))
    error = refusal(model_dir, declared("FP32"), sample("FP32", 'input_data_file: "secret"'))
    assert str(error) == WHERE + "the folder 'warmup' leads out of the model's"


def test_strings_that_do_not_fit(model_dir: Path) -> None:
    """Too few of them, or one that is cut short."""
    warmup = sample("BYTES", 'input_data_file: "text"')
    (model_dir / "warmup" / "text").write_bytes(byte_tensors.pack([b"a", b"b"]))
    error = refusal(model_dir, declared("BYTES"), warmup)
    assert str(error) == WHERE + "'text' has 2 strings, dims [2,3] are 6"
    (model_dir / "warmup" / "text").write_bytes(byte_tensors.pack([b"abc"])[:-1])
    error = refusal(model_dir, declared("BYTES"), warmup)
    assert str(error) == WHERE + "the element at byte 0 is cut short"


def test_the_type_is_the_models(model_dir: Path) -> None:
    """Not any type that would fit the bytes, and not none."""
    error = refusal(model_dir, declared("FP32"), sample("INT32", "zero_data: true"))
    assert str(error) == WHERE + "the model has TYPE_FP32, got TYPE_INT32"
    nothing = 'model_warmup { name: "w" batch_size: 1 inputs { key: "X" value { dims: [2, 1] zero_data: true } } }'
    error = refusal(model_dir, declared("FP32"), nothing)
    assert str(error) == WHERE + "the model has TYPE_FP32, got TYPE_INVALID"


def test_everything_wrong_with_the_samples_is_told_at_once(model_dir: Path) -> None:
    """Inputs that do not exist, inputs that are missing, batches that are too large."""
    warmup = 'model_warmup { name: "w" batch_size: 9 inputs { key: "Q" value { } } }'
    error = refusal(model_dir, declared("FP32"), warmup + sample("FP32", ""))
    assert error.file == "m/config.pbtxt"
    assert error.message.splitlines() == [
        "4 problems",
        "  field 'model_warmup[0].batch_size': 9 is more than the model takes at once (8)",
        "  field 'model_warmup[0].inputs': the model has no input 'Q'",
        "  field 'model_warmup[0].inputs': input 'X' is missing",
        "  field 'model_warmup[1].inputs['X']': needs one of zero_data, random_data and input_data_file",
    ]
    error = refusal(model_dir, declared("FP32"), sample("FP32", "zero_data: true"), 0)
    assert str(error) == (
        "m/config.pbtxt, field 'model_warmup[0].batch_size': 2 is more than the model takes at once (1)"
    )
