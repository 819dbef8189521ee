"""What is typed for an input, as the value that is sent: notations, the fit into a shape, and what is refused how.

Most tests go all the way to the array that travels, by the client's own conversion: `parse_input` only reads.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from penstock_client.errors import InputError
from penstock_client.tensors import converted
from penstock_proto.datatypes import DATATYPES
from penstock_server.cli.values import BadValue, Value, parse_input, split_pairs

INTEGERS = [name for name in DATATYPES if "INT" in name]
FLOATS = ["FP16", "FP32", "FP64"]


def sent(text: str, datatype: str, *shape: int) -> NDArray[Any]:
    """The array that this text becomes for an input of that datatype and shape."""
    return converted(parse_input(text, datatype, shape), DATATYPES[datatype])


def read(text: str, datatype: str, shape: Sequence[int]) -> Value | str:
    """What is read, or the message with which it is refused."""
    try:
        return parse_input(text, datatype, shape)
    except BadValue as error:
        return str(error)


def refused(text: str, datatype: str = "FP32", *shape: int) -> str:
    """The message with which it is refused."""
    message = read(text, datatype, shape)
    assert isinstance(message, str)
    return message


# ── what is typed ─────────────────────────────────────────────────────────────────────────────────


@given(st.data(), st.sampled_from(INTEGERS))
def test_whole_numbers_arrive_as_they_were_typed(data: st.DataObject, datatype: str) -> None:
    """Every number of an integer datatype, the extremes too, typed flat or as JSON, arrives exactly."""
    bounds = np.iinfo(DATATYPES[datatype].numpy)
    values = data.draw(st.lists(st.integers(int(bounds.min), int(bounds.max)), min_size=1, max_size=9))
    for text in (",".join(map(str, values)), json.dumps(values)):
        array = sent(text, datatype, len(values))
        assert array.dtype == bounds.dtype
        assert array.tolist() == values


@given(st.lists(st.floats(width=32), min_size=1, max_size=9), st.sampled_from(["FP32", "FP64"]))
def test_floating_point_numbers_arrive_as_they_were_typed(values: list[float], datatype: str) -> None:
    """Every float32, infinities and NaN too, typed flat or as JSON, arrives exactly."""
    for text in (",".join(map(repr, values)), json.dumps(values)):
        np.testing.assert_array_equal(sent(text, datatype, len(values)), np.array(values))


def test_whole_numbers_are_numbers() -> None:
    """Nobody has to type 1.0 for a floating-point input."""
    assert sent("1,2", "FP32", 2).tolist() == [1.0, 2.0]
    assert sent("[1, 2.5]", "FP16", 2).tolist() == [1.0, 2.5]


def test_booleans_are_typed_in_words_or_digits() -> None:
    """`true`, `False`, `1` and `0`; JSON has words of its own."""
    assert sent("true,False, 1 ,0", "BOOL", 4).tolist() == [True, False, True, False]
    assert sent("[true,false]", "BOOL", 2).tolist() == [True, False]


def test_bf16_is_rounded_to_nearest() -> None:
    """BF16 is typed as numbers; 1.01 becomes the nearest of them, 0x3F81."""
    assert sent("1,1.01,-2", "BF16", 3).tolist() == [0x3F80, 0x3F81, 0xC000]


@given(st.lists(st.text(st.characters(exclude_characters=",", exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_text_arrives_byte_for_byte(texts: list[str]) -> None:
    """Text is UTF-8, typed between commas or as JSON; zeros at its end are kept."""
    expected = [text.encode() for text in texts]
    assert sent(json.dumps(texts), "BYTES", len(texts)).tolist() == expected
    if not texts[0].startswith(("@", "[")):
        assert sent(",".join(texts), "BYTES", len(texts)).tolist() == expected


def test_text_with_commas_is_typed_as_json() -> None:
    """A comma separates; who means a comma writes JSON."""
    assert sent('["Hello, world"]', "BYTES", -1, 1).tolist() == [[b"Hello, world"]]


@given(arrays(np.int32, array_shapes(max_dims=4, max_side=3)))
def test_json_is_nested_as_the_tensor_is(array: NDArray[np.int32]) -> None:
    """Brackets say the shape, whatever the model's is: the server tells if that is wrong."""
    if array.ndim > 1:
        np.testing.assert_array_equal(sent(json.dumps(array.tolist()), "INT32", -1, -1, -1), array)


# ── a flat list in the model's shape ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "shape", "expected"),
    [
        (4, (4,), (4,)),
        (3, (4,), (3,)),  # one axis: nothing to decide, the server will tell
        (4, (-1, 4), (1, 4)),
        (8, (-1, 4), (2, 4)),
        (6, (2, 3), (2, 3)),
        (6, (-1, 2, 3), (1, 2, 3)),
        (12, (-1, 2, 3), (2, 2, 3)),
        (6, (2, -1), (2, 3)),
        (5, (-1, -1), (1, 5)),  # one row of any length
        (6, (-1, 2, -1), (1, 2, 3)),
    ],
)  # fmt: skip
def test_a_flat_list_fills_the_models_shape(values: int, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """One row if the values make one, as many as there are otherwise; the order stays."""
    flat = ",".join(map(str, range(values)))
    for text in (flat, f"[{flat}]"):
        array = sent(text, "INT32", *shape)
        assert array.shape == expected
        assert array.ravel().tolist() == list(range(values))


@given(st.integers(0, 30), st.lists(st.integers(-1, 4), min_size=2, max_size=4))
def test_a_flat_list_fits_or_is_refused(count: int, shape: list[int]) -> None:
    """Whatever the shape, the result has its fixed lengths and every value; or the remedy is told."""
    value = read(json.dumps([1] * count), "INT32", shape)
    if isinstance(value, str):
        assert "as JSON, [[…],[…]]" in value
        return
    array = np.array(value)
    assert array.size == count
    assert all(want in (-1, length) for want, length in zip(shape, array.shape, strict=True))


def test_values_that_fill_no_row_are_counted_in_the_message() -> None:
    """How many there are, what they should fill, and what to write instead."""
    message = "5 values do not fill [-1,4]; give whole rows, or nest them as JSON, [[…],[…]]"
    assert refused("1,2,3,4,5", "FP32", -1, 4) == message
    assert refused("1,2,3,4,5,6", "FP32", 2, 2).startswith("6 values do not fill [2,2]")


def test_several_free_axes_want_brackets() -> None:
    """With three axes of any length a list says nothing of its shape."""
    message = "a list of values does not tell the lengths of [-1,-1,-1]; nest it as JSON, [[…],[…]]"
    assert refused("1,2,3", "FP32", -1, -1, -1) == message


# ── files ─────────────────────────────────────────────────────────────────────────────────────────


@given(array=st.sampled_from(["<i8", "<f4", ">f4", "?"]).flatmap(lambda t: arrays(np.dtype(t), (2, 3))))
def test_an_array_in_a_file_arrives_as_it_is(tmp_path_factory: pytest.TempPathFactory, array: NDArray[Any]) -> None:
    """numpy's file format keeps shape and values, whatever its byte order."""
    file = tmp_path_factory.mktemp("npy") / "x.npy"
    np.save(file, array)
    datatype = {"i": "INT64", "f": "FP32", "b": "BOOL"}[array.dtype.kind]
    np.testing.assert_array_equal(sent(f"@{file}", datatype, -1, 3), array)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_file_format_is_read(tmp_path: Path, version: tuple[int, int]) -> None:
    """numpy writes the newer ones only where the first cannot say what it must."""
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, np.arange(3), version=version)
    assert sent(f"@{tmp_path}/x.npy", "INT64", 3).tolist() == [0, 1, 2]


def test_a_flat_array_in_a_file_is_fitted_too(tmp_path: Path) -> None:
    """One rule for what is typed and for what is in a file."""
    np.save(tmp_path / "x.npy", np.arange(8, dtype=np.float32))
    assert sent(f"@{tmp_path / 'x.npy'}", "FP32", -1, 4).shape == (2, 4)


def test_strings_in_a_file_arrive(tmp_path: Path) -> None:
    """numpy's own strings become BYTES."""
    np.save(tmp_path / "x.npy", np.array(["spring", "été"]))
    assert sent(f"@{tmp_path / 'x.npy'}", "BYTES", 2).tolist() == [b"spring", "été".encode()]


def test_json_in_a_file_arrives(tmp_path: Path) -> None:
    """The same JSON as on the command line."""
    (tmp_path / "x.json").write_text('["a, b", "ü"]', encoding="utf-8")
    assert sent(f"@{tmp_path / 'x.json'}", "BYTES", -1, 1).tolist() == [[b"a, b"], ["ü".encode()]]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Which file, and what the system says of it; a folder is no file either."""
    assert refused(f"@{tmp_path}/x.npy") == f"cannot read {tmp_path}/x.npy: No such file or directory"
    assert refused(f"@{tmp_path}") == f"cannot read {tmp_path}: Is a directory"


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00\xff\xff", b"PK\x03\x04rubbish"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    """Nothing but the .npy format is read, and the other way to give a file is told."""
    (tmp_path / "x.npy").write_bytes(content)
    message = refused(f"@{tmp_path}/x.npy")
    assert message.startswith(f"{tmp_path}/x.npy is no .npy file: ")
    assert message.endswith("(JSON is read from files that end with .json)")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    """A file of objects could run code; it is refused unread."""
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], object))
    assert "is no .npy file" in refused(f"@{tmp_path}/x.npy")


@given(
    shape=st.sampled_from([b"-1", b"99999999999999999999", b"2**40", b"4611686018427387904", b"True", b"'a'"]),
    body=st.binary(max_size=16),
)
def test_a_header_that_lies_is_refused(tmp_path_factory: pytest.TempPathFactory, shape: bytes, body: bytes) -> None:
    """Whatever a file's header claims, the end is an array or a sentence."""
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + shape + b",), }\n"
    file = tmp_path_factory.getbasetemp() / "header.npy"
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body)
    value = read(f"@{file}", "FP32", [-1, 4])
    assert not isinstance(value, str) or str(file) in value or "values do not fill" in value


@pytest.mark.parametrize("content", [b"", b"{", b'["\xff"]', b"[" * 100_000, b"[" + b"9" * 5000 + b"]"])
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    """Bad syntax, bad UTF-8, a nesting or a number without end: all are a sentence with an example."""
    (tmp_path / "x.json").write_bytes(content)
    assert refused(f"@{tmp_path}/x.json").startswith(f"{tmp_path}/x.json must be JSON, such as [[1,2],[3,4]]")


def test_json_that_is_no_list_is_refused(tmp_path: Path) -> None:
    """An object or a number is no tensor."""
    for text in ("{}", "5", "null", '"a"'):
        (tmp_path / "x.json").write_text(text)
        assert refused(f"@{tmp_path}/x.json") == f"{tmp_path}/x.json must be a JSON list, such as [[1,2],[3,4]]"


# ── what is refused ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "datatype", "message"),
    [
        ("1,x", "FP32", "'x' is no FP32; write numbers, such as 1.5,2"),
        ("", "FP64", "'' is no FP64; write numbers, such as 1.5,2"),
        ("1.5", "INT32", "'1.5' is no INT32; write whole numbers, such as 1,2"),
        ("2", "BOOL", "'2' is no BOOL; write true or false, such as true,false"),
        ("1;2", "BF16", "'1;2' is no BF16; write numbers, such as 1.5,2"),
        ("9" * 5000, "INT64", f"'{'9' * 40}' is no INT64; write whole numbers, such as 1,2"),
    ],
)
def test_an_element_of_another_kind_is_named(text: str, datatype: str, message: str) -> None:
    """The element, what it should be, and how that is written; a long one is cut."""
    assert refused(text, datatype, -1) == message


def test_brackets_that_are_no_json_are_told() -> None:
    """Text that happens to begin with a bracket gets the hint that it needs to be JSON."""
    assert refused("[draft] hello", "BYTES", 1).startswith("what begins with '[' must be JSON, such as [[1,2],[3,4]]")


@pytest.mark.parametrize(
    ("text", "datatype"),
    [
        ("128", "INT8"),
        ("-1", "UINT64"),
        (str(2**64), "INT64"),
        ("[1.5]", "INT32"),
        ("1e6", "FP16"),
        ("[null]", "FP32"),
        ("[null]", "BYTES"),
        ("[1,2]", "BYTES"),
        ('["1"]', "FP32"),
        ("[[1,2],[3]]", "INT32"),
        ('[["a"],["b","c"]]', "BYTES"),
        ('[{"a":1}]', "FP64"),
        (f"[{10**400}]", "FP32"),
    ],
)
def test_a_value_that_the_datatype_cannot_hold_is_left_to_the_client(text: str, datatype: str) -> None:
    """It is read, and refused by the one rule of conversion, without a warning or a foreign exception."""
    value = parse_input(text, datatype, [-1])
    with pytest.raises((InputError, ValueError, ArithmeticError)):
        converted(value, DATATYPES[datatype])


@given(st.text(max_size=40), st.sampled_from(list(DATATYPES)), st.lists(st.integers(-1, 3), max_size=4))
def test_whatever_is_typed_is_read_or_refused(text: str, datatype: str, shape: list[int]) -> None:
    """Nothing but BadValue comes out of any text, and it always says something."""
    if not text.startswith("@"):
        value = read(text, datatype, shape)
        assert not isinstance(value, str) or "write" in value or "JSON" in value


# ── NAME=VALUE ────────────────────────────────────────────────────────────────────────────────────


def test_pairs_split_at_the_first_equals_sign() -> None:
    """A value may hold more of them, and may be empty."""
    assert split_pairs(["a=1", "b=x=y", "c="], "--input") == {"a": "1", "b": "x=y", "c": ""}


@pytest.mark.parametrize("text", ["a", "=1", ""])
def test_what_is_no_pair_is_refused(text: str) -> None:
    """The option is named, and how it should look."""
    with pytest.raises(BadValue, match=f"--input must look like NAME=VALUE, not '{text}'"):
        split_pairs([text], "--input")


def test_a_name_that_is_given_twice_is_refused() -> None:
    """Of two values for one input neither may win in silence."""
    with pytest.raises(BadValue, match="--input x=… is given twice"):
        split_pairs(["x=1", "x=2"], "--input")
