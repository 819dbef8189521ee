"""Version directories and version policies."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_proto.model_config_pb2 import ModelVersionPolicy
from penstock_server.models.versions import choose_versions, parse_version, version_directories

ALL = ModelVersionPolicy(all=ModelVersionPolicy.All())


def latest(count: int) -> ModelVersionPolicy:
    return ModelVersionPolicy(latest=ModelVersionPolicy.Latest(num_versions=count))


def specific(*versions: int) -> ModelVersionPolicy:
    return ModelVersionPolicy(specific=ModelVersionPolicy.Specific(versions=versions))


@pytest.mark.parametrize(
    "text", ["0", "01", "-1", "+1", " 1", "1 ", "1.0", "v1", "", "1\n", "\u0661", "1\u0661", "1e3", str(2**63)]
)
def test_what_is_no_version(text: str) -> None:
    """Signs, leading zeros, other digits than 0 to 9, and numbers that do not fit int64 are none."""
    assert parse_version(text) is None


@given(st.integers(1, 2**63 - 1))
def test_every_positive_int64_is_a_version(version: int) -> None:
    """A version reads back as it is written."""
    assert parse_version(str(version)) == version


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 1000), unique=True, max_size=6),
    st.lists(st.sampled_from(["0", "007", "notes", "v2", ".5", "1_0"]), unique=True, max_size=4),
)
def test_only_version_directories_are_found_in_ascending_order(versions: list[int], others: list[str]) -> None:
    """By number, not by text: 10 comes after 9. Everything else in the folder is passed over."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for each in [*map(str, versions), *others]:
            (folder / each).mkdir()
        (folder / "1001").write_text("a file is no version")
        assert list(version_directories(folder).items()) == [
            (version, folder / str(version)) for version in sorted(versions)
        ]


@given(st.sets(st.integers(1, 50)), st.integers(1, 10))
def test_latest_serves_the_highest_versions(available: set[int], count: int) -> None:
    """As many as asked for, or all there are; never a problem."""
    chosen, problems = choose_versions(latest(count), available)
    assert chosen == tuple(sorted(available)[-count:])
    assert problems == ()


def test_no_policy_serves_the_latest_alone() -> None:
    """The default of the protocol."""
    assert choose_versions(ModelVersionPolicy(), {3, 10, 2}) == ((10,), ())
    assert choose_versions(ModelVersionPolicy(), ()) == ((), ())


def test_all_serves_all() -> None:
    """In ascending order."""
    assert choose_versions(ALL, {3, 10, 2}) == ((2, 3, 10), ())


def test_latest_zero_serves_none() -> None:
    """Not all of them, which a slice of the last 0 would be."""
    assert choose_versions(latest(0), {1, 2}) == ((), ())


@given(st.sets(st.integers(1, 9)), st.lists(st.integers(1, 9)))
def test_specific_serves_what_is_named_and_tells_what_is_missing(available: set[int], wanted: list[int]) -> None:
    """Every version that is named is either served or a problem, and named once."""
    chosen, problems = choose_versions(specific(*wanted), available)
    missing = sorted(set(wanted) - available)
    assert chosen == tuple(sorted(set(wanted) & available))
    assert [problem.reason for problem in problems] == [f"there is no directory for version {each}" for each in missing]
    assert {problem.field for problem in problems} <= {"version_policy.specific.versions"}
    assert all(problem.level == "error" for problem in problems)
