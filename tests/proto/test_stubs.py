"""The committed stubs are what scripts/gen_proto.py makes of the `.proto` files, and the script sees when not."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from penstock_proto import health_pb2, model_config_pb2, open_inference_pb2, reflection_v1_pb2, reflection_v1alpha_pb2
from penstock_proto.pool import POOL
from scripts import gen_proto

STUBS = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
SMALL = 'syntax = "proto3";\npackage small;\nmessage Small { string text = 1; }\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A proto folder with one small file and its fresh stubs."""
    folder = tmp_path / gen_proto.PACKAGE
    folder.mkdir()
    (folder / "small.proto").write_text(SMALL)
    fresh = gen_proto.generate(tmp_path)
    gen_proto.write(gen_proto.stale_stubs(fresh, tmp_path), fresh, tmp_path)
    return tmp_path


def changes(root: Path) -> list[str]:
    """The names of the stubs that the script would change."""
    return [path.name for path in gen_proto.stale_stubs(gen_proto.generate(root), root)]


def test_the_committed_stubs_are_up_to_date() -> None:
    """What CI calls; the output names nothing."""
    command = [sys.executable, "scripts/gen_proto.py", "--check"]
    result = subprocess.run(command, cwd=gen_proto.ROOT.parent, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_writing_makes_four_stubs_for_a_file(root: Path) -> None:
    """Messages and services, code and types; after that there is nothing to do."""
    assert {path.name for path in root.rglob("*_pb2*")} == {f"small{ending}" for ending in STUBS}
    assert changes(root) == []


def test_a_changed_proto_file_makes_its_stubs_stale(root: Path) -> None:
    """Here a field was renamed: the code of messages and its types differ, the service stubs do not."""
    (root / gen_proto.PACKAGE / "small.proto").write_text(SMALL.replace("text", "words"))
    assert changes(root) == ["small_pb2.py", "small_pb2.pyi"]


@pytest.mark.parametrize("ending", STUBS)
def test_an_edited_or_missing_stub_is_stale(root: Path, ending: str) -> None:
    """Each of the four is looked at, and writing restores it."""
    stub = root / gen_proto.PACKAGE / f"small{ending}"
    right = stub.read_text()

    stub.write_text(right + "\n")
    assert changes(root) == [stub.name]
    stub.unlink()
    assert changes(root) == [stub.name]

    fresh = gen_proto.generate(root)
    gen_proto.write(gen_proto.stale_stubs(fresh, root), fresh, root)
    assert stub.read_text() == right


def test_stubs_without_a_proto_file_are_stale_and_removed(root: Path) -> None:
    """Else a removed message would live on in the package."""
    folder = root / gen_proto.PACKAGE
    for ending in STUBS:
        shutil.copy(folder / f"small{ending}", folder / f"gone{ending}")
    assert changes(root) == [f"gone{ending}" for ending in STUBS]

    fresh = gen_proto.generate(root)
    gen_proto.write(gen_proto.stale_stubs(fresh, root), fresh, root)
    assert sorted(path.name for path in folder.glob("gone*")) == []


def test_a_stub_that_names_no_pool_is_an_error() -> None:
    """If protoc ever writes it otherwise, the stub must not land in the default pool unnoticed."""
    with pytest.raises(ValueError, match="adapt POOL_REPLACEMENTS"):
        gen_proto.use_own_pool("from google.protobuf import another_way\n")


@pytest.mark.parametrize(
    "stubs", [health_pb2, model_config_pb2, open_inference_pb2, reflection_v1_pb2, reflection_v1alpha_pb2]
)
def test_every_stub_is_in_our_pool(stubs: ModuleType) -> None:
    """Server reflection can only show what is in the pool that it is given."""
    file = stubs.DESCRIPTOR
    assert file.pool is POOL
    assert POOL.FindFileByName(file.name) is file


def test_every_stub_imports_without_a_warning() -> None:
    """In a fresh interpreter where warnings are errors, each module alone: it must bring what it needs."""
    modules = sorted(path.stem for path in (gen_proto.ROOT / gen_proto.PACKAGE).glob("*_pb2*.py"))
    assert len(modules) == 10
    program = f"from importlib import import_module\nfor name in {modules}: import_module('penstock_proto.' + name)"
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
