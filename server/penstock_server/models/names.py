"""Names: which are allowed for a model, and how backends, platforms and model files are called.

A model's name comes from clients too and ends up in logs, metrics and paths. So it is held to an
allowlist, and no layer below needs to wonder. The same goes for a backend's name, which chooses
what code is run, and for the model file's, which is opened.

A configuration names its backend in up to three ways: `backend`, the older `platform`, or by the
name of the model file. `name_backend` makes them agree.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from penstock_proto.model_config_pb2 import ModelConfig

NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")
"""To be used with `fullmatch`."""
NAME_RULE = "must be 1 to 128 of the characters A-Z a-z 0-9 . _ - and must not begin with a dot"


@dataclass(frozen=True, slots=True)
class BackendNames:
    """How the configurations of one backend call things."""

    platform: str
    """Older configurations name it instead of the backend; empty if there is no such name."""
    filename: str
    """The model file in a version directory, unless `default_model_filename` says otherwise."""

    @property
    def suffix(self) -> str:
        return self.filename[self.filename.rindex(".") :]


BACKENDS = {
    "onnxruntime": BackendNames("onnxruntime_onnx", "model.onnx"),
    "python": BackendNames("", "model.py"),
}
"""In the order in which they are tried on a version directory that holds files of several."""


def fitting_name(text: str) -> str:
    """The text made into an allowed name: `my model` becomes `my_model`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".")[:128] or "model"


def guess_backend(config: ModelConfig, files: Collection[str] = ()) -> str:
    """The backend that a configuration means, given the names of the files in a version directory.

    Empty if neither tells it. A platform or file name that is given and not known is not overruled
    by the files: the operator meant something else.
    """
    if config.backend:
        return config.backend
    for backend, names in BACKENDS.items():
        if config.platform:
            if config.platform == names.platform:
                return backend
        elif config.default_model_filename:
            if config.default_model_filename.endswith(names.suffix):
                return backend
        elif names.filename in files:
            return backend
    return ""


def name_backend(config: ModelConfig, files: Collection[str] = ()) -> None:
    """Fill in backend, platform and model file name where they are missing and can be told."""
    config.backend = guess_backend(config, files)
    if (names := BACKENDS.get(config.backend)) is None:
        return
    config.platform = config.platform or names.platform
    config.default_model_filename = config.default_model_filename or names.filename
