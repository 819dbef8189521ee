"""constraints.txt pins everything that comes with Penstock: an unpinned package is a build that changes by itself."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
LINES = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = dict(line.split("==") for line in LINES)
PINNED = {canonicalize_name(name): version for name, version in PINS.items()}


def named_requirements() -> list[Requirement]:
    """What pyproject.toml names: the runtime, the extras, the groups and the build."""
    project = PROJECT["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values(), PROJECT["build-system"]["requires"]]
    lists += PROJECT["dependency-groups"].values()
    return [Requirement(each) for names in lists for each in names if isinstance(each, str)]


def brought_by(requirement: Requirement) -> list[Requirement]:
    """What the installed release of it requires here, with its extras."""
    try:
        lines = requires(requirement.name) or []
    except PackageNotFoundError:
        return []
    found = [Requirement(line) for line in lines]
    return [each for each in found if each.marker is None or _applies(each.marker, requirement.extras)]


def _applies(marker: Marker, extras: set[str]) -> bool:
    return any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def test_each_line_is_one_exact_release() -> None:
    """Nothing but `name==version`: no ranges, no addresses, none twice."""
    assert [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
    assert len(PINNED) == len(LINES)


def test_each_named_requirement_allows_its_pin() -> None:
    """pyproject.toml and constraints.txt never disagree."""
    named = [each for each in named_requirements() if each.name != "penstock"]
    assert [str(each) for each in named if PINNED.get(canonicalize_name(each.name), "") not in each.specifier] == []


def test_everything_that_comes_along_is_pinned() -> None:
    """The closure over what is installed here, extras and developers' tools included."""
    waiting, seen = named_requirements(), set[tuple[str, frozenset[str]]]()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            waiting += brought_by(requirement)
    brought = {name for name, _ in seen} - {"penstock"}
    assert len(brought) > 40
    assert sorted(brought - set(PINNED)) == []


@pytest.mark.parametrize("name", ["grpcio-tools", "protobuf", "tritonclient"])
def test_the_three_that_fight_are_pinned(name: str) -> None:
    """grpcio-tools and tritonclient agree on one protobuf only; left alone, pip gives up the newest tritonclient."""
    assert name in PINNED
