"""README, CONTRIBUTING, the changelog and the page on data are true where a machine can tell."""

from __future__ import annotations

import configparser
import re

import pytest
from notebook_form import LINE_COLUMNS, ROOT
from package_names import FOLDERS, is_there

PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "README.md", "cpp/README.md", "data/README.md")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """A section of the second level, without its title."""
    return re.split(r"^## ", text.split(f"\n## {title}", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def table_rows(text: str) -> list[tuple[str, str]]:
    """Both cells of each row of the tables with two columns, heads left out."""
    rows = re.findall(r"^ *\| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    return [row for row in rows if not row[0].startswith("0.1.0")]


def dotted_names(cell: str) -> list[str]:
    return re.findall(rf"`((?:{'|'.join(FOLDERS)})\.[\w.]+)(?:\([\w, ]*\))?`", cell)


@pytest.mark.parametrize("page", PAGES)
def test_lines_fit(page):
    """Tables may be wider."""
    long = [i for i, x in enumerate(read(page).splitlines(), 1) if len(x) > LINE_COLUMNS and not x.startswith("|")]
    assert not long, f"{page}: lines {long} have more than {LINE_COLUMNS} columns"


def test_lists_of_the_changelog_are_whole():
    """A blank line between two items of one list makes two lists of it."""
    assert not re.search(r"^(?:- |  )[^\n]*\n\n- ", read("CHANGELOG.md").replace("  |", " |"), re.MULTILINE)


def test_the_version_has_its_section_in_the_changelog():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    titles = re.findall(r"^## \[(.*?)\](.*)$", read("CHANGELOG.md"), re.MULTILINE)
    assert titles[0] == ("Unreleased", "") and titles[1][0] == settings["DEFAULT"]["version"]
    assert all(re.fullmatch(r" - \d{4}-\d\d-\d\d", date) for _, date in titles[1:])


def test_new_places_of_moved_names_are_there():
    rows = table_rows(section(read("CHANGELOG.md"), "[Unreleased]"))
    missing = [name for _, now in rows for name in dotted_names(now) if not is_there(name)]
    assert len(rows) > 30 and not missing, f"CHANGELOG sends to {missing}, which are not there"


def test_renamed_names_are_what_the_list_says():
    rows = table_rows(section(read("CONTRIBUTING.md"), "What was renamed"))
    still = [name for before, _ in rows for name in dotted_names(before) if is_there(name)]
    missing = [name for _, now in rows for name in dotted_names(now) if not is_there(name)]
    assert len(rows) > 30 and not still, f"listed as renamed, and still there: {still}"
    assert not missing, f"CONTRIBUTING sends to {missing}, which are not there; name what they are called now"


@pytest.mark.parametrize("contract", ["core", "export"])
def test_the_import_law_is_shown_as_it_is_checked(contract):
    law = configparser.ConfigParser()
    law.read(ROOT / ".importlinter")
    layers = law[f"importlinter:contract:{contract}"]["layers"].split()
    shown = re.sub(r"\s+", " ", section(read("CONTRIBUTING.md"), "The import law"))
    assert " < ".join(reversed(layers)) in shown
