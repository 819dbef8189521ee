"""The documentation as far as a machine can read it: links lead somewhere, and options are those there are.

What is an option is read from `penstock <command> --help`, as a user would.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock_server.cli.main import run

REPOSITORY = Path(__file__).parent.parent
PAGES = sorted(
    page
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "proto/**/*.md",
        "server/**/*.md",
        "clients/**/*.md",
        "bench/**/*.md",
        "tests/**/*.md",
    )
    for page in REPOSITORY.glob(pattern)
)
COMMANDS = (
    "serve",
    "check",
    "infer",
    "simulate",
    "bench load",
    "bench peers",
    "bench report",
    "bench profile",
    "bench abuse",
    "demo",
    "version",
)
REFERENCE = REPOSITORY / "docs" / "reference" / "command-line.md"
# The pages for users, where an option that stands alone is one of Penstock's.
MANUAL = [page for page in PAGES if page.parent == REPOSITORY or page.is_relative_to(REPOSITORY / "docs")]

_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def ids(page: object) -> str:
    """A page as its path in the repository."""
    return str(page.relative_to(REPOSITORY)) if isinstance(page, Path) else str(page)


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """The long options of each command, from its help."""
    return {command: set(_OPTION.findall(_option_column(command))) for command in COMMANDS}


def _option_column(command: str) -> str:
    """The part of the help's tables in which options stand; descriptions mention options of others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        shown = _help(command)
    rows = re.findall(r"^[│|] +(?:\* +)?((?:--?[a-z0-9-]+ +)+)", shown, re.MULTILINE)
    return "\n".join(rows)


def _help(command: str) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert run([*command.split(), "--help"]) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue())  # colours, where the environment forces them


def _anchors(page: Path) -> set[str]:
    """What a link may have behind its `#`, by the rule that GitHub makes anchors of headings by."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    texts = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}


def _broken(page: Path) -> Iterator[str]:
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue  # somebody else's
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            yield f"{link}: there is no such file"
        elif anchor and anchor not in _anchors(target):
            yield f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there, and a heading that is in it."""
    assert list(_broken(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_have_the_options_they_are_shown_with(page: Path, options: dict[str, set[str]]) -> None:
    """A command line in the documentation can be typed as it stands."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for command, rest in re.findall(r"\bpenstock ((?:bench )?\w+)([^`\n]*)", text):
        if command in options:
            unknown = set(_OPTION.findall(rest.partition(" # ")[0])) - options[command] - {"--help"}
            assert not unknown, f"penstock {command} has no {unknown}"


@pytest.mark.parametrize("page", MANUAL, ids=ids)
def test_options_in_prose_exist(page: Path, options: dict[str, set[str]]) -> None:
    """An option that is named by itself is one of some command."""
    known = set().union(*options.values())
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    named = {option for code in _CODE.findall(prose) for option in _OPTION.findall(code)}
    assert named - known == set()


@pytest.mark.parametrize(
    "command", ["serve", "check", "infer", "simulate", "bench load", "bench peers", "bench report", "bench profile", "bench abuse"]
)
def test_the_reference_lists_every_option(command: str, options: dict[str, set[str]]) -> None:
    """The table of a command has all its options and no others."""
    section = REFERENCE.read_text(encoding="utf-8").split(f"\n## penstock {command}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`-[^|]*)\|", section, re.MULTILINE)
    assert {option for row in rows for option in _OPTION.findall(row)} == options[command] - {"--help"}


def test_the_reference_names_the_variable_of_every_option() -> None:
    """Each option of `serve` stands beside its own variable."""
    section = REFERENCE.read_text(encoding="utf-8").split("\n## penstock serve\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(--[a-z-]+)`[^|]*\| `(\w+)` \|", section, re.MULTILINE)
    assert rows
    for option, variable in rows:
        assert variable == "PENSTOCK_" + option.removeprefix("--").replace("-", "_").upper()


def test_every_page_is_reached() -> None:
    """Each page of `docs` is linked from another one."""
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in _LINK.findall(page.read_text(encoding="utf-8"))
    }
    assert [ids(page) for page in PAGES if page.is_relative_to(REPOSITORY / "docs") and page not in linked] == []
