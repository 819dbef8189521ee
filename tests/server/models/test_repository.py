"""Repositories and single model files on disk."""

import os
from pathlib import Path

import pytest

from penstock_server import examples
from penstock_server.errors import LoadError
from penstock_server.models import repository
from penstock_server.models.repository import ModelSource, scan, single_file


def write(root: Path, *paths: str, config: str | None = None) -> Path:
    """Make empty files, and a configuration in the first one's model folder."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    if config is not None:
        folder = root / paths[0].split("/")[0]
        folder.mkdir(exist_ok=True)
        (folder / "config.pbtxt").write_text(config)
    return root


def only(root: Path) -> ModelSource:
    (source,) = scan(root).models.values()
    return source


def texts(source: ModelSource) -> list[str]:
    return [str(problem) for problem in source.problems]


def test_a_model_without_configuration(tmp_path: Path) -> None:
    """The name is the folder's, the backend is told by the file, the version is the latest."""
    source = only(write(tmp_path, "net/1/model.onnx", "net/2/model.onnx"))
    assert (source.name, source.path, source.problems) == ("net", tmp_path / "net", ())
    assert source.versions == {2: tmp_path / "net/2/model.onnx"}
    config = source.config
    assert (config.name, config.backend, config.platform) == ("net", "onnxruntime", "onnxruntime_onnx")
    assert config.default_model_filename == "model.onnx"
    assert not config.input


def test_a_model_with_configuration(tmp_path: Path) -> None:
    """What is written is kept; the policy says which versions are served."""
    text = 'backend: "python" version_policy { specific { versions: [1, 3] } } default_model_filename: "code.py"'
    source = only(write(tmp_path, "m/1/code.py", "m/2/code.py", "m/3/code.py", config=text))
    assert source.problems == ()
    assert list(source.versions.items()) == [(1, tmp_path / "m/1/code.py"), (3, tmp_path / "m/3/code.py")]
    assert source.config.version_policy.specific.versions == [1, 3]


def test_a_large_onnx_model_is_a_folder(tmp_path: Path) -> None:
    """The model lies in it under the same name, next to its weights."""
    source = only(write(tmp_path, "m/1/model.onnx/model.onnx", "m/1/model.onnx/weights.bin"))
    assert source.versions == {1: tmp_path / "m/1/model.onnx/model.onnx"}
    assert source.problems == ()


def test_good_models_go_on_beside_bad_ones(tmp_path: Path) -> None:
    """A repository is read whole, whatever is in it; hidden folders and files are no models."""
    write(tmp_path, "good/1/model.onnx", "also.good/1/model.py", ".git/1/model.onnx", "README.md", "empty/.keep")
    write(tmp_path, "broken/1/model.onnx", config="][")
    models = scan(tmp_path).models
    assert list(models) == ["also.good", "broken", "empty", "good"]
    assert [name for name, source in models.items() if not source.errors] == ["also.good", "good"]
    assert models["broken"].versions == {}


def test_everything_wrong_with_a_model_is_told_with_its_file(tmp_path: Path) -> None:
    """Name, tensors and versions: one scan tells all."""
    text = 'name: "other"\nmax_batch_size: -1\nbackend: "python"\nversion_policy { specific { versions: [1, 7] } }'
    source = only(write(tmp_path, "m/1/model.py", config=text))
    assert texts(source) == [
        "m/config.pbtxt, field 'name': 'other' differs from the folder's name 'm'",
        "m/config.pbtxt, field 'max_batch_size': must be 0 (no batching) or more, not -1",
        "m/config.pbtxt, field 'version_policy.specific.versions': there is no directory for version 7",
    ]
    assert source.errors == list(source.problems)
    assert source.versions == {}


def test_a_models_own_folder_is_no_repository(tmp_path: Path) -> None:
    """An easy mistake, of which its version directories would make a riddle."""
    write(tmp_path, "m/1/model.py", config='backend: "python"')
    with pytest.raises(LoadError) as caught:
        scan(tmp_path / "m")
    assert str(caught.value) == f"{tmp_path / 'm'}: this is one model's folder; give its parent"


def test_warnings_keep_no_model_from_loading(tmp_path: Path) -> None:
    """They are among the problems, not among the errors."""
    text = "model_transaction_policy { decoupled: true }"
    source = only(write(tmp_path, "m/1/model.py", config=text))
    assert [problem.level for problem in source.problems] == ["warning"]
    assert source.errors == []
    assert source.versions == {1: tmp_path / "m/1/model.py"}


@pytest.mark.parametrize(
    ("paths", "config", "problem"),
    [
        (["m/README"], None, "m: neither a config.pbtxt nor a version directory with a model"),
        (
            ["m/1/weights.bin"],
            None,
            "m, field 'backend': not given, and neither model.onnx nor model.py is in the version directory; "
            "name one, such as 'onnxruntime' or 'python'",
        ),
        (["m/x"], 'backend: "python"', "m: has no version directory, such as '1'"),
        (["m/01/model.py"], 'backend: "python"', "m: has no version directory, such as '1'"),
        (["m/1/other.py"], 'backend: "python"', "m/1/model.py: version 1 has no model file"),
        (
            ["m/1/model.plan"],
            'platform: "tensorrt_plan"',
            "m/config.pbtxt, field 'platform': no backend is known for 'tensorrt_plan'; "
            "name one, such as 'onnxruntime' or 'python'",
        ),
        (
            ["m/1/model.plan"],
            'default_model_filename: "model.plan"',
            "m/config.pbtxt, field 'default_model_filename': 'model.plan' tells no backend; "
            "name one, such as 'onnxruntime' or 'python'",
        ),
        (
            ["m/1/model.py"],
            'default_model_filename: "../../m/1/model.py"',
            "m/config.pbtxt, field 'default_model_filename': '../../m/1/model.py' must be 1 to 128 of the characters "
            "A-Z a-z 0-9 . _ - and must not begin with a dot",
        ),
        (
            ["m/1/model.py"],
            'backend: "python"\nmax_batch_sise: 3',
            "m/config.pbtxt, field 'max_batch_sise': line 2: ModelConfig has no field 'max_batch_sise', "
            "did you mean 'max_batch_size'?",
        ),
        (
            ["m m/1/model.py"],
            None,
            "m m: the folder's name must be 1 to 128 of the characters A-Z a-z 0-9 . _ - and must not begin with a dot",
        ),
    ],
)
def test_each_problem_names_file_field_and_reason(
    tmp_path: Path, paths: list[str], config: str | None, problem: str
) -> None:
    """The operator reads what to change, and where."""
    source = only(write(tmp_path, *paths, config=config))
    assert texts(source) == [problem]
    assert source.errors


def test_a_configuration_that_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are not UTF-8, and files beyond the bound, are problems of their model."""
    write(tmp_path, "latin/1/model.py", "large/1/model.py")
    (tmp_path / "latin/config.pbtxt").write_bytes(b'name: "caf\xe9"')
    (tmp_path / "large/config.pbtxt").write_text("#" * 101)
    monkeypatch.setattr(repository, "MAX_CONFIG_BYTES", 100)
    models = scan(tmp_path).models
    assert texts(models["latin"]) == ["latin/config.pbtxt: 'config.pbtxt' is not UTF-8 text: byte 10 is 0xe9"]
    assert texts(models["large"]) == ["large/config.pbtxt: 'config.pbtxt' is larger than 100 bytes"]


def test_no_symlink_leads_out_of_the_repository(tmp_path: Path) -> None:
    """Neither a model's folder, nor its configuration, nor a version, nor a model file."""
    outside = write(tmp_path / "outside", "m/1/model.onnx", config='name: "m"') / "m"
    root = write(tmp_path / "root", "config/1/model.onnx", "file/1/x", "version/x")
    (root / "folder").symlink_to(outside)
    (root / "config/config.pbtxt").symlink_to(outside / "config.pbtxt")
    (root / "version/1").symlink_to(outside / "1")
    (root / "file/1/model.onnx").symlink_to(outside / "1/model.onnx")
    models = scan(root).models
    assert texts(models["folder"]) == ["folder: a symlink leads out of the repository"]
    assert texts(models["config"]) == ["config/config.pbtxt: 'config.pbtxt' leads out of the folder 'config'"]
    assert texts(models["version"]) == ["version/1/model.onnx: a symlink leads out of the repository"]
    assert texts(models["file"]) == ["file/1/model.onnx: a symlink leads out of the repository"]


def test_symlinks_within_the_repository_are_fine(tmp_path: Path) -> None:
    """So Kubernetes mounts a volume: every name is a link into a hidden folder beside it. The root may be one too."""
    root = write(tmp_path / "real", ".data/m/1/model.onnx")
    (root / "m").symlink_to(".data/m")
    (tmp_path / "root").symlink_to(root)
    source = only(tmp_path / "root")
    assert source.problems == ()
    assert source.versions == {1: tmp_path / "root/m/1/model.onnx"}


def test_a_link_that_leads_nowhere_is_a_problem(tmp_path: Path) -> None:
    """It is not the same as no configuration."""
    root = write(tmp_path, "m/1/model.onnx")
    (root / "m/config.pbtxt").symlink_to("gone")
    assert texts(only(root)) == ["m/config.pbtxt: cannot read 'config.pbtxt': No such file or directory"]


def test_a_configuration_that_is_a_pipe_does_not_block(tmp_path: Path) -> None:
    """Only regular files are read."""
    root = write(tmp_path, "m/1/model.onnx")
    os.mkfifo(root / "m/config.pbtxt")
    assert texts(only(root)) == ["m/config.pbtxt: 'config.pbtxt' is not a file"]


def test_no_repository(tmp_path: Path) -> None:
    """A missing root and one that is a file are errors; an empty one is an empty repository."""
    (tmp_path / "file").touch()
    for name, reason in (("missing", "No such file or directory"), ("file", "Not a directory")):
        with pytest.raises(LoadError) as caught:
            scan(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: cannot read the model repository: {reason}"
    (tmp_path / "empty").mkdir()
    assert scan(tmp_path / "empty").models == {}


def test_a_single_file(tmp_path: Path) -> None:
    """It is version 1 of a model that is called as the file is, as far as names go."""
    path = write(tmp_path, "my model.v2.onnx") / "my model.v2.onnx"
    source = single_file(path)
    assert (source.name, source.path, source.versions) == ("my_model.v2", tmp_path, {1: path})
    assert (source.config.name, source.config.backend) == ("my_model.v2", "onnxruntime")
    assert source.problems == ()


def test_what_is_no_single_file(tmp_path: Path) -> None:
    """A missing file, a folder, a file of another kind."""
    write(tmp_path, "code.py", "folder.onnx/x")
    for name, reason in (
        ("missing.onnx", "no such model file"),
        ("folder.onnx", "no such model file"),
        ("code.py", "a single model file is an ONNX model, *.onnx"),
    ):
        with pytest.raises(LoadError) as caught:
            single_file(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {reason}"


def test_the_examples_are_a_good_repository() -> None:
    """What is shipped loads without a word."""
    models = scan(examples.REPOSITORY).models
    assert models
    for source in models.values():
        assert source.problems == ()
        assert source.versions
