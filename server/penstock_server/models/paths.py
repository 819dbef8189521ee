"""Reading files that a configuration names, and nothing else.

A path from a configuration may lead anywhere: `../../etc`, an absolute path, a symlink. So a path is
resolved first, must then lie inside the folder it belongs to, and be a regular file of bounded size
(a pipe would block, a device never ends).
"""

import os
from pathlib import Path


def inside(path: Path, folder: Path) -> bool:
    """Whether a path, with all symlinks followed, exists and lies in `folder` or is it."""
    try:
        return resolve(path).is_relative_to(resolve(folder))
    except (OSError, ValueError):
        return False


def resolve(path: Path) -> Path:
    """The real path. OSError if it does not exist or its symlinks go in circles."""
    return Path(os.path.realpath(path, strict=True))


def read_inside(folder: Path, name: str, limit: int) -> bytes:
    """The content of the file `name` in `folder`. ValueError if it cannot be read or has more than `limit` bytes."""
    try:
        path = resolve(folder / name)
        if not path.is_relative_to(resolve(folder)):
            raise ValueError(f"'{name}' leads out of the folder '{folder.name}'")
        if not path.is_file():
            raise ValueError(f"'{name}' is not a file")
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ValueError(f"cannot read '{name}': {error.strerror}") from None
    if len(content) > limit:
        raise ValueError(f"'{name}' is larger than {limit} bytes")
    return content


def read_text_inside(folder: Path, name: str, limit: int) -> str:
    """The same as UTF-8 text."""
    try:
        return read_inside(folder, name, limit).decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"'{name}' is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        ) from None
