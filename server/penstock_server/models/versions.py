"""The versions of a model: which there are, and which of them are served.

A version is a directory whose name is a number from 1, written without leading zeros. Anything else
in a model's directory is not a version.
"""

import re
from collections.abc import Collection
from pathlib import Path

from penstock_proto.model_config_pb2 import ModelVersionPolicy
from penstock_server.models.problems import Problem

_VERSION = re.compile(r"[1-9][0-9]{0,18}")
_LARGEST = 2**63 - 1  # versions travel as int64


def parse_version(text: str) -> int | None:
    """The version that a directory's name or a request means, None if it means none."""
    if not _VERSION.fullmatch(text):
        return None
    version = int(text)
    return version if version <= _LARGEST else None


def version_directories(model_dir: Path) -> dict[int, Path]:
    """The version directories of a model, in ascending order. OSError if the folder cannot be read."""
    found = ((parse_version(entry.name), entry) for entry in model_dir.iterdir() if entry.is_dir())
    return dict(sorted((version, entry) for version, entry in found if version is not None))


def choose_versions(
    policy: ModelVersionPolicy, available: Collection[int]
) -> tuple[tuple[int, ...], tuple[Problem, ...]]:
    """The versions to be served, ascending, and what is wrong with the choice.

    Without a policy it is the latest one.
    """
    ordered = sorted(available)
    match policy.WhichOneof("policy_choice"):
        case "all":
            return tuple(ordered), ()
        case "specific":
            wanted = sorted(version for version in set(policy.specific.versions) if version > 0)
            missing = [version for version in wanted if version not in available]
            field = "version_policy.specific.versions"
            problems = [Problem(field, f"there is no directory for version {version}") for version in missing]
            return tuple(version for version in wanted if version in available), tuple(problems)
        case "latest":
            count = policy.latest.num_versions
            return tuple(ordered[-count:] if count else ()), ()
        case _:
            return tuple(ordered[-1:]), ()
