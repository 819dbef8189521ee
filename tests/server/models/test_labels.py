"""Label files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_proto.model_config_pb2 import ModelConfig, ModelOutput
from penstock_server.errors import LoadError
from penstock_server.models import labels
from penstock_server.models.labels import load_labels, parse_labels


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "m"
    folder.mkdir()
    return folder


def config(*filenames: str) -> ModelConfig:
    outputs = [ModelOutput(name=f"OUT{index}", label_filename=each) for index, each in enumerate(filenames)]
    return ModelConfig(name="m", output=outputs)


def refusal(config: ModelConfig, model_dir: Path) -> LoadError:
    with pytest.raises(LoadError) as caught:
        load_labels(config, model_dir)
    return caught.value


def test_labels_are_one_a_line_by_output(model_dir: Path) -> None:
    """Outputs without a file have none."""
    (model_dir / "labels.txt").write_text("cat\ndog\n\nfox with words\n")
    assert load_labels(config("labels.txt", ""), model_dir) == {"OUT0": ("cat", "dog", "", "fox with words")}


@given(st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]))))
def test_only_newlines_end_a_label(lines: list[str]) -> None:
    """Vertical tabs, Unicode line separators and the like are part of a label; a carriage return at the end is not."""
    assert parse_labels("".join(f"{line}\n" for line in lines)) == tuple(lines)
    assert parse_labels("".join(f"{line}\r\n" for line in lines)) == tuple(lines)


def test_the_last_line_need_not_end() -> None:
    """With and without a final newline it is the same."""
    assert parse_labels("a\nb") == parse_labels("a\nb\n") == ("a", "b")


def test_subfolders_and_links_within_the_model_are_fine(model_dir: Path) -> None:
    """What matters is where the file is in the end."""
    (model_dir / "data").mkdir()
    (model_dir / "data" / "real.txt").write_text("a\n")
    (model_dir / "link.txt").symlink_to("data/real.txt")
    assert load_labels(config("data/real.txt", "link.txt"), model_dir) == {"OUT0": ("a",), "OUT1": ("a",)}


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "data/../../secret", "link", "folder/secret"])
def test_no_path_leads_out_of_the_model(model_dir: Path, name: str) -> None:
    """Neither by dots, nor an absolute path, nor a symlink to a file or to a folder."""
    (model_dir.parent / "secret").write_text("x\n")
    (model_dir / "data").mkdir()
    (model_dir / "link").symlink_to(model_dir.parent / "secret")
    (model_dir / "folder").symlink_to(model_dir.parent)
    error = refusal(config(name), model_dir)
    assert str(error) == (f"m/config.pbtxt, field 'output[0].label_filename': '{name}' leads out of the folder 'm'")


def test_every_file_that_cannot_be_read_is_told(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, a folder, a link in circles, not text, too large: each with its field, in one error."""
    (model_dir / "folder").mkdir()
    (model_dir / "circle").symlink_to("circle")
    (model_dir / "latin").write_bytes(b"caf\xe9\n")
    (model_dir / "large").write_bytes(b"a" * 101)
    (model_dir / "just").write_bytes(b"a" * 100)
    monkeypatch.setattr(labels, "MAX_BYTES", 100)
    error = refusal(config("missing", "folder", "circle", "latin", "large", "just", "nul\0"), model_dir)
    assert error.file == "m/config.pbtxt"
    assert error.model == "m"
    assert error.message.splitlines() == [
        "6 problems",
        "  field 'output[0].label_filename': cannot read 'missing': No such file or directory",
        "  field 'output[1].label_filename': 'folder' is not a file",
        "  field 'output[2].label_filename': cannot read 'circle': Too many levels of symbolic links",
        "  field 'output[3].label_filename': 'latin' is not UTF-8 text: byte 3 is 0xe9",
        "  field 'output[4].label_filename': 'large' is larger than 100 bytes",
        "  field 'output[6].label_filename': embedded null byte",
    ]
