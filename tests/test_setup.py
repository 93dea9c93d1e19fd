"""What a machine needs is stated in several places; they state the same."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

from thesis_surrogates.running.doctor import PYTHONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = PYTHONS
VERSIONS = [f"3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_one_range_of_python_versions_everywhere():
    """pyproject.toml, settings.ini, set-up, doctor, README and the first page name the same oldest and newest
    version.
    """
    assert project()["requires-python"] == f">={VERSIONS[0]},<3.{NEWEST[1] + 1}"
    named = [c.rsplit(" ", 1)[1] for c in project()["classifiers"] if re.search(r"Python :: 3\.\d+$", c)]
    assert named == VERSIONS
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    assert settings["DEFAULT"]["min_python"] == VERSIONS[0]
    for page in ("README.md", "nbs/index.ipynb", ".ci/setup"):
        assert set(re.findall(r"Python (3\.\d+) to (3\.\d+)", (ROOT / page).read_text())) == {
            (VERSIONS[0], VERSIONS[-1])
        }, page


@pytest.mark.parametrize(
    "version, serves",
    [((2, 7), False), ((3, OLDEST[1] - 1), False), (OLDEST, True), (NEWEST, True), ((3, NEWEST[1] + 1), False)],
)
def test_setup_takes_the_versions_that_the_doctor_calls_good(version, serves):
    """The question that set-up asks an interpreter, asked with the version replaced."""
    question = re.search(r"-c '(import sys; sys\.exit.*?)'", (ROOT / ".ci" / "setup").read_text())[1]
    asked = f"import sys; sys.version_info = ({version[0]}, {version[1]}, 0); " + question.removeprefix("import sys; ")
    assert (subprocess.run([sys.executable, "-c", asked]).returncode == 0) is serves
    assert (OLDEST <= version <= NEWEST) is serves


def test_setup_looks_for_each_of_these_versions_newest_first():
    looked = re.search(r"^for name in (.*?); do", (ROOT / ".ci" / "setup").read_text(), re.MULTILINE)[1]
    assert looked.split()[1:] == [f"python{version}" for version in reversed(VERSIONS)]


def test_what_the_tests_need_is_in_the_development_extra():
    """`make setup` installs [dev] and nothing else, so JupyterLab must come with it."""
    extras = project()["optional-dependencies"]
    assert f"{project()['name']}[notebook]" in extras["dev"]
    assert any(name.startswith("jupyterlab") for name in extras["notebook"])
