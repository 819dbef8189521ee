"""The mutants themselves: they are only worth something as long as they change the code of today."""

from pathlib import Path

import pytest

from scripts.run_mutants import LISTS, load


@pytest.mark.parametrize("path", sorted(LISTS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_mutant_changes_the_code_in_one_place(path: Path) -> None:
    """A text that has moved on would make a mutant that changes nothing and survives, or one that means another."""
    mutants = load(path).mutants
    assert len({mutant.mistake for mutant in mutants}) == len(mutants) > 0


def test_a_text_that_is_not_in_the_code_is_told(tmp_path: Path) -> None:
    """Not as a survivor, which would blame the tests."""
    path = tmp_path / "some.toml"
    path.write_text(
        'folder = "scheduler"\ntests = []\n[[mutant]]\nmistake = "m"\n'
        'file = "penstock_scheduler/lanes.py"\nold = "no such text"\nnew = ""\n'
    )
    with pytest.raises(ValueError, match="occurs 0 times"):
        load(path)
