"""A model repository in Triton's layout, as it lies on disk.

    repository/
      addsub/                 the model's name
        config.pbtxt          may be missing: everything is then the model's own
        labels.txt            named by the configuration
        1/model.onnx          a version and its model file

Reading it never fails for the sake of one bad model: each `ModelSource` carries its own problems, and
the good ones go on. Hidden folders are not models. Nothing that a symlink leads out of the repository
is read: who may write to one model's folder shall not read the rest of the machine.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from penstock_proto.model_config_pb2 import ModelConfig
from penstock_server.errors import LoadError
from penstock_server.models.config import config_problems, parse_config
from penstock_server.models.names import BACKENDS, NAME, NAME_RULE, fitting_name, name_backend
from penstock_server.models.paths import inside, read_text_inside
from penstock_server.models.problems import Problem, errors_of
from penstock_server.models.versions import choose_versions, version_directories

CONFIG = "config.pbtxt"
MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelSource:
    """One model as it lies on disk."""

    name: str
    path: Path
    """The model's directory; of a single file the directory it lies in."""
    config: ModelConfig
    """As written, with name, backend and model file name filled in. Empty if it cannot be read."""
    versions: dict[int, Path]
    """The versions to be served, ascending, each with its model file."""
    problems: tuple[Problem, ...] = ()

    @property
    def errors(self) -> list[Problem]:
        """What keeps the model from loading."""
        return errors_of(self.problems)


@dataclass(frozen=True, slots=True)
class Repository:
    """All models of a repository, good and bad, by name."""

    root: Path
    models: dict[str, ModelSource]


def scan(root: Path) -> Repository:
    """Read a repository. LoadError if there is none at `root`; what is wrong with a model is the model's own."""
    try:
        folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise LoadError(f"cannot read the model repository: {error.strerror}", file=str(root)) from None
    if (root / CONFIG).is_file():
        raise LoadError("this is one model's folder; give its parent", file=str(root))
    return Repository(root, {folder.name: _read_model(root, folder) for folder in folders})


def single_file(path: Path) -> ModelSource:
    """One ONNX file as a model: its name is the file's, made to fit, its version is 1, its configuration empty.

    LoadError if it is no such file.
    """
    names = BACKENDS["onnxruntime"]
    if not path.is_file():
        raise LoadError("no such model file", file=str(path))
    if path.suffix != names.suffix:
        raise LoadError(f"a single model file is an ONNX model, *{names.suffix}", file=str(path))
    config = ModelConfig(name=fitting_name(path.stem), backend="onnxruntime")
    name_backend(config)
    return ModelSource(config.name, path.parent, config, {1: path})


# ── one model ─────────────────────────────────────────────────────────────────────────────────────


def _read_model(root: Path, folder: Path) -> ModelSource:
    name, at = folder.name, f"{folder.name}/{CONFIG}"
    empty = ModelSource(name, folder, ModelConfig(), {})
    if not NAME.fullmatch(name):
        return replace(empty, problems=(Problem("", f"the folder's name {NAME_RULE}", file=name),))
    if not inside(folder, root):
        return replace(empty, problems=(Problem("", "a symlink leads out of the repository", file=name),))
    try:
        config = _read_config(folder)
        directories = version_directories(folder)
    except LoadError as error:
        return replace(empty, problems=(Problem(error.field, error.message, file=at),))
    except OSError as error:
        return replace(empty, problems=(Problem("", f"cannot be read: {error.strerror}", file=name),))
    if config is None and not directories:
        reason = f"neither a {CONFIG} nor a version directory with a model"
        return replace(empty, problems=(Problem("", reason, file=name),))
    return _assemble(root, folder, config, directories)


def _read_config(folder: Path) -> ModelConfig | None:
    """The configuration as written; None if there is none. LoadError if it cannot be read or parsed."""
    if not os.path.lexists(folder / CONFIG):  # a symlink that leads nowhere is a mistake, not an absence
        return None
    try:
        text = read_text_inside(folder, CONFIG, MAX_CONFIG_BYTES)
    except ValueError as error:
        raise LoadError(str(error)) from None
    return parse_config(text, file=CONFIG)


def _assemble(root: Path, folder: Path, written: ModelConfig | None, directories: dict[int, Path]) -> ModelSource:
    config = written or ModelConfig()
    at = folder.name if written is None else f"{folder.name}/{CONFIG}"
    problems: list[Problem] = []
    if config.name and config.name != folder.name:
        problems.append(Problem("name", f"'{config.name}' differs from the folder's name '{folder.name}'"))
    config.name = folder.name
    chosen, policy_problems = choose_versions(config.version_policy, directories)
    _name_backend(config, [directories[version] for version in chosen])
    problems += [*config_problems(config), *policy_problems]
    if not config.backend:
        problems.append(_no_backend(config))
    problems = [replace(problem, file=at) for problem in problems]
    if not directories:
        problems.append(Problem("", "has no version directory, such as '1'", file=folder.name))
    versions: dict[int, Path] = {}
    if not errors_of(problems):
        versions = {version: _model_file(config, directories[version]) for version in chosen}
        problems += _file_problems(root, versions)
    return ModelSource(folder.name, folder, config, versions, tuple(problems))


def _name_backend(config: ModelConfig, directories: list[Path]) -> None:
    """Fill in the backend, from the files of the newest version that is served if the configuration is silent."""
    try:
        files = [entry.name for entry in directories[-1].iterdir()] if directories else []
    except OSError:
        files = []  # the model file will be found missing
    name_backend(config, files)


def _no_backend(config: ModelConfig) -> Problem:
    known = " or ".join(f"'{backend}'" for backend in BACKENDS)
    if config.platform:
        return Problem("platform", f"no backend is known for '{config.platform}'; name one, such as {known}")
    if config.default_model_filename:
        field = "default_model_filename"
        return Problem(field, f"'{config.default_model_filename}' tells no backend; name one, such as {known}")
    files = " nor ".join(names.filename for names in BACKENDS.values())
    return Problem("backend", f"not given, and neither {files} is in the version directory; name one, such as {known}")


def _model_file(config: ModelConfig, directory: Path) -> Path:
    file = directory / config.default_model_filename
    # A large ONNX model is a folder that holds the model and its weights in files of their own.
    return file / file.name if config.backend == "onnxruntime" and file.is_dir() else file


def _file_problems(root: Path, versions: dict[int, Path]) -> Iterator[Problem]:
    for version, path in versions.items():
        shown = str(path.relative_to(root))
        if not path.exists():
            yield Problem("", f"version {version} has no model file", file=shown)
        elif not inside(path, root):
            yield Problem("", "a symlink leads out of the repository", file=shown)
