"""scripts/check_wheel.py must see what is wrong with a wheel; here it looks at small ones that are wrong on purpose."""

from pathlib import Path
from zipfile import ZipFile

import pytest

from scripts import check_wheel

PACKAGES = ("penstock_proto", "penstock_scheduler", "penstock_server", "penstock_client", "penstock_bench")
INFO = "penstock-1.0.dist-info"
EXPECTED = {
    *(f"{package}/{name}" for package in PACKAGES for name in ("__init__.py", "py.typed")),
    "penstock_proto/bulk.proto",
    "penstock_server/examples/models/iris/config.pbtxt",
    "penstock_server/examples/models/iris/1/model.onnx",
}
ENTRY_POINTS = "[console_scripts]\npenstock = penstock_server.cli.main:main\n"
RIGHT = {
    **dict.fromkeys(EXPECTED, ""),
    f"{INFO}/METADATA": "",
    f"{INFO}/RECORD": "",
    f"{INFO}/entry_points.txt": ENTRY_POINTS,
    f"{INFO}/licenses/LICENSE": "",
}


def problems(folder: Path, files: dict[str, str], expected: set[str] = EXPECTED) -> list[str]:
    """What the script says of a wheel with these files."""
    wheel = folder / "penstock-1.0-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return check_wheel.problems(wheel, expected)


def test_a_right_wheel_has_no_problems(tmp_path: Path) -> None:
    """The five packages, to the file, with the licence and the command."""
    assert problems(tmp_path, RIGHT) == []


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_file_that_was_forgotten_is_missed(tmp_path: Path, name: str) -> None:
    """Whatever lies in a package's folder belongs in the wheel."""
    files = {each: text for each, text in RIGHT.items() if each != name}
    assert f"{name} is missing" in problems(tmp_path, files)


@pytest.mark.parametrize("name", ["tests/test_layers.py", "server/penstock_server/app.py", "penstock_server/old.py"])
def test_a_file_too_many_is_found(tmp_path: Path, name: str) -> None:
    """Tests, other folders and leftovers do not."""
    assert problems(tmp_path, RIGHT | {name: ""}) == [f"{name} does not belong in it"]


@pytest.mark.parametrize("name", ["penstock_bench/py.typed", "penstock_server/examples/models/iris/1/model.onnx"])
def test_what_the_repository_lost_is_missed_too(tmp_path: Path, name: str) -> None:
    """A type marker or the only example model may not vanish from both sides unnoticed."""
    files = {each: text for each, text in RIGHT.items() if each != name}
    (problem,) = problems(tmp_path, files, EXPECTED - {name})
    assert problem.startswith("nothing in it is penstock_")


def test_a_wheel_without_its_licence_is_found(tmp_path: Path) -> None:
    """The licence travels with every copy."""
    files = {name: text for name, text in RIGHT.items() if not name.endswith("LICENSE")}
    assert problems(tmp_path, files) == ["nothing in it is penstock-*.dist-info/licenses/LICENSE"]


@pytest.mark.parametrize("text", ["", "[console_scripts]\npenstock = penstock_server.cli:main\n"])
def test_a_wheel_without_the_command_is_found(tmp_path: Path, text: str) -> None:
    """Installing it gives `penstock`, and nothing else under that name."""
    (problem,) = problems(tmp_path, RIGHT | {f"{INFO}/entry_points.txt": text})
    assert "no console script" in problem


def test_the_packages_files_are_found_without_byte_code(tmp_path: Path) -> None:
    """What is expected is what lies in the five folders, data files too, less what Python leaves there."""
    for name in ("server/penstock_server/a.py", "server/penstock_server/x/b.onnx", "bench/penstock_bench/py.typed"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    byte_code = tmp_path / "server/penstock_server/__pycache__/a.cpython-311.pyc"
    byte_code.parent.mkdir()
    byte_code.touch()
    (tmp_path / "server/stray.py").touch()
    found = check_wheel.package_files(tmp_path)
    assert found == {"penstock_server/a.py", "penstock_server/x/b.onnx", "penstock_bench/py.typed"}


def test_this_repository_has_the_five_packages() -> None:
    """The script looks where the packages are."""
    found = check_wheel.package_files(check_wheel.REPOSITORY)
    assert {name.partition("/")[0] for name in found} == set(PACKAGES)
