"""What the README tells people to type works: its files are written, its commands and its Python are run, in an empty
folder.

`make demo` and `make test` are too heavy to be run inside a test (and the second would call itself): that their
targets exist and what they are made of is checked, and they are run whole by whoever clones the repository afresh.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from thesis_surrogates.running.registry import SYSTEMS

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md")
HEAVY = ("make", "pip", "git", "cd", "python3")


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """Commands of the bash blocks, as words; comments dropped, `&&` separates."""
    text = "\n".join(body for language, body in blocks(page) if language == "bash").replace("\\\n", " ")
    found = [shlex.split(part, comments=True) for line in text.splitlines() for part in line.split("&&")]
    return [words for words in found if words]


def test_readme_begins_with_the_two_commands():
    first = next(body for language, body in blocks("README.md") if language == "bash")
    assert [line.split("#")[0].split() for line in first.splitlines()] == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page):
    for words in commands(page):
        if words[0] == "make":
            done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, f"{page}: {' '.join(words)}: {done.stderr}"


def test_make_targets_named_in_tables_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}: no such target"


def test_demo_and_test_are_made_of_what_they_promise():
    demo = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for system in SYSTEMS:
        assert f"{system}/demo" in demo
        assert (ROOT / "nbs" / "experiments" / "suites" / system / "demo.yaml").is_file()
    assert all(
        f"surrogates {verb} " in demo + " " or f"surrogates {verb};" in demo
        for verb in ("data", "sweep", "report", "site")
    )
    checks = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("drift", "imports", "lint", "types", "notebooks", "pytest"):
        assert re.search(rf"\b{target}\b", checks)
    ci = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
    assert ci[-1] == "exec make test" and len(ci) == 3


def test_install_line_names_extras_that_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installs = [words for words in commands("README.md") if words[0] == "pip"]
    assert ["pip", "install", "torch==2.13.*"] in installs
    for words in installs:
        for extra in re.findall(r"\[([\w,]+)\]", " ".join(words)):
            assert set(extra.split(",")) <= set(project["optional-dependencies"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An empty folder that holds the files that the README shows: a block whose first line is `# name.yaml`."""
    folder = tmp_path_factory.mktemp("readme")
    for language, body in blocks("README.md"):
        name = re.match(r"# ([\w.-]+\.ya?ml)\n", body) if language == "yaml" else None
        if name:
            (folder / name[1]).write_text(body)
    return folder


def environment() -> dict[str, str]:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": programs, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


def test_python_of_the_readme(folder):
    """All Python blocks in order, in one process, as a reader would paste them."""
    code = "\n".join(body for language, body in blocks("README.md") if language == "python")
    assert code.count("\n") > 5
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def test_commands_of_the_readme(folder):
    """All commands but the heavy ones, in order; a run directory is named by a pattern, as a shell expands it."""
    ran = 0
    for words in commands("README.md"):
        if words[0] in HEAVY:
            continue
        line = " ".join(w if re.search(r"[*$]", w) else shlex.quote(w) for w in words)
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, env=environment(), capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
        ran += 1
    assert ran >= 4


def test_files_named_in_the_readme_exist():
    text = re.sub(r"^```.*?^```", "", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    made_later = ("outputs/", "_docs", ".venv", "data/")
    for name in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / name).exists(), f"README links to {name}, which is not there"
    for name in re.findall(r"`((?:nbs|thesis_surrogates|tests|site|benchmarks|cpp|\.ci)/[\w./-]*)`", text):
        assert (ROOT / name).exists() or name.startswith(made_later), f"README names {name}, which is not there"
